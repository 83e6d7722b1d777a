"""The ring of devices in JAX: every case of it, what its programs hold, and what is said."""

import pytest
from test_distributed import check_ranks, run_ranks

pytest.importorskip("fmicl_jax", reason="these are tests of the JAX backend")


@pytest.mark.slow
@pytest.mark.long
def test_every_case_on_four_devices():
    check_ranks("jax", "4", "all", within=1e-12, least=70)


@pytest.fixture(scope="module")
def found():
    """What programs over four devices hold, and what losses without an axis say."""
    return run_ranks("jax_memory.py", "4")


def test_no_device_holds_the_features_of_all(found):
    for name, program in found["programs"].items():
        assert not program["union"], name
        # Ids of all rows are whole numbers, one a row.
        assert [shape.split("{")[0] for shape in program["gathered"]] == (
            ["s32[4096]"] if "ids" in name else []
        )


@pytest.mark.slow
def test_memory_of_a_device_falls_as_their_number_rises(found):
    two = run_ranks("jax_memory.py", "2")["programs"]
    for name, program in found["programs"].items():
        assert program["bytes"] < 0.65 * two[name]["bytes"], name


def test_a_loss_without_an_axis_says_so_once_by_its_own_name(found):
    for loss, said in found["warned"].items():
        (message,) = said
        assert f"`{loss}` is of the rows that it is given" in message
        knows = loss not in ("alignment_uniformity_loss", "spectral_contrastive_loss")
        assert ("Pass `axis_name=` for the loss of the union." in message) == knows
