"""A run on texts may be a stranger's: neither its encoder nor its checkpoint runs code."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the text trainer needs PyTorch")
pytest.importorskip("sentence_transformers", reason="the text trainer needs sentence-transformers")
pytest.importorskip("accelerate", reason="the text trainer needs accelerate")
pytest.importorskip("typer", reason="the command line needs typer")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from datasets import Dataset  # noqa: E402

from fmicl_core.checks import InvalidArgument  # noqa: E402
from fmicl_recipes import RunFolder  # noqa: E402
from fmicl_recipes.text import TextSettings  # noqa: E402
from fmicl_sentence_transformers.guards import check_checkpoint, check_encoder  # noqa: E402
from fmicl_sentence_transformers.train import train_simcse  # noqa: E402


@pytest.fixture(scope="module")
def trained(tiny_encoder, tmp_path_factory):
    """The folder of a finished run of four steps."""
    home, draw = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    words, rows = ("cat", "dog", "man", "train", "rain", "book"), []
    for split in ("train", "dev", "test"):
        for _ in range(12):
            i, j = draw.integers(0, 6, 2)
            pair = {"sentence1": f"a {words[i]} is late", "sentence2": f"the {words[j]} is late"}
            rows.append({"task": "stsb", "split": split, **pair, "score": 4.5 * float(i == j)})
    Dataset.from_list(rows).to_parquet(str(home / "sts.parquet"))
    settings = {"model": str(tiny_encoder), "data": str(home / "sts.parquet"), "batch_size": 4,
                "device": "cpu", "save_steps": 2, "sigma2": 0.3, "alpha": 5.0,
                "limit": 16}  # fmt: skip
    train_simcse(TextSettings.from_dict(settings), home / "run", progress=False)
    return home / "run"


@pytest.fixture
def stranger(trained, tmp_path):
    """A copy of the finished run, to be tampered with."""
    return Path(shutil.copytree(trained, tmp_path / "stranger"))


def edited(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def parts(run):
    """The encoder of a run, and its last checkpoint, which are read in the same way."""
    last = max(run.glob("checkpoints/checkpoint-*"))
    return {"model": run / "model", "checkpoint": last}


def refusal(fmicl, run, part):
    """What the command says that reads a part of a run; it must refuse it in one line."""
    commands = {"model": ["evaluate", run],
                "checkpoint": ["train", "simcse", "--out", run, "--resume"]}  # fmt: skip
    code, _, err = fmicl(*commands[part])
    last = err.strip().splitlines()[-1]
    assert code == 2, err
    assert last.startswith("error: Invalid value for argument")
    assert "Traceback" not in err
    return last


def test_the_folder_of_ones_own_passes(trained):
    check_encoder(trained / "model")
    check_checkpoint(parts(trained)["checkpoint"], 4)


def test_a_module_of_the_folder_is_not_imported(stranger, fmicl, tmp_path):
    """The class is one that the folder itself holds."""
    trace, folder = tmp_path / "trace", stranger / "model"
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "", "type": "modeling_own.Own"})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "modeling_own.py").write_text(f"import os; os.mkdir({str(trace)!r})\nclass Own: ...")
    exec((folder / "modeling_own.py").read_text())
    assert trace.is_dir(), "the bomb does not go off"
    trace.rmdir()
    assert "code is not read at all" in refusal(fmicl, stranger, "model")
    (folder / "modeling_own.py").unlink()
    assert "the module 'modeling_own.Own'" in refusal(fmicl, stranger, "model")
    assert not trace.exists()


@pytest.mark.parametrize(
    "kind",
    ["os.path", "sentence_transformers.base.modules.router.Router", "transformers.BertModel", 5,
     "sentence_transformers.util.import_from_string", "Transformer"],
)  # fmt: skip
@pytest.mark.parametrize("part", ["model", "checkpoint"])
def test_modules_are_those_of_the_library(stranger, fmicl, kind, part):
    path = parts(stranger)[part] / "modules.json"
    modules = json.loads(path.read_text())
    path.write_text(json.dumps([{**modules[0], "type": kind}, *modules[1:]]))
    assert "an encoder of modules of sentence-transformers" in refusal(fmicl, stranger, part)


@pytest.mark.parametrize("place", ["..", "/etc", "../../elsewhere", 5])
def test_modules_lie_in_the_folder(stranger, place):
    path = stranger / "model" / "modules.json"
    modules = json.loads(path.read_text())
    path.write_text(json.dumps([{**modules[0], "path": place}, *modules[1:]]))
    with pytest.raises(InvalidArgument, match=r"modules\.json"):
        check_encoder(stranger / "model")


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"auto_map": {"AutoModel": "own.Model"}}),
        ("config.json", {"attn_implementation": "someone/kernel"}),
        ("config.json", {"_attn_implementation": "someone/kernel:run"}),
        ("config.json", {"text_config": {"auto_map": {}}}),
        ("config.json", {"quantization_config": {"quant_method": "own"}}),
        ("config.json", {"hidden_size": 10**9}),
        ("config.json", {"hidden_size": 10**5}),
        ("config.json", {"num_hidden_layers": 10**6}),
        ("config.json", {"vocab_size": 10**12}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["own.Tokenizer", None]}}),
        ("sentence_bert_config.json", {"model_args": {"weights_only": False}}),
        ("sentence_bert_config.json", {"model_kwargs": {"cache_dir": "/tmp"}}),
        ("sentence_bert_config.json", {"config_args": {"trust_remote_code": True}}),
        ("sentence_bert_config.json", {"tokenizer_kwargs": ["a"]}),
        (
            "sentence_bert_config.json",
            {"modality_config": {"text": {"method": "push_to_hub", "method_output_name": "x"}}},
        ),
        ("1_Pooling/config.json", {"activation_function": "os.system"}),
        ("1_Pooling/config.json", {"activation_function": "torch.hub.load"}),
        ("config_sentence_transformers.json", {"prompts": {"a": "\x1b[2J"}}),
    ],
    ids=range(18),
)
def test_options_that_take_code_or_memory_from_elsewhere(stranger, file, values):
    for folder in parts(stranger).values():
        edited(folder / file, **values)
    with pytest.raises(InvalidArgument, match=Path(file).name):
        check_encoder(stranger / "model")
    with pytest.raises(InvalidArgument, match=Path(file).name):
        check_checkpoint(parts(stranger)["checkpoint"], 4)


@pytest.mark.parametrize("part", ["model", "checkpoint"])
def test_pickled_weights_are_refused(stranger, fmicl, tmp_path, part, bomb):
    trace, folder = tmp_path / "trace", parts(stranger)[part]
    (folder / "model.safetensors").unlink()
    torch.save({"weight": bomb(trace)}, folder / "pytorch_model.bin")
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert trace.is_dir(), "the bomb does not go off"
    trace.rmdir()
    assert "Weights are read from safetensors" in refusal(fmicl, stranger, part)
    assert not trace.exists()


def test_adapters_are_refused(stranger, fmicl):
    (stranger / "model" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert "Adapters name weights" in refusal(fmicl, stranger, "model")


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("archive", [True, False])
def test_states_that_are_pickles_run_nothing(stranger, fmicl, tmp_path, name, archive, bomb):
    trace, folder = tmp_path / "trace", parts(stranger)["checkpoint"]
    if archive:
        torch.save({"state": bomb(trace)}, folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(bomb(trace)))
    if archive and name.startswith("rng"):  # which is read after the first step or never
        fmicl("train", "simcse", "--out", stranger, "--resume")
    else:
        assert "tensors and plain values only" in refusal(fmicl, stranger, "checkpoint")
    assert not trace.exists()


def test_arguments_that_are_pickled_are_never_read(stranger, fmicl, tmp_path, bomb):
    trace, folder = tmp_path / "trace", parts(stranger)["checkpoint"]
    (folder / "training_args.bin").write_bytes(pickle.dumps(bomb(trace)))
    code, _, err = fmicl("train", "simcse", "--out", stranger, "--resume")
    assert code == 0, err
    assert not trace.exists()


@pytest.mark.parametrize(
    "values",
    [{"train_batch_size": 10**9}, {"global_step": "2"}, {"global_step": -1}, {"more": 1}],
    ids=str,
)
def test_the_state_of_another_trainer(stranger, fmicl, values):
    edited(parts(stranger)["checkpoint"] / "trainer_state.json", **values)
    assert "whose checkpoint is whole" in refusal(fmicl, stranger, "checkpoint")


def test_folders_that_are_no_checkpoints_are_passed_over(stranger, fmicl):
    (stranger / "checkpoints" / "checkpoint-abc").mkdir()
    (stranger / "checkpoints" / "checkpoint-99").write_text("no folder")
    code, _, err = fmicl("train", "simcse", "--out", stranger, "--resume")
    assert code == 0, err


def test_a_checkpoint_is_not_removed_through_a_link(stranger, fmicl, tmp_path):
    """One that is half-written is removed, and a link to another folder looks like one."""
    (tmp_path / "victim").mkdir()
    (stranger / "checkpoints" / "checkpoint-99").symlink_to(tmp_path / "victim")
    assert "whose links stay within it" in refusal(fmicl, stranger, "checkpoint")
    assert (tmp_path / "victim").exists()


@pytest.mark.parametrize("text", ["", "step,loss\n1,nan\n", "loss\n1\n"])
def test_a_history_that_is_none(stranger, fmicl, text):
    (stranger / "history.csv").write_text(text)
    assert "history.csv" in refusal(fmicl, stranger, "model")


def test_baselines_that_are_none(stranger, fmicl):
    edited(stranger / "metrics.json", baselines=[1])
    refusal(fmicl, stranger, "model")


def test_a_run_of_texts_has_a_version_and_one_without_is_read(stranger, fmicl):
    """And one of a later version is not."""
    folder = RunFolder(stranger, TextSettings)
    stored = folder.read_json("settings.json")
    assert stored.pop("format_version") == 2
    folder.write_json("settings.json", stored)
    for command in (["evaluate", stranger], ["train", "simcse", "--out", stranger, "--resume"]):
        code, _, err = fmicl(*command)
        assert code == 0, err
    assert "format_version" not in folder.read_json("settings.json")
    folder.write_json("settings.json", stored | {"format_version": 3})
    for part in ("model", "checkpoint"):
        assert "Received: format_version=3" in refusal(fmicl, stranger, part)
