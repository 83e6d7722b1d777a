"""The batches of a run depend on the step alone: not on processes, workers, or where it began."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmicl_core.checks import InvalidArgument
from fmicl_recipes.batches import Batches
from fmicl_recipes.chunks import chunks, filled_chunks, joined
from fmicl_recipes.data import ImageData, StoredImages
from fmicl_recipes.machines import ALONE, Process, find_process, workers_of
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.stream import default_workers, stream
from fmicl_recipes.trainer import settled

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (24, 10, 12, 3), dtype=np.uint8)
NAMES = [f"picture {index}" for index in range(24)]
STORED = ImageData("stored", StoredImages(PICTURES, NAMES, (8, 8, 3)), None, PICTURES[:2], None)
ARRAYS = ImageData("arrays", PICTURES, None, PICTURES[:2], None)
IDS = np.arange(24, dtype=np.int32)


def batches(data, process=ALONE, ids=IDS, **options):
    options = {"data": "these", "batch_size": 4, "epochs": 3} | options
    return Batches(data, settled(TrainSettings(**options), data), ids, process)


@pytest.mark.parametrize("data", [STORED, ARRAYS], ids=lambda data: data.name)
@settings(max_examples=20, deadline=None)
@given(step=st.integers(0, 17), count=st.sampled_from([1, 2, 4]), seed=st.integers(0, 2**32 - 1))
def test_the_parts_of_all_processes_are_the_batch_of_one(data, step, count, seed):
    whole = batches(data, seed=seed)[step]
    parts = [batches(data, Process(index, count), seed=seed)[step] for index in range(count)]
    for name in ("images", "ids"):
        np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), whole[name])
    one = batches(data, Process(0, count), seed=seed)
    np.testing.assert_array_equal(one.whole_ids(step), whole["ids"])
    assert batches(data, ids=None).whole_ids(step) is None


@pytest.mark.parametrize("data", [STORED, ARRAYS], ids=lambda data: data.name)
def test_every_epoch_sees_every_image_once_in_an_order_of_its_own(data):
    run = batches(data)
    assert len(run) == run.steps == 18
    assert run.per_epoch == 6
    epochs = [np.concatenate([run[6 * e + s]["ids"] for s in range(6)]) for e in range(3)]
    assert all(sorted(ids) == IDS.tolist() for ids in epochs)
    assert len({ids.tobytes() for ids in epochs}) == 3


@pytest.mark.parametrize(
    ("options", "shape"),
    [({}, (4, 2, 8, 8, 3)), ({"views": 3}, (4, 3, 8, 8, 3)),
     ({"method": "moco-v3"}, (4, 2, 8, 8, 3)), ({"augmentation": "digits"}, (4, 8, 8, 3)),
     ({"crop_scale": 1.0}, (4, 8, 8, 3))],
)  # fmt: skip
def test_crops_are_made_where_views_have_some(options, shape):
    images = batches(STORED, **options)[0]["images"]
    assert images.shape == shape
    assert images.dtype == np.uint8


def test_crops_differ_between_views_steps_and_seeds():
    first, second = batches(STORED), batches(STORED, seed=1)
    images = first[0]["images"]
    assert not np.array_equal(images[:, 0], images[:, 1])
    row = first[0]["ids"][0]
    again = next(s for s in range(6, 12) if row in first[s]["ids"])  # the next epoch
    place = first[again]["ids"].tolist().index(row)
    assert not np.array_equal(first[again]["images"][place], images[0])
    assert not np.array_equal(second[0]["ids"], first[0]["ids"])


def test_a_stream_begins_anywhere_and_ends_with_the_run():
    run = batches(STORED)
    found = list(stream(run, start=13))
    assert len(found) == 5
    for step, item in enumerate(found, start=13):
        np.testing.assert_array_equal(item["images"], run[step]["images"])
    with pytest.raises(IndexError):
        run[18]


def test_the_cache_is_where_the_images_are():
    auto = TrainSettings(data="these")
    assert [settled(auto, data).cache for data in (STORED, ARRAYS)] == ["disk", "memory"]
    for cache, data in (("memory", STORED), ("gpu", STORED), ("disk", ARRAYS)):
        with pytest.raises(InvalidArgument, match="Invalid value for argument `cache`"):
            settled(TrainSettings(data="these", cache=cache), data)


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
TF = {
    "TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'
}
SLURM = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}
JAX = {"JAX_PROCESS_ID": "0", "JAX_NUM_PROCESSES": "2"}


@pytest.mark.parametrize(
    ("framework", "variables", "devices", "expected"),
    [("torch", TORCHRUN, 2, Process(3, 4)), ("tensorflow", TF, 1, Process(1, 2)),
     ("tensorflow", SLURM, 4, Process(1, 2)), ("jax", SLURM, 1, Process(1, 2)),
     ("jax", JAX | SLURM, 8, Process(0, 2))],
)  # fmt: skip
def test_the_launcher_says_which_process_this_is(framework, variables, devices, expected):
    options = TrainSettings(framework=framework, machines=2, devices=devices)
    assert find_process(options, variables) == expected


@pytest.mark.parametrize(
    ("framework", "variables", "machines", "count"),
    [("torch", {}, 2, 1), ("torch", TORCHRUN, 2, 4), ("torch", TORCHRUN, 1, 4), ("jax", JAX, 4, 2),
     ("tensorflow", SLURM, 3, 2), ("tensorflow", TF, 1, 2)],
)  # fmt: skip
def test_another_number_of_processes_is_refused(framework, variables, machines, count):
    options = TrainSettings(framework=framework, machines=machines, batch_size=480)
    with pytest.raises(InvalidArgument, match=rf"Received: number of processes={count}\b"):
        find_process(options, variables)


@pytest.mark.parametrize("framework", ["torch", "jax", "tensorflow"])
def test_one_machine_in_a_job_of_slurm_is_alone(framework):
    assert find_process(TrainSettings(framework=framework), SLURM) == ALONE


def test_the_cores_are_shared_out_among_the_processes_of_a_machine():
    """PyTorch has a process a device, the others one a machine."""
    assert workers_of(TrainSettings(workers=3, devices=2)) == 3
    assert workers_of(TrainSettings(devices=4)) == default_workers(4)
    assert workers_of(TrainSettings(devices=4, framework="jax")) == default_workers()


def test_every_rank_has_rows():
    with pytest.raises(InvalidArgument, match=r"a multiple of machines \* devices = 6"):
        TrainSettings(machines=3, devices=2, batch_size=64)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_keras_trains_on_several_machines_by_tensorflow_alone(backend):
    with pytest.raises(InvalidArgument, match=f"1 with the {backend} backend of Keras"):
        TrainSettings(framework="tensorflow", keras_backend=backend, machines=2)


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 24), size=st.integers(1, 30))
def test_parts_that_are_joined_are_the_whole(count, size):
    for cut in (filled_chunks, chunks):
        parts = (chunk.astype(np.float32) for chunk in cut(PICTURES[:count], size))
        np.testing.assert_array_equal(joined(parts, count), PICTURES[:count])
    assert {len(chunk) for chunk in filled_chunks(PICTURES[:count], size)} == {size}
