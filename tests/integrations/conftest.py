"""Small and real sentence encoders, offline, and suites that need a process of their own."""

import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

#: Seconds after which a test of a suite that has not ended says where it is.
STUCK = 240

WORDS = (
    "a the cat dog man men woman she two sleeps sleep asleep runs run in park rain falls it rains "
    "reads writes red book play plays game train is late early comes snow outside"
)


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
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("encoder")
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = list(
        dict.fromkeys([*special, *WORDS.split(), *letters, *("##" + c for c in letters)])
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=40, initializer_range=0.3,
    )  # fmt: skip
    plain = folder / "plain"
    BertModel(config).save_pretrained(plain)
    BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}).save_pretrained(plain)
    encoder = Transformer(str(plain), max_seq_length=32)
    SentenceTransformer(modules=[encoder, Pooling(16, "mean")], device="cpu").save_pretrained(
        str(folder / "whole"), create_model_card=False
    )
    return folder / "whole"


@pytest.fixture(scope="session")
def real_encoder(require, tmp_path_factory):
    """Folder of all-MiniLM-L6-v2, from a package that carries it."""
    return require("all_minilm_l6_v2").extract_model(str(tmp_path_factory.mktemp("minilm")))


@pytest.fixture
def fmicl(monkeypatch, capsys):
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
