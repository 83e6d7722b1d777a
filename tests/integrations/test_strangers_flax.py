"""A checkpoint of Orbax may be a stranger's: it names no code, folder or larger arrays."""

import json
import pickle
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the folders are those of the Flax trainer")
pytest.importorskip("flax", reason="the folders are those of the Flax trainer")
ocp = pytest.importorskip("orbax.checkpoint", reason="the folders are those of the Flax trainer")

from fmicl_core.checks import InvalidArgument  # noqa: E402
from fmicl_flax import MethodTrainer  # noqa: E402
from fmicl_flax.checkpoints import load_checkpoint, save_checkpoint  # noqa: E402
from fmicl_recipes import RunFolder, TrainSettings  # noqa: E402
from fmicl_recipes.run import evaluate_run, train_run  # noqa: E402

HOME = jax.sharding.SingleDeviceSharding(jax.devices()[0])
STATE = {"a": np.arange(6.0, dtype=np.float32).reshape(2, 3), "b": {"c": np.float32(1.0)}}
FACTS = {"history": [{"epoch": 1, "loss": 0.5}], "seconds": 1.0, "losses": []}
DAMAGED = "a folder whose checkpoint is whole"


@pytest.fixture
def folder(tmp_path):
    """A folder with a small checkpoint."""
    folder = RunFolder.create(tmp_path / "run", TrainSettings(framework="jax"))
    save_checkpoint(folder, "step-2", STATE, FACTS)
    return folder


def test_the_folder_of_ones_own_is_read(folder):
    folder.settings()
    state, facts = load_checkpoint(folder, STATE, HOME)
    np.testing.assert_array_equal(state["a"], STATE["a"])
    assert facts == ([{"epoch": 1, "loss": 0.5}], 1.0, [])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("_CHECKPOINT_METADATA", {"custom_metadata": {**FACTS, "history": [{"loss": "low"}]}}),
        ("_CHECKPOINT_METADATA", {"custom_metadata": {**FACTS, "seconds": None}}),
        ("_CHECKPOINT_METADATA", {"custom_metadata": [1]}),
        ("_METADATA", {"tree_metadata": {}}),
        ("_METADATA", {"tree_metadata": 5}),
    ],
    ids=range(5),
)
def test_metadata_that_are_none(folder, name, values):
    file = folder.checkpoint / name
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    with pytest.raises(InvalidArgument, match=DAMAGED):
        load_checkpoint(folder, STATE, HOME)


@pytest.mark.parametrize("name", ["_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt"])
def test_files_that_are_none(folder, name):
    (folder.checkpoint / name).write_text("[" * 10**5)
    with pytest.raises(InvalidArgument, match=DAMAGED):
        load_checkpoint(folder, STATE, HOME)


def test_classes_that_a_checkpoint_names_are_not_imported(folder, tmp_path, monkeypatch):
    trace = tmp_path / "trace"
    (tmp_path / "stranger.py").write_text(f"import os; os.mkdir({str(trace)!r})\nclass Own: ...")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("_METADATA", "_CHECKPOINT_METADATA"):
        file = folder.checkpoint / name
        text = file.read_text().replace("np.ndarray", "stranger.Own")
        values = json.loads(text)
        if "item_handlers" in values:
            values["item_handlers"] = "stranger.Own"
        file.write_text(json.dumps(values))
    with suppress(InvalidArgument):
        load_checkpoint(folder, STATE, HOME)
    assert "stranger" not in sys.modules
    assert not trace.exists()


def test_larger_arrays_than_those_of_the_settings_are_not_read(folder, monkeypatch):
    """They would be made as the checkpoint says, and their shapes compared afterwards."""
    large = {**STATE, "a": np.zeros((2, 3000), np.float32)}
    save_checkpoint(folder, "step-3", large, FACTS)
    monkeypatch.setattr(
        ocp.Checkpointer, "restore", lambda *_, **__: pytest.fail("arrays are made")
    )
    with pytest.raises(InvalidArgument, match=DAMAGED):
        load_checkpoint(folder, STATE, HOME)


