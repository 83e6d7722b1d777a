"""Scores of an encoder on tasks of semantic textual similarity (STS), by sentence-transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

from fmicl_recipes import sphere
from fmicl_recipes.text.data import Table, normalised

Vectors = dict[str, NDArray[np.float32]]
#: Smallest number of pairs whose correlation is worth a number.
LEAST_PAIRS = 10
#: Smallest human score (of 5) at which two sentences mean about the same.
ALIKE = 4.0


class KnownEmbeddings(EmbeddingSimilarityEvaluator):
    """The library's evaluator on sentences that were embedded before, once for all tasks."""

    def __init__(
        self, vectors: Vectors, first: list[str], second: list[str], scores: list[float], name: str
    ) -> None:
        super().__init__(
            first, second, scores, main_similarity="cosine", name=name, write_csv=False
        )
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
    """Spearman correlations of cosine and human score, one for each task with all its sources.

    Args:
        model: encoder.
        rows: table with the columns task, split, sentence1, sentence2, score.
        seen: normalised sentences of the training data.
        limit: largest number of test pairs of a task, drawn the same every time; None for all.
        splits: splits to evaluate on; "dev" is the one of STS-B.
        progress: whether a progress bar is shown while embedding.

    Returns:
        "sts", by task, and "sts_mean", over the test pairs. The same over the pairs none of whose
        sentences was in the training data, "sts_unseen" and "sts_unseen_mean". Numbers of pairs,
        "sts_pairs" and "sts_unseen_pairs". Over the development pairs of STS-B the correlation
        "stsb_dev", "alignment" of the pairs with a score of 4 or more, and "uniformity" and
        "embedding_rank" of the first sentences.
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
    """The numbers of a split's rows, by task."""
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
    first, second, scores = (
        [rows[c][i] for i in pairs] for c in ("sentence1", "sentence2", "score")
    )
    value = KnownEmbeddings(vectors, first, second, scores, name)(model)[f"{name}_spearman_cosine"]
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
