"""The text trainer: data, exact resume, evaluation, the command line, and the search for alpha."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the text trainer needs PyTorch")
pytest.importorskip("sentence_transformers", reason="the text trainer needs sentence-transformers")
pytest.importorskip("accelerate", reason="the text trainer needs accelerate")
pytest.importorskip("sklearn", reason="the text trainer needs scikit-learn")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from datasets import Dataset  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from scipy.stats import spearmanr  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402

from fmicl_core.checks import InvalidArgument  # noqa: E402
from fmicl_recipes import RunFolder  # noqa: E402
from fmicl_recipes.data import load_images, validation_split  # noqa: E402
from fmicl_recipes.sweep import doubling_search, sweep_alpha  # noqa: E402
from fmicl_recipes.text import TEXT_PRESETS, TextSettings, resolve_text  # noqa: E402
from fmicl_recipes.text.data import read_table, sts_rows, training_columns  # noqa: E402
from fmicl_recipes.trainer import NonFiniteLossError  # noqa: E402
from fmicl_sentence_transformers import train as trainer  # noqa: E402
from fmicl_sentence_transformers.evaluate import sts_scores  # noqa: E402
from fmicl_sentence_transformers.train import evaluate_run, last_checkpoint, train_simcse  # noqa: E402

SUBJECTS = ("a cat", "the dog", "a man", "two men", "the woman", "she")
VERBS = ("sleeps", "runs in the park", "reads a book", "plays", "is late", "writes")
SENTENCES = [f"{s} {v}" for s in SUBJECTS for v in VERBS]


@pytest.fixture(scope="module")
def sts(tmp_path_factory):
    """STS rows in which sentences of one verb are alike, 36 sentences in all."""
    draw = np.random.default_rng(0)
    rows = {name: [] for name in ("task", "split", "sentence1", "sentence2", "score")}
    for task, split, count in (("stsb", "train", 200), ("stsb", "dev", 20), ("stsb", "test", 20),
                               ("sts12", "test", 20), ("sts13", "test", 3)):  # fmt: skip
        for _ in range(count):
            i, j = draw.integers(0, 36, 2)
            score = 4.5 * (i % 6 == j % 6) + 0.4 * (i // 6 == j // 6)
            for name, value in zip(
                rows, (task, split, SENTENCES[i], SENTENCES[j], score), strict=True
            ):
                rows[name].append(value)
    path = tmp_path_factory.mktemp("sts") / "sts.parquet"
    Dataset.from_dict(rows).to_parquet(str(path))
    return path


@pytest.fixture
def tiny(tiny_encoder, sts):
    """Settings of a run of 8 steps, and changes to them."""

    def settings(**options):
        base = {"model": str(tiny_encoder), "data": str(sts), "batch_size": 4, "device": "cpu",
                "limit": 32, "save_steps": 3, "lr": 1e-3, "sigma2": 0.3, "alpha": 5.0}  # fmt: skip
        return TextSettings.from_dict(base | options, optional=base)

    return settings


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def test_a_run_writes_what_it_promises(tmp_path, tiny):
    metrics = train_simcse(tiny(), tmp_path / "run", baselines=True, progress=False)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    assert len(metrics["loss_history"]) == 8
    assert set(metrics["sts"]) == {"stsb", "sts12"}  # sts13 has too few pairs for a correlation
    assert metrics["sts_mean"] == pytest.approx(np.mean(list(metrics["sts"].values())))
    assert metrics["baselines"]["before training"]["sts"] != metrics["sts"]
    assert metrics["versions"]["sentence-transformers"]
    for name in ("history.csv", "settings.json", "plots/loss.png"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    encoder = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    rows = sts_rows(tiny())
    pairs = [i for i in range(263) if (rows["task"][i], rows["split"][i]) == ("stsb", "test")]
    x, y = (encoder.encode([rows[c][i] for i in pairs], normalize_embeddings=True)
            for c in ("sentence1", "sentence2"))  # fmt: skip
    want = spearmanr((x * y).sum(axis=1), [rows["score"][i] for i in pairs]).statistic
    assert metrics["sts"]["stsb"] == pytest.approx(want, abs=1e-6)
    again = evaluate_run(RunFolder(tmp_path / "run", TextSettings))
    for key in ("sts", "sts_mean", "stsb_dev", "loss_history", "seconds"):
        assert again[key] == pytest.approx(metrics[key])


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "info-nce"},
        {"loss": "info-nce", "mini_batch_size": 3, "pairs": "given", "limit": 16},
        {"divergence": "js", "mini_batch_size": 3, "pooling": "cls", "alpha": "auto"},
        {
            "divergence": "pearson",
            "precision": "bf16",
            "pairs": "given",
            "limit": 16,
            "batch_size": 8,
        },
    ],
    ids=str,
)
def test_every_form_trains(tmp_path, tiny, options):
    metrics = train_simcse(tiny(**options), tmp_path / "run", progress=False)
    assert np.isfinite(metrics["loss_history"]).all()
    assert metrics["sts_mean"] is not None
    rows = RunFolder(tmp_path / "run").read_history()
    assert all((row.get("alpha", 0.0) > 1.0) == ("alpha" in options) for row in rows)


def train_until(last, settings, folder, monkeypatch):
    """A run that is interrupted in a step."""
    step = trainer.Run.on_step_end

    def stopping(self, args, state, control, **more):
        step(self, args, state, control, **more)
        if state.global_step == last:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer.Run, "on_step_end", stopping)
        train_simcse(settings, folder, progress=False)


def test_a_run_that_stops_resumes_bit_for_bit(tmp_path, tiny, monkeypatch):
    """Two epochs cut in the second one; the cut leaves a half-written checkpoint behind, too."""
    settings = tiny(epochs=2)
    whole = train_simcse(settings, tmp_path / "whole", progress=False)
    train_until(11, settings, tmp_path / "cut", monkeypatch)
    half = tmp_path / "cut" / "checkpoints" / "checkpoint-10"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    assert last_checkpoint(RunFolder(tmp_path / "cut")).endswith("checkpoint-9")
    assert not half.exists()
    resumed = train_simcse(settings, tmp_path / "cut", resume=True, progress=False)
    ours, theirs = weights(tmp_path / "cut"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for key in ("loss_history", "sts", "stsb_dev"):
        assert resumed[key] == whole[key]
    assert [row["step"] for row in RunFolder(tmp_path / "cut").read_history()] == list(range(1, 17))


@pytest.mark.slow  # each file alone, and modules, by the command: test_strangers_texts
def test_no_code_that_a_run_carries_is_run(tmp_path, bomb, tiny, monkeypatch):
    """Neither by a resume, from any pickled file, nor of a module class that lies in the model."""
    settings, mark, run = tiny(), tmp_path / "the code has run", tmp_path / "run"
    train_until(5, settings, run, monkeypatch)
    folder = RunFolder(run, TextSettings)
    checkpoint = Path(last_checkpoint(folder))
    torch.save(bomb(mark), checkpoint / "training_args.bin")  # which is never read
    files = sorted(f for f in checkpoint.iterdir() if f.suffix in (".pt", ".pth"))
    assert [f.name for f in files] == ["optimizer.pt", "rng_state.pth", "scheduler.pt"]
    for file in files:
        whole = file.read_bytes()
        torch.save(bomb(mark), file)
        with pytest.raises(InvalidArgument, match=r"`run`. Expected a folder whose checkpoint is"):
            train_simcse(settings, run, resume=True, progress=False)
        file.write_bytes(whole)
    train_simcse(settings, run, resume=True, progress=False)
    modules = json.loads((run / "model" / "modules.json").read_text())
    modules[0]["type"] = "carried.Module"
    (run / "model" / "modules.json").write_text(json.dumps(modules))
    (run / "model" / "carried.py").write_text(f"open({str(mark)!r}, 'w')\n")
    with pytest.raises(InvalidArgument, match=r"`run`. Expected an encoder of modules"):
        evaluate_run(folder)
    assert not mark.exists()


def test_a_loss_that_is_not_finite_stops(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(
        trainer.SentenceTransformerTrainer, "compute_loss", lambda *a, **k: torch.tensor(np.nan)
    )
    with pytest.raises(NonFiniteLossError, match="The loss is nan at step 0"):
        train_simcse(tiny(), tmp_path / "run", progress=False)


def test_pairs_seen_in_training_are_told_apart(tiny, tiny_encoder):
    rows = {"task": ["stsb"] * 24, "split": ["test"] * 24, "sentence1": SENTENCES[:24],
            "sentence2": SENTENCES[12:], "score": list(range(24))}  # fmt: skip
    encoder = SentenceTransformer(str(tiny_encoder), device="cpu")
    scores = sts_scores(encoder, rows, {"acatsleeps", "nothing"}, progress=False)
    assert scores["sts_pairs"]["stsb"] == 24
    assert scores["sts_unseen_pairs"]["stsb"] == 23
    few = sts_scores(encoder, rows, set(), limit=12, progress=False)
    assert few["sts_pairs"] == {"stsb": 12}


# Data


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_sources_give_the_columns_losses_take(tmp_path):
    lines = write(tmp_path / "a.txt", "one\ntwo\n\none\nthree\n")
    made = training_columns(TextSettings(data=lines, batch_size=2))
    assert made == {"anchor": ["one", "two", "three"], "positive": ["one", "two", "three"]}
    nli = write(tmp_path / "a.csv", "sent0,sent1,hard_neg\na,b,c\nd,e,f\n")
    made = training_columns(TextSettings(data=nli, batch_size=2, pairs="given"))
    assert made == {"anchor": ["a", "d"], "positive": ["b", "e"], "negative_1": ["c", "f"]}
    tsv = write(tmp_path / "a.tsv", "sentence1\tsentence2\tscore\na\tb\t4.2\nc\td\t1\ne\tf\t5\n")
    made = training_columns(TextSettings(data=tsv, batch_size=2, pairs="given"))
    assert made == {"anchor": ["a", "e"], "positive": ["b", "f"]}
    row = '{{"text": "{}", "split": "{}"}}\n'.format
    rows = row("x", "train") + row("y", "test") + row("z", "train")
    made = training_columns(TextSettings(data=write(tmp_path / "a.jsonl", rows), batch_size=2))
    assert made["anchor"] == ["x", "z"]


#: Options, and a file with a value that is none.
BAD_VALUES = {
    "numbers": ({}, "text\n1\n2\n"),
    "scores": ({"pairs": "given"}, "sentence1,sentence2,score\na,b,high\nc,d,low\n"),
    "null": ({"pairs": "given"}, "anchor,positive\na,b\n,d\n"),
}


def bad_source(name, tmp_path):
    if name == "columns":
        return TextSettings(data=write(tmp_path / "a.csv", "x,y\n1,2\n"))
    if name == "few":
        return TextSettings(data=write(tmp_path / "a.txt", "one\n"))
    if name in BAD_VALUES:
        options, text = BAD_VALUES[name]
        return TextSettings(data=write(tmp_path / "a.csv", text), batch_size=2, **options)
    if name == "bytes":
        (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
        return TextSettings(data=str(tmp_path / "a.txt"))
    if name == "broken":
        (tmp_path / "a.parquet").write_bytes(b"not parquet")
        return TextSettings(data=str(tmp_path / "a.parquet"))
    return TextSettings(data="nowhere.txt")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", r"`data`. Expected a file that exists \(.txt, .parquet.*or one of wiki1m, nli"),
        ("columns", r"`data`. Expected a column text or sentence, or two such as sentence1, with"),
        ("few", r"`batch_size`. Expected at most the 1 training rows"),
        ("bytes", r"`data`. Expected a text file in UTF-8"),
        ("numbers", r"`data`. Expected a text in every row of column 'text'. Received: text=1"),
        ("scores", r"`data`. Expected a number in every row of column 'score'.*score='high'"),
        ("null", r"`data`. Expected a text in every row of column 'anchor'.*anchor=None"),
        ("broken", r"`data`. Expected a file that Hugging Face datasets can read"),
    ],
)
def test_bad_sources_are_named(tmp_path, name, message):
    with pytest.raises(InvalidArgument, match=message):
        training_columns(bad_source(name, tmp_path))


def test_sts_rows_that_are_none_are_named(tmp_path):
    rows = write(tmp_path / "a.csv", "task,split,sentence1,sentence2,score\nstsb,dev,a,b,\n")
    for settings in (TextSettings(data=rows), TextSettings(sts=rows)):
        with pytest.raises(InvalidArgument, match="Expected a number in every row of column 'sco"):
            sts_rows(settings)


@pytest.fixture
def offline(monkeypatch):
    """As the hub's libraries are with HF_HUB_OFFLINE=1: they do not try for a minute."""
    for module in ("huggingface_hub.constants", "datasets.config"):
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
def test_what_is_only_on_the_hub_says_what_to_download():
    with pytest.raises(ValueError, match=r"Download the file wiki1m_for_simcse.txt.*with --data"):
        read_table("wiki1m")
    with pytest.raises(ValueError, match=r"`sts`.*Download the rows of mteb/sts12-sts.*with --sts"):
        sts_rows(TextSettings())