def test_larger_chunks_than_arrays_are_not_read(folder, monkeypatch):
    """A chunk is unpacked whole, and may be zeros that take no place on the disk."""
    from fmicl_flax import checkpoints

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        known = reader.metadata(folder.checkpoint.resolve()).item_metadata.tree
    assert checkpoints._holds(known, STATE)
    spoilt = {**known, "a": Leaf((2, 3), Chunks((10**6, 10**6)))}
    assert not checkpoints._holds(spoilt, STATE)
    assert checkpoints._holds({**known, "a": Leaf((2, 3), Chunks((1, 3)))}, STATE)
    assert not checkpoints._holds({**known, "a": Leaf((2, 3), None)}, STATE)
    assert not checkpoints._holds({**known, "a": Leaf((2, 4), Chunks((2, 3)))}, STATE)
    assert not checkpoints._holds({"b": known["b"]}, STATE)


class Chunks:
    """What Orbax says of how an array is stored."""

    def __init__(self, chunk_shape):
        self.chunk_shape = chunk_shape


class Leaf:
    """What Orbax says of an array."""

    def __init__(self, shape, storage):
        self.shape, self.storage = shape, storage


@pytest.mark.parametrize("place", ["checkpoints", "checkpoints/step-2", "checkpoints/step-2/d"])
def test_a_store_that_is_elsewhere_is_refused(folder, tmp_path, place):
    """Saving removes all other folders of the store."""
    moved = tmp_path / "moved"
    shutil.move(folder.path / place, moved)
    (folder.path / place).symlink_to(moved)
    assert folder.checkpoint.exists()
    with pytest.raises(InvalidArgument, match="whose links stay within it"):
        RunFolder.resume(folder.path)


def test_a_pickle_in_the_place_of_the_folder(folder, tmp_path, bomb):
    folder.checkpoint.unlink()
    folder.checkpoint.write_bytes(pickle.dumps(bomb(tmp_path / "trace")))
    with pytest.raises(InvalidArgument, match=DAMAGED):
        load_checkpoint(folder, STATE, HOME)
    assert not (tmp_path / "trace").exists()


def test_tensorstore_leaves_no_folder(tmp_path):
    """What our check relies on: the manifest of a store names no file outside of it."""
    import tensorstore

    (tmp_path / "store").mkdir()
    for prefix in ("../out/", f"{tmp_path}/out/"):
        spec = {"driver": "ocdbt", "base": f"file://{tmp_path}/store/", "value_data_prefix": prefix,
                "config": {"max_inline_value_bytes": 0}}  # fmt: skip
        with pytest.raises(ValueError, match="Invalid key"):
            tensorstore.KvStore.open(spec).result().write("a", b"x" * 1000).result()
    assert {path.name for path in tmp_path.iterdir()} == {"store"}


@pytest.mark.slow
def test_folders_of_format_1_are_evaluated_and_resumed(tmp_path):
    """As fmicl made them before they had a version, and weights for all frameworks."""
    settings = TrainSettings(
        data="digits", framework="jax", encoder="smallconv", width=4, limit=64, batch_size=32,
        epochs=1, projection_hidden=8, projection_dim=8, device="cpu", cache="memory",
    )  # fmt: skip
    train_run(MethodTrainer, settings, tmp_path / "run", progress=False)
    folder = as_of_old(tmp_path / "run")
    evaluate_run(MethodTrainer, folder)
    assert {"model.json", "encoder.safetensors"} <= {p.name for p in folder.path.iterdir()}
    folder = as_of_old(tmp_path / "run")
    train_run(MethodTrainer, settings, folder.path, resume=True, progress=False)
    assert {"model.json", "encoder.safetensors"} <= {p.name for p in folder.path.iterdir()}
    assert "format_version" not in folder.read_json("settings.json")


def as_of_old(path):
    """Take away what folders of format 1 lack."""
    folder = RunFolder(Path(path))
    stored = folder.read_json("settings.json")
    stored.pop("format_version", None)
    folder.write_json("settings.json", stored)
    for name in ("model.json", "encoder.safetensors", "method.safetensors"):
        (folder.path / name).unlink()
    return folder
