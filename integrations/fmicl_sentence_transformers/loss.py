"""f-MICL as a loss of sentence-transformers, in place of MultipleNegativesRankingLoss."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.merged_forward import embed_columns
from sentence_transformers.util import all_gather, all_gather_with_grad
from sentence_transformers.util.distributed import get_rank, get_world_size
from torch import nn

import fmicl_torch
from fmicl_core import Divergence, Gaussian, Similarity
from fmicl_core.checks import check_bool, check_ids, invalid
from fmicl_recipes.text import TEXT_DEFAULTS
from fmicl_sentence_transformers.duplicates import labels_of_texts, sample_numbers, text_keys
from fmicl_torch import FMICLTerms
from fmicl_torch.inputs import explain_non_finite, prepare

Features = dict[str, Any]

CITATION = """
@article{lu2023fmicl,
    title = {f-MICL: Understanding and Generalizing InfoNCE-based Contrastive Learning},
    author = {Lu, Yiwei and Zhang, Guojun and Sun, Sun and Guo, Hongyu and Yu, Yaoliang},
    journal = {Transactions on Machine Learning Research},
    year = {2023},
    url = {https://arxiv.org/abs/2402.10150}
}
"""


class FMICLLoss(nn.Module):
    """f-MICL for (anchor, positive) pairs, with hard negatives or without, or for labelled texts.

    loss = - mean_i s(a_i, p_i) + alpha * mean over negative pairs of f*(s), with the embeddings of
    anchors a_i and positives p_i, s = f'(G(|a - p|^2)) and f* the convex conjugate of f. Inputs are
    those of MultipleNegativesRankingLoss, and labels are not read unless `ids_from_labels`:

    - (anchor, positive): the other samples of the batch are negatives, by `negatives`;
    - (anchor, positive, negative_1, ..., negative_n): all M hard negatives h_k of the batch are
      negatives of every anchor, too, {(a_i, h_k)}. The mean over these pairs has the weight
      M / (M + N - 1) and the mean over the pairs of the batch the rest: with "cross" and "anchor"
      each pair then counts the same;
    - the same sentence in both columns: unsupervised SimCSE, two views by dropout;
    - with `ids_from_labels`, (anchor, positive, label), where (a_i, p_j) with equal labels are
      positives, or (text, label), where texts with equal labels are.

    A batch without negative pairs, such as a last one of one pair, or of single texts without two
    equal labels, has a loss and a gradient of 0.

    Args:
        model: SentenceTransformer in training.
        divergence: name or `fmicl_core.Divergence`.
        similarity: name or `fmicl_core.Similarity`; by default the paper's for texts, a Gaussian
            with 1/(2 sigma^2) = 20.
        alpha: weight of the negative term. "auto" finds it from every batch: strength / mean of
            u = e^L over all negative pairs, hard negatives and batches of other processes
            included; `used_alpha` is that of the last batch. Or a number > 0, which has to fit
            kernel and encoder: the paper's for texts is 409600, and `fmicl sweep alpha` finds it.
        strength: factor > 0 of alpha="auto"; None: 5.
        negatives: pairs that count as negative: "cross" {(a_i, p_j), i != j}, as in
            MultipleNegativesRankingLoss; "anchor" {(a_i, a_j), i != j}, as the paper prints;
            "within", the mean of "anchor" and the same on the positives; "all", every pair of
            different samples.
        normalize: whether embeddings are scaled to unit length first.
        gather_across_devices: whether the batches of all processes are taken together. The loss
            then is that of their union, of which every process computes its share, and
            DistributedDataParallel, which averages gradients, gives parameters the gradient of one
            process with the whole batch. Processes need batches of equal size.
        mask_duplicates: whether samples that share a text are kept from being negatives of each
            other, and hard negatives that are the text of a sample from being negatives of it. With
            `ids_from_labels` it concerns the hard negatives alone.
        ids_from_labels: whether the data's labels are whole numbers that say which samples belong
            together; hard negatives have none and are negatives of all.
        return_parts: whether the loss of a batch is a dictionary of two parts, "score" (the mean
            score, negated) and "penalty" (alpha times the mean penalty), which sum to it; the
            trainer of sentence-transformers adds them up and logs each.
        check_finite: whether a loss that is not finite raises, which costs one read of a scalar.

    Raises:
        ValueError: an option is unknown or out of range; a batch has fewer than two columns, or
            embeddings that are not finite.

    Warns:
        UserWarning: a batch has no negatives. This is said once.

    Source: the objective of Lu et al. (2023).
    """

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        divergence: Divergence | str = TEXT_DEFAULTS.divergence,
        similarity: Similarity | str = Gaussian(TEXT_DEFAULTS.sigma2),  # noqa: B008, frozen
        alpha: float | str = TEXT_DEFAULTS.alpha,
        strength: float | None = None,
        negatives: str = TEXT_DEFAULTS.negatives,
        normalize: bool = True,
        gather_across_devices: bool = False,
        mask_duplicates: bool = True,
        ids_from_labels: bool = False,
        return_parts: bool = False,
        check_finite: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        self.ids_from_labels = check_bool("ids_from_labels", ids_from_labels)
        self.return_parts = check_bool("return_parts", return_parts)
        self.fmicl = fmicl_torch.FMICLLoss(
            divergence=divergence, similarity=similarity, alpha=alpha, strength=strength,
            negatives=negatives, positives="ids" if ids_from_labels else "pair",
            normalize=normalize, check_finite=check_finite,
        )  # fmt: skip
        self.gather_across_devices = check_bool("gather_across_devices", gather_across_devices)
        self.mask_duplicates = check_bool("mask_duplicates", mask_duplicates)
        #: The weight alpha of the last batch, which it had no negatives for where it is 0.
        self.used_alpha: torch.Tensor | None = None
        #: Whether it was said that a batch had no negatives.
        self.warned = False

    def forward(
        self, sentence_features: Iterable[Features], labels: torch.Tensor | None = None
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """The loss of a batch; scalar, or its two parts."""
        columns = self.columns(sentence_features)
        keys = self.keys(columns)
        terms = self.terms(embed_columns(self.model, columns), keys, labels)
        if not self.return_parts:
            return terms.loss
        return {"score": -terms.score, "penalty": self._weight(terms) * terms.penalty}

    def compute_loss_from_embeddings(
        self, embeddings: Sequence[torch.Tensor], labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss of embeddings (N, D) by column; duplicates are not known and so not masked."""
        return self.terms(embeddings, None, labels).loss

    def columns(self, sentence_features: Iterable[Features]) -> list[Features]:
        """The columns of a batch.

        Raises:
            ValueError: there are too few of them.
        """
        columns, least = list(sentence_features), 1 if self.ids_from_labels else 2
        if len(columns) < least:
            raise invalid(
                "sentence_features", "two columns or more: anchor, positive[, negative_1, ...]",
                len(columns), what="columns",
                why="A single column of texts needs labels, and ids_from_labels=True.",
            )  # fmt: skip
        return columns

    def keys(self, columns: Sequence[Features]) -> torch.Tensor | None:
        """Keys of the texts, column after column, equal for equal texts; None masks nothing."""
        needed = self.mask_duplicates and (not self.ids_from_labels or len(columns) > 2)
        return torch.cat([text_keys(column) for column in columns]) if needed else None

    def terms(
        self,
        embeddings: Sequence[torch.Tensor],
        keys: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> FMICLTerms:
        """Loss, score, penalty and alpha of embeddings (N, D) by column.

        Args:
            embeddings: columns: anchors, positives, and any columns of hard negatives.
            keys: keys of the texts, as `keys` makes them; None masks nothing.
            labels: (N,) labels of the samples; read with `ids_from_labels` alone.

        Raises:
            ValueError: as `FMICLLoss`, and when labels are asked for and missing.
        """
        terms = self._terms(embeddings, keys, labels)
        self.used_alpha = terms.alpha
        return terms

    def _terms(
        self,
        embeddings: Sequence[torch.Tensor],
        keys: torch.Tensor | None,
        labels: torch.Tensor | None,
    ) -> FMICLTerms:
        """`terms`."""
        labels = self._checked_labels(labels, len(embeddings[0]))
        x, y = embeddings[0], embeddings[1] if len(embeddings) > 1 else None
        columns = embeddings[2:]
        ranks, rank = 1, 0
        if self.gather_across_devices:
            # Whole numbers and hard negatives alone: the loss takes the rest of the union itself.
            ranks, rank = get_world_size(), get_rank()
            if keys is not None:
                parts = keys.split([len(column) for column in embeddings])
                keys = torch.cat([all_gather(part) for part in parts])
            labels = None if labels is None else all_gather(labels)
            columns = [all_gather_with_grad(column) for column in columns]
        self.fmicl.distributed = ranks > 1
        total, hard = ranks * len(x), torch.cat(list(columns)) if columns else None
        if labels is None:
            every, hard_ids = (None, None) if keys is None else sample_numbers(keys, total)
        else:
            every = labels
            hard_ids = None if hard is None or keys is None else labels_of_texts(keys, labels)
        alone = total == 1 if every is None else bool((every == every[0]).all())
        if alone and (hard is None or _all_of(hard_ids, every)):
            return self._nothing(x, y, hard)
        if y is None and every is not None and len(every.unique()) == total:
            return self._nothing(x, y, hard)
        ids = None if every is None else every.chunk(ranks)[rank]
        if hard is None:
            return self.fmicl.terms(x, y, ids=ids)
        bank = self.fmicl.terms(x, y, hard, ids=ids, bank_ids=hard_ids)
        if alone:
            return bank
        batch = self.fmicl.terms(x, y, ids=ids)
        share = len(hard) / (len(hard) + total - 1)
        more = share * (bank.penalty - batch.penalty)
        if self.finds_alpha:  # strength / mean of u over the pairs of both kinds, by that of each
            alpha = 1.0 / ((1.0 - share) / batch.alpha + share / bank.alpha)
            batch = batch._replace(loss=alpha * batch.penalty - batch.score, alpha=alpha)
        loss = batch.loss + self._weight(batch) * more
        return batch._replace(loss=loss, penalty=batch.penalty + more)

    @property
    def finds_alpha(self) -> bool:
        """Whether alpha is found from every batch."""
        return isinstance(self.fmicl.alpha, str)

    def _weight(self, terms: FMICLTerms) -> torch.Tensor | float:
        """The weight alpha of the penalty in these terms, of which a tensor may learn."""
        alpha = self.fmicl.alpha
        return terms.alpha if isinstance(alpha, str) else alpha

    def _checked_labels(self, labels: torch.Tensor | None, rows: int) -> torch.Tensor | None:
        """The labels as whole numbers, one a sample, or None where they are not read."""
        if not self.ids_from_labels:
            return None
        if not isinstance(labels, torch.Tensor):
            raise invalid("labels", "a torch.Tensor of whole numbers with ids_from_labels=True",
                          type(labels).__name__, what="type(labels)")  # fmt: skip
        check_ids("labels", labels.shape, str(labels.dtype).removeprefix("torch."), rows)
        return labels

    def _nothing(
        self, x: torch.Tensor, y: torch.Tensor | None, hard: torch.Tensor | None
    ) -> FMICLTerms:
        """Terms that are 0, with a gradient of 0 in every embedding."""
        if not self.warned:
            why = (
                "one sample only, which has no negative" if not self.ids_from_labels
                else "one label only, and so no negative pair, or single texts whose labels are all"
                " different, and so no positive pair"
            )  # fmt: skip
            warnings.warn(
                f"A batch of {len(x)} holds {why}: its loss and "
                "its gradient are 0. dataloader_drop_last=True leaves a last batch of one out. "
                "This is said once.",
                UserWarning,
                stacklevel=2,
            )
            self.warned = True
        rows = prepare(x, y, hard, normalize=False, least=1, has_ids=self.ids_from_labels)
        zero = torch.stack([(0.0 * side).sum() for side in rows.values()]).sum()
        if self.fmicl.check_finite and (error := explain_non_finite(x, y, hard)):
            raise error
        return FMICLTerms(zero, zero, zero, zero.detach())

    def get_config_dict(self) -> dict[str, Any]:
        """The options, for the model card."""
        o = self.fmicl.objective
        return {
            "divergence": repr(o.divergence),
            "similarity": repr(o.similarity),
            "alpha": o.alpha,
            **({} if o.strength is None else {"strength": o.strength}),
            "negatives": o.negatives,
            "normalize": o.normalize,
            "gather_across_devices": self.gather_across_devices,
            "mask_duplicates": self.mask_duplicates,
            "ids_from_labels": self.ids_from_labels,
        }

    @property
    def citation(self) -> str:
        """BibTeX of the paper, for the model card."""
        return CITATION


def _all_of(hard_ids: torch.Tensor | None, ids: torch.Tensor | None) -> bool:
    """Whether every hard negative is a text of the only sample."""
    if hard_ids is None or ids is None:
        return False
    return bool((hard_ids == ids[0]).all())
