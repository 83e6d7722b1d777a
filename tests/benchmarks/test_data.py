"""`python -m benchmarks data`: what it says of the rates that it has measured."""

import pytest

from benchmarks.data import verdict

ONE, TWO = "decoding and cropping, one worker", "decoding and cropping, 2 workers"
STEP = "training step, images in memory"


@pytest.mark.parametrize(
    ("rates", "workers", "said"),
    [({ONE: 100, STEP: 90}, 1, "The step limits. 1 of 1 workers are enough."),
     ({ONE: 100, TWO: 190, STEP: 150}, 2, "The step limits. 2 of 2 workers are enough."),
     ({ONE: 100, TWO: 190, STEP: 950}, 2, "Reading limits. With 10 workers, each on a core")],
)  # fmt: skip
def test_the_slower_of_reading_and_training_is_named(rates, workers, said):
    assert verdict(rates, workers).startswith(said)