@pytest.mark.parametrize("name", TEXT_PRESETS)
def test_every_preset_makes_settings(name):
    settings = resolve_text(name, {})
    assert {k: getattr(settings, k) for k in TEXT_PRESETS[name]} == TEXT_PRESETS[name]
    assert TextSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


# Command line


def test_train_resume_evaluate_and_compare(tmp_path, sts, tiny_encoder, monkeypatch, fmicl):
    monkeypatch.setenv("COLUMNS", "160")
    base = ["train", "simcse", "--model", tiny_encoder, "--data", sts, "--batch-size", 4, "--limit",
            16, "--device", "cpu"]  # fmt: skip
    for name, loss in (("a", ["--divergence", "js"]), ("b", ["--loss", "info-nce"])):
        code, out, err = fmicl(*base, *loss, "--out", tmp_path / name)
        assert code == 0, err
        assert "STS-B" in out
    a, b, c = (tmp_path / name for name in "abc")
    for command in (
        ["train", "simcse", "--out", a, "--resume"],
        ["evaluate", a],
        ["compare", a, b, "--out", c],
    ):
        code, out, err = fmicl(*command)
        assert code == 0, err
        assert "js-micl" in out
    assert {p.name for p in (tmp_path / "c").iterdir()} == {
        "metrics.json", "comparison.md", "loss.png"
    }  # fmt: skip


