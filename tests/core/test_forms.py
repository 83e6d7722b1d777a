"""Which form computes a loss, and how large its tiles are."""

import math

import pytest

from fmicl_core.forms import (
    DENSE_PAIRS,
    TILE,
    WITH_FUSED,
    check_implementation,
    choose_form,
    tile_size,
)

SIDE = math.isqrt(DENSE_PAIRS)


@pytest.mark.parametrize("fused", [False, True])
def test_auto_goes_by_the_number_of_pairs(fused):
    assert choose_form("auto", SIDE, SIDE, fused) == "dense"
    for n, k in ((SIDE, SIDE + 1), (None, SIDE), (SIDE, None)):
        assert choose_form("auto", n, k, fused) == ("fused" if fused else "tiled")


def test_a_form_that_was_asked_for_is_taken_at_any_size():
    for form in WITH_FUSED[1:]:
        assert {choose_form(form, n, n) for n in (None, 2, 100 * SIDE)} == {form}


def test_what_has_no_fused_form_knows_it_under_neither_name():
    for name in ("fused", "kernel", None):
        with pytest.raises(ValueError, match=r"Expected one of 'auto', 'dense', 'tiled'. Received"):
            check_implementation(name)


def test_every_device_but_a_cpu_has_large_tiles():
    assert tile_size("cpu") == TILE["cpu"] < tile_size("cuda") == tile_size("tpu")
