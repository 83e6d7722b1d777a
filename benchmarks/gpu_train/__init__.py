"""Training of CIFAR-10 on a GPU, by the library's own trainers, within a given time."""

import time

#: When the command started, by `time.monotonic`: this module is imported before any other.
START = time.monotonic()