MISTAKES = [
    (["--model", "no/such/folder/here"], "`model`. Expected a folder that exists, or a hub name"),
    (["--model", "some-model"], "run `hf download some-model --local-dir DIR`"),
    (["--divergence", "lk"], "`divergence`. Expected one of 'kl', 'js'"),
    (["--preset", "x"], "`preset`. Expected one of 'paper-wikipedia'"),
    (["--alpha", "-1"], "`alpha`. Expected a finite number > 0"),
    (["--sts", "nowhere.csv"], "`sts`. Expected a file that exists"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_mistakes_end_in_one_line(tmp_path, sts, monkeypatch, fmicl, request, arguments, message):
    if "some-model" in arguments:
        request.getfixturevalue("offline")
    monkeypatch.chdir(tmp_path)
    base = ["--data", sts, "--out", tmp_path / "run", "--device", "cpu", "--batch-size", 4]
    code, _, err = fmicl("train", "simcse", *base, *arguments)
    assert code == 2
    # Whoever reads the texts first sees a progress bar, too.
    lines = [line for line in err.strip().splitlines() if "examples/s" not in line]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "run").exists()


# The search for alpha


@given(peak=st.integers(-6, 6), patience=st.integers(1, 3))
def test_the_search_finds_the_peak_of_what_has_one(peak, patience):
    calls = []

    def score(alpha):
        calls.append(alpha)
        return -abs(np.log2(alpha) - peak)

    scores = doubling_search(score, 1.0, 2.0, patience)
    assert max(scores, key=lambda a: scores[a]) == 2.0**peak
    assert list(scores) == sorted(scores)
    assert len(calls) == len(set(calls)) <= abs(peak) + 2 * patience + 1


def test_a_flat_score_and_one_that_never_falls_end():
    assert len(doubling_search(lambda alpha: 0.5, 1.0, patience=2)) == 5
    assert len(doubling_search(lambda alpha: alpha, 1.0, most=7)) == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [({"start": 0.0}, "`start`"), ({"factor": 1.0}, "`factor`. Expected a finite number > 1"),
     ({"patience": 0}, "`patience`")],
)  # fmt: skip
def test_bad_searches_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        doubling_search(lambda alpha: 0.0, **{"start": 1.0, **options})


