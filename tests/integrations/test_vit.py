"""The positions that the vision transformers of three frameworks share."""

import numpy as np

from fmicl_recipes.vit import sine_cosine


def test_positions_tell_patches_apart_and_their_products_know_offsets_only():
    place = sine_cosine((4, 6), 24).astype(np.float64)
    assert len(np.unique(place.round(6), axis=0)) == 24
    products = (place @ place.T).reshape(4, 6, 4, 6)
    np.testing.assert_allclose(products[1, 2, 3, 1], products[0, 4, 2, 3])
    np.testing.assert_allclose(products[0, 0, 1, 0], products[0, 0, 0, 1])


def test_positions_are_the_sines_and_cosines_of_column_and_row():
    """Patch (2, 3) of four columns, a token of 8: frequencies 1 and 1/100."""
    place = sine_cosine((3, 4), 8)
    column, row = np.array([3.0, 0.03]), np.array([2.0, 0.02])
    want = np.concatenate([np.sin(column), np.cos(column), np.sin(row), np.cos(row)])
    np.testing.assert_allclose(place[2 * 4 + 3], want, rtol=1e-6)
    assert place.dtype == np.float32
