"""Checks and speeds of the GPU paths, in the order of what they tell, within a given time."""

import time

#: When the command started, by `time.monotonic`: this module is imported before any other.
START = time.monotonic()
