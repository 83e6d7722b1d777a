"""Checks that every framework makes, where it takes several processes to reach them."""

from contextlib import nullcontext

import pytest

from fmicl_core.ranks import check_union


@pytest.mark.parametrize(
    ("sizes", "enough"),
    [([1, 1], True), ([2], True), ([1], False), ([0], False), ([0, 3], False), ([3, 0], False)],
)
def test_a_batch_over_ranks_has_rows_on_each_and_a_negative(sizes, enough):
    message = r"`x`. Expected at least one row on every rank, and two in all."
    with nullcontext() if enough else pytest.raises(ValueError, match=message):
        check_union(sizes)
