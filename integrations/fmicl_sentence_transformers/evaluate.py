"""Spearman correlations on the STS tasks, by the evaluators of sentence-transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

from fmicl_recipes import sphere
from fmicl_recipes.text.data import Table, normalised

Vectors = dict[str, NDArray[np.float32]]
#: Fewer pairs than this give no correlation worth a number.
LEAST_PAIRS = 10
#: From this score on (of 5) two sentences mean about the same.
ALIKE = 4.0


class KnownEmbeddings(EmbeddingSimilarityEvaluator):
    """The library's evaluator on sentences that were embedded before, once for all tasks."""

    def __init__(self, vectors: Vectors, *lists: list[Any], name: str) -> None:
        super().__init__(*lists, main_similarity="cosine", name=name, write_csv=False)
        self.vectors = vectors

    def embed_inputs(
        self, model: SentenceTransformer, sentences: Any, **options: Any
    ) -> NDArray[np.float32]:
        """Embeddings (N, D) of known sentences."""
        return np.stack([self.vectors[sentence] for sentence in sentences])


def sts_scores(
    model: SentenceTransformer,
    rows: Table,
    seen: set[str],
    *,
    limit: int | None = None,
    splits: tuple[str, ...] = ("test", "dev"),
    progress: bool = True,
) -> dict[str, Any]:
    """Spearman correlation of cosine and human score, a task at a time, all its sources together.

    Args:
        model: the encoder.
        rows: columns task, split, sentence1, sentence2, score.
        seen: normalised sentences of the training data.
        limit: use at most this many test pairs of a task, drawn the same every time.
        splits: evaluate these; "dev" is that of STS-B.
        progress: show a progress bar while embedding.

    Returns:
        "sts" by task and "sts_mean" over the test pairs, the same of the pairs none of whose
        sentences was in the training data as "sts_unseen" and "sts_unseen_mean", the number of
        pairs as "sts_pairs" and "sts_unseen_pairs", "stsb_dev", and over its pairs with a score of
        4 or more alignment, over its sentences uniformity and rank.
    """
    index = {split: _indices(rows, split, limit) for split in splits}
    used = sorted({i for tasks in index.values() for task in tasks.values() for i in task})
    texts = dict.fromkeys(rows[c][i] for c in ("sentence1", "sentence2") for i in used)
    vectors = _embed(model, list(texts), progress)
    scores: dict[str, Any] = {}
    if "test" in splits:
        unseen = {task: _unseen(rows, pairs, seen) for task, pairs in index["test"].items()}
        for key, tasks in (("sts", index["test"]), ("sts_unseen", unseen)):
            found = {k: _spearman(model, vectors, rows, v, k) for k, v in tasks.items()}
            known = {k: v for k, v in found.items() if v is not None}
            scores[key] = known
            scores[f"{key}_pairs"] = {k: len(tasks[k]) for k in known}
            if known:
                scores[f"{key}_mean"] = float(np.mean(list(known.values())))
    if "stsb" in index.get("dev", {}):
        pairs = index["dev"]["stsb"]
        scores["stsb_dev"] = _spearman(model, vectors, rows, pairs, "stsb_dev")
        scores |= _spread(vectors, rows, pairs)
    return scores


def _indices(rows: Table, split: str, limit: int | None) -> dict[str, list[int]]:
    """Rows of a split by task."""
    found: dict[str, list[int]] = {}
    for i, (task, part) in enumerate(zip(rows["task"], rows["split"], strict=True)):
        if part == split:
            found.setdefault(task, []).append(i)
    if limit is None or split != "test":
        return found
    draw = np.random.default_rng(0)
    return {k: sorted(draw.permutation(v)[:limit].tolist()) for k, v in found.items()}


def _unseen(rows: Table, pairs: list[int], seen: set[str]) -> list[int]:
    first, second = (normalised(rows[c][i] for i in pairs) for c in ("sentence1", "sentence2"))
    return [i for i, a, b in zip(pairs, first, second, strict=True) if not {a, b} & seen]


def _embed(model: SentenceTransformer, texts: list[str], progress: bool) -> Vectors:
    rows = model.encode(texts, batch_size=64, show_progress_bar=progress, convert_to_numpy=True)
    return dict(zip(texts, rows.astype(np.float32), strict=True))


def _spearman(
    model: SentenceTransformer, vectors: Vectors, rows: Table, pairs: list[int], name: str
) -> float | None:
    if len(pairs) < LEAST_PAIRS:
        return None
    lists = [[rows[c][i] for i in pairs] for c in ("sentence1", "sentence2", "score")]
    evaluator = KnownEmbeddings(vectors, *lists, name=name)
    value = evaluator(model)[evaluator.primary_metric]
    return float(value) if np.isfinite(value) else None


def _spread(vectors: Vectors, rows: Table, pairs: list[int]) -> dict[str, float]:
    alike = [i for i in pairs if rows["score"][i] >= ALIKE]
    if len(alike) < 2:
        return {}
    x, y = (np.stack([vectors[rows[c][i]] for i in alike]) for c in ("sentence1", "sentence2"))
    every = np.stack([vectors[rows["sentence1"][i]] for i in pairs])
    return {
        "alignment": sphere.alignment(x, y),
        "uniformity": sphere.uniformity(every),
        "embedding_rank": sphere.embedding_rank(every),
    }