def test_a_search_does_not_repeat_finished_runs(tmp_path, tiny):
    trained = []

    def train(settings, folder, resume):
        trained.append(settings.alpha)
        RunFolder.create(folder, settings)
        RunFolder(folder).write_json("metrics.json", {"score": -abs(settings.alpha - 16.0)})
        return {"score": -abs(settings.alpha - 16.0)}

    search = {"label": "score", "start": 4.0, "patience": 1}
    for _ in range(2):
        scores, files = sweep_alpha(tiny(), train, "score", tmp_path / "out", **search)
    assert list(scores) == [4.0, 8.0, 16.0, 32.0] == trained
    assert all(file.stat().st_size > 0 for file in files)
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["best"] == 16.0
    with pytest.raises(ValueError, match=r"`resume`.*lr: 0.001 in the run, 0.5 now"):
        sweep_alpha(tiny(lr=0.5), train, "score", tmp_path / "out", **search)


def test_the_command_searches_on_texts(tmp_path, sts, tiny_encoder, fmicl):
    code, out, err = fmicl(
        "sweep", "alpha", "simcse", "--model", tiny_encoder, "--data", sts,
        "--batch-size", 4, "--limit", 8, "--device", "cpu", "--patience", 1, "--factor", 64,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, err
    assert "best: --alpha" in out
    runs = [p for p in (tmp_path / "out").iterdir() if p.is_dir()]
    assert len(runs) >= 3
    assert all("sts" not in json.loads((r / "metrics.json").read_text()) for r in runs)
    assert (tmp_path / "out" / "alpha.png").stat().st_size > 0


def test_images_are_searched_without_their_test_images():
    data = load_images("digits")
    split = validation_split(data)
    assert len(split.train_images) + len(split.test_images) == len(data.train_images)
    whole = {image.tobytes() for image in data.test_images}
    train = {image.tobytes() for image in data.train_images}
    held = {image.tobytes() for image in split.test_images}
    assert held <= train
    assert len(held & whole) == len(train & whole & held)


@pytest.mark.slow
def test_the_command_searches_on_images(tmp_path, fmicl):
    pytest.importorskip("lightning", reason="images are trained by Lightning")
    code, out, err = fmicl(
        "sweep", "alpha", "simclr", "--data", "digits", "--limit", 256,
        "--epochs", 2, "--warmup-epochs", 0, "--batch-size", 64, "--device", "cpu", "--patience", 1,
        "--factor", 16, "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, err
    assert "best: --alpha" in out
