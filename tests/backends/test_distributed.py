"""The loss over W ranks is the loss of one process with the whole batch, and so is its gradient."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fmicl_core.ranks import KNOW_NO_RANKS

PROGRAMS = Path(__file__).parent / "ranks"
#: Number of cases, at least, that the program of a framework's ranks compares.
CASES = {"torch": 70, "jax": 27, "tensorflow": 8}
#: Number of ranks in short, which take a choice of the cases where each is compiled, and its size.
IN_SHORT = {"torch": (4, 70), "jax": (4, 17), "tensorflow": (3, 7)}


def run_ranks(program, *arguments):
    """What a program of `PROGRAMS` prints."""
    command = [sys.executable, PROGRAMS / program, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def check_ranks(framework, *arguments, within, least):
    """Run the program of the framework's ranks: `least` cases or more, all equal to one process."""
    results = run_ranks(f"{framework}_ranks.py", *arguments)
    assert len(results) >= least
    for name, row in results.items():
        assert row["values"] < within, name
        assert row["ratio"] == pytest.approx(1.0, abs=within), name
        assert row["cosine"] == pytest.approx(1.0, abs=within), name


@pytest.mark.long
@pytest.mark.parametrize(
    ("framework", "ranks", "least"),
    [*((name, *short) for name, short in IN_SHORT.items()),
     *(pytest.param(name, n, CASES[name], marks=pytest.mark.slow) for name in CASES
       for n in (1, 2))],
)  # fmt: skip
def test_ranks_equal_one_process(require, framework, ranks, least):
    """Uneven shards where the framework has them, every scheme, a bank, dense and tiled."""
    require(framework)
    check_ranks(framework, str(ranks), within=1e-12, least=least)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("framework", ["jax", "tensorflow"])
def test_every_case_of_four_ranks(require, framework):
    """Beside the choice above, which compiles in a minute."""
    require(framework)
    check_ranks(framework, "4", "all", within=1e-12, least=50)


#: What rank 1, at fault, says, and what rank 0 does, of `one_sided` in ranks/torch_refusals.py.
REFUSED = "Rank 1 refused its part of the batch. There: Invalid value for argument"
REFUSALS = {
    "no rows": ("`x`. Expected at least one row, N >= 1. Received: x.shape=(0, 5)", REFUSED),
    "whole numbers": ("`x`. Expected a dtype among", REFUSED),
    "a list": ("`x`. Expected a torch.Tensor", REFUSED),
    "another width": ("`x.shape[1]`. Expected the same on every rank.",) * 2,
    "another dtype": ("`dtype`. Expected the same on every rank.",) * 2,
    "not finite, dense": ("`x`. Expected finite features. Received: NaN or infinity in row 2",
                          REFUSED),
    "not finite, tiled": ("`x`. Expected finite features. Received: NaN or infinity in row 2",
                          REFUSED),
    "another alpha's sign": ("a finite number > 0. Received: alpha=-2.0", REFUSED),
    "the same of an array": ("holds one. Received: alpha=-2.0", REFUSED),
    "alpha of one rank": ("`alpha`. Expected the same on every rank.",) * 2,
    "other settings": ("`settings`. Expected the same on every rank.",) * 2,
    "another form": ("`implementation`. Expected the same on every rank.",) * 2,
    "a scale of one rank": ("`logit_scale`. Expected the same on every rank.",) * 2,
    "another scale's sign": ("a finite number > 0. Received: logit_scale=-2.0", REFUSED),
    "ids of one rank": ("`ids`. Expected the same on every rank.",) * 2,
    "ids of another length": ("`ids`. Expected one whole number for each row of `x`", REFUSED),
    "another bank": ("`bank.shape[0]`. Expected the same on every rank.",) * 2,
    "no gradient wanted": ("`requires_grad`. Expected the same on every rank.",) * 2,
    "softmax, no rows": ("`x`. Expected at least one row, N >= 1.", REFUSED),
    "softmax, another width": ("`x.shape[1]`. Expected the same on every rank.",) * 2,
    "softmax, another temperature's sign": ("> 0. Received: temperature=-1.0", REFUSED),
    "softmax, other negatives": ("`negatives`. Expected the same on every rank.",) * 2,
    "softmax, a scale of one rank": ("`logit_scale`. Expected the same on every rank.",) * 2,
    "softmax, another form": ("`implementation`. Expected the same on every rank.",) * 2,
    "softmax, one row": ("Rank 0 refused its part of the batch.", "`x`. Expected at least one row"),
    "no positives, dense": ("`ids`. Expected at least two rows with equal ids.",) * 2,
    "no positives, tiled": ("`ids`. Expected at least two rows with equal ids.",) * 2,
    "no negatives, tiled": ("`ids`. Expected at least two different ids.",) * 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def refusals(require):
    """What each of two ranks found."""
    require("torch")
    return run_ranks("torch_refusals.py")


@pytest.mark.parametrize("name", REFUSALS)
def test_no_rank_waits_for_one_that_refuses(refusals, name):
    for said, wanted in zip(refusals[::-1], REFUSALS[name], strict=True):
        kind, message, seconds = said["refusals"][name]
        assert kind == "InvalidArgument", message
        assert wanted in message
        assert seconds < 10.0


def test_every_fault_of_a_rank_is_tried(refusals):
    assert set(refusals[0]["refusals"]) == set(REFUSALS)


def test_a_divergence_of_ones_own_is_taken_over_ranks(refusals):
    assert refusals[0]["own"] == refusals[1]["own"]


def test_the_dense_form_over_ranks_has_second_derivatives(refusals):
    assert max(rank["second derivative"] for rank in refusals) < 1e-12


def test_the_backward_pass_leaves_the_incoming_gradient_as_it_is(refusals):
    assert [rank["incoming"] for rank in refusals] == [0.0, 0.0]


def test_losses_that_are_not_told_of_ranks_say_so_once(refusals):
    """Told to stay alone they are silent."""
    for rank in refusals:
        assert len(rank["warned"]) == 10
        for loss, (said,) in rank["warned"].items():
            assert f"`{loss}` is of the rows that it is given" in said
            remedy = "Gather the features first" if loss in KNOW_NO_RANKS else "`distributed=True`"
            assert remedy in said


@pytest.mark.slow  # the ring in JAX and the routine on one device are quick
def test_the_pallas_routine_on_devices_equals_one_device(require):
    """In float32, as the fused form accumulates; every scheme and a bank that all devices share."""
    require("jax")
    check_ranks("jax", "2", "fused", within=1e-5, least=5)


def test_no_process_group_is_named(require):
    torch, library = require("torch"), require("fmicl_torch")
    x = torch.eye(3)
    message = "`distributed`. Expected False, or torch.distributed to be initialised"
    with pytest.raises(ValueError, match=message):
        library.fmicl_loss(x, x, distributed=True)


def test_an_axis_that_is_not_there_is_named(require):
    jnp, library = require("jax.numpy"), require("fmicl_jax")
    x = jnp.eye(3)
    message = "`axis_name`. Expected None, or an axis of the jax.shard_map or jax.pmap"
    with pytest.raises(ValueError, match=message):
        library.fmicl_loss(x, x, axis_name="batch")
