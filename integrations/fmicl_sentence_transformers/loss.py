"""f-MICL as a loss of sentence-transformers, in place of MultipleNegativesRankingLoss."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.gradcache import CachedLossMixin, has_static_embedding_input
from sentence_transformers.base.losses.merged_forward import embed_columns
from sentence_transformers.util import all_gather, all_gather_with_grad
from torch import nn

import fmicl_torch
from fmicl_core import Divergence, Gaussian, Similarity
from fmicl_core.checks import check_at_least, check_bool, invalid
from fmicl_recipes.text import TEXT_DEFAULTS
from fmicl_sentence_transformers.duplicates import sample_numbers, text_keys
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
    """f-MICL for (anchor, positive) pairs, with hard negatives or without.

    loss = - mean_i s(a_i, p_i) + alpha * mean over negative pairs of f*(s), with the embeddings of
    anchors a_i and positives p_i, s = f'(G(|a - p|^2)) and f* the convex conjugate of f. Inputs are
    those of MultipleNegativesRankingLoss, and labels are not read:

    - (anchor, positive): the other samples of the batch are negatives, by `negatives`;
    - (anchor, positive, negative_1, ..., negative_n): all M hard negatives h_k of the batch are
      negatives of every anchor, too, {(a_i, h_k)}. The mean over these pairs has the weight
      M / (M + N - 1) and the mean over the pairs of the batch the rest: with "cross" and "anchor"
      each pair then counts the same;
    - the same sentence in both columns: unsupervised SimCSE, two views by dropout.

    A batch without negatives, such as a last one of one pair, has a loss and a gradient of 0.

    Args:
        model: SentenceTransformer in training.
        divergence: name or `fmicl_core.Divergence`.
        similarity: name or `fmicl_core.Similarity`; by default the paper's for texts, a Gaussian
            with 1/(2 sigma^2) = 20.
        alpha: weight of the negative term, > 0; by default the paper's for texts. A sharper kernel
            needs a larger one; `fmicl sweep alpha` finds it.
        negatives: pairs that count as negative: "cross" {(a_i, p_j), i != j}, as in
            MultipleNegativesRankingLoss; "anchor" {(a_i, a_j), i != j}, as the paper prints;
            "within", the mean of "anchor" and the same on the positives; "all", every pair of
            different samples.
        normalize: whether embeddings are scaled to unit length first.
        gather_across_devices: whether the batches of all processes are taken together. Every
            process then computes the same loss over the union, and DistributedDataParallel, which
            averages gradients, gives parameters the gradient of one process with the whole batch.
            Processes need batches of equal size.
        mask_duplicates: whether samples that share a text are kept from being negatives of each
            other, and hard negatives that are the text of a sample from being negatives at all. A
            batch with such texts takes O(N^2) memory for the loss, every other one O(N D).
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
        alpha: float = TEXT_DEFAULTS.alpha,
        negatives: str = TEXT_DEFAULTS.negatives,
        normalize: bool = True,
        gather_across_devices: bool = False,
        mask_duplicates: bool = True,
        check_finite: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        self.fmicl = fmicl_torch.FMICLLoss(
            divergence=divergence, similarity=similarity, alpha=alpha, negatives=negatives,
            normalize=normalize, check_finite=check_finite,
        )  # fmt: skip
        self.gather_across_devices = check_bool("gather_across_devices", gather_across_devices)
        self.mask_duplicates = check_bool("mask_duplicates", mask_duplicates)
        #: Whether it was said that a batch had no negatives.
        self.warned = False

    def forward(
        self, sentence_features: Iterable[Features], labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss of a batch; scalar."""
        columns = _columns(sentence_features)
        keys = self.keys(columns)
        return self.terms(embed_columns(self.model, columns), keys).loss

    def compute_loss_from_embeddings(
        self, embeddings: Sequence[torch.Tensor], labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss of embeddings (N, D) by column; duplicates are not known and so not masked."""
        return self.terms(embeddings).loss

    def keys(self, columns: Sequence[Features]) -> torch.Tensor | None:
        """Keys of the texts, column after column, equal for equal texts; None masks nothing."""
        return (
            torch.cat([text_keys(column) for column in columns]) if self.mask_duplicates else None
        )

    def terms(
        self, embeddings: Sequence[torch.Tensor], keys: torch.Tensor | None = None
    ) -> FMICLTerms:
        """Loss, score and penalty of embeddings (N, D) by column.

        Args:
            embeddings: columns: anchors, positives, and any columns of hard negatives.
            keys: keys of the texts, as `keys` makes them; None masks nothing.
        """
        if self.gather_across_devices:
            if keys is not None:
                parts = keys.split([len(column) for column in embeddings])
                keys = torch.cat([all_gather(part) for part in parts])
            embeddings = [all_gather_with_grad(column) for column in embeddings]
        x, y = embeddings[:2]
        hard = torch.cat(list(embeddings[2:])) if len(embeddings) > 2 else None
        samples, hard_samples = (None, None) if keys is None else sample_numbers(keys, len(x))
        alone = len(x) == 1 if samples is None else bool((samples == samples[0]).all())
        if alone and (hard is None or _all_of(hard_samples, samples)):
            return self._nothing(x, y, hard)
        if hard is None:
            return self.fmicl.terms(x, y, None, samples)
        bank = self.fmicl.terms(x, y, hard, samples, hard_samples)
        if alone:
            return bank
        batch = self.fmicl.terms(x, y, None, samples)
        share = len(hard) / (len(hard) + len(x) - 1)
        return FMICLTerms(
            batch.loss + share * (bank.loss - batch.loss),
            batch.score,
            batch.penalty + share * (bank.penalty - batch.penalty),
        )

    def _nothing(self, x: torch.Tensor, y: torch.Tensor, hard: torch.Tensor | None) -> FMICLTerms:
        """Terms that are 0, with a gradient of 0 in every embedding."""
        if not self.warned:
            warnings.warn(
                f"A batch of {len(x)} holds one sample only, which has no negative: its loss and "
                "its gradient are 0. dataloader_drop_last=True leaves a last batch of one out. "
                "This is said once.",
                UserWarning,
                stacklevel=2,
            )
            self.warned = True
        rows = prepare(x, y, hard, normalize=False, least=1)
        zero = torch.stack([(0.0 * side).sum() for side in rows.values()]).sum()
        if self.fmicl.check_finite and (error := explain_non_finite(x, y, hard)):
            raise error
        return FMICLTerms(zero, zero, zero)

    def get_config_dict(self) -> dict[str, Any]:
        """The options, for the model card."""
        o = self.fmicl.objective
        return {
            "divergence": repr(o.divergence),
            "similarity": repr(o.similarity),
            "alpha": o.alpha,
            "negatives": o.negatives,
            "normalize": o.normalize,
            "gather_across_devices": self.gather_across_devices,
            "mask_duplicates": self.mask_duplicates,
        }

    @property
    def citation(self) -> str:
        """BibTeX of the paper, for the model card."""
        return CITATION


class CachedFMICLLoss(CachedLossMixin, FMICLLoss):
    """`FMICLLoss` with gradient caching, for batches whose activations do not fit in memory.

    The loss itself needs no cache: it takes O(N D) memory for embeddings (N, D). What grows with
    the batch are the encoder's activations. Here the batch is embedded in parts that keep none, the
    loss gives its gradient in the embeddings, and each part is embedded again to carry the gradient
    on. Loss and gradient are those of `FMICLLoss`, at the cost of a second forward pass.

    Args:
        model: SentenceTransformer in training.
        mini_batch_size: number of texts embedded at a time, which bounds the memory.
        mini_batch_num_tokens: number of tokens embedded at a time instead, or None.
        show_progress_bar: whether a bar over the parts is shown.
        options: options of `FMICLLoss`.

    Raises:
        ValueError: as `FMICLLoss` does, and for a model whose inputs cannot be cut into parts.

    Source: Gao et al. (2021), GradCache, by sentence-transformers.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        show_progress_bar: bool = False,
        **options: Any,
    ) -> None:
        if has_static_embedding_input(model):
            expected = "a model whose inputs can be cut into parts, or FMICLLoss"
            raise invalid("model", expected, "StaticEmbedding")
        super().__init__(model, **options)
        self.mini_batch_size = check_at_least("mini_batch_size", mini_batch_size, 1)
        if mini_batch_num_tokens is not None:
            check_at_least("mini_batch_num_tokens", mini_batch_num_tokens, 1)
        self.mini_batch_num_tokens = mini_batch_num_tokens
        self.show_progress_bar = show_progress_bar

    def forward(
        self, sentence_features: Iterable[Features], labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss of a batch; scalar whose backward pass embeds the batch again, in parts."""
        columns = _columns(sentence_features)
        return self.forward_cached(columns, self.keys(columns))

    def calculate_loss(
        self,
        reps: list[list[torch.Tensor]],
        labels: torch.Tensor | None = None,
        *,
        with_backward: bool = False,
    ) -> torch.Tensor:
        """The loss of embeddings by column and part; `labels` are what `keys` gives."""
        loss = self.terms([torch.cat(parts) for parts in reps], labels).loss
        if with_backward:
            loss.backward()
            return loss.detach()
        return loss

    def get_config_dict(self) -> dict[str, Any]:
        """The options, for the model card."""
        more = {name: getattr(self, name) for name in ("mini_batch_size", "mini_batch_num_tokens")}
        return super().get_config_dict() | more


def _all_of(hard_samples: torch.Tensor | None, samples: torch.Tensor | None) -> bool:
    """Whether every hard negative is a text of the only sample."""
    if hard_samples is None or samples is None:
        return False
    return bool((hard_samples == samples[0]).all())


def _columns(sentence_features: Iterable[Features]) -> list[Features]:
    columns = list(sentence_features)
    if len(columns) < 2:
        raise invalid(
            "sentence_features", "two columns or more: anchor, positive[, negative_1, ...]",
            len(columns), what="columns",
        )  # fmt: skip
    return columns
