"""f-MICL of sentence-transformers with gradient caching, for batches larger than memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.gradcache import CachedLossMixin, has_static_embedding_input

from fmicl_core.checks import check_at_least, invalid
from fmicl_sentence_transformers.loss import Features, FMICLLoss


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
        if self.return_parts:
            raise invalid("return_parts", "False for CachedFMICLLoss", True,
                          why="Its backward pass starts from one number.")  # fmt: skip
        self.mini_batch_size = check_at_least("mini_batch_size", mini_batch_size, 1)
        if mini_batch_num_tokens is not None:
            check_at_least("mini_batch_num_tokens", mini_batch_num_tokens, 1)
        self.mini_batch_num_tokens = mini_batch_num_tokens
        self.show_progress_bar = show_progress_bar

    def forward(
        self, sentence_features: Iterable[Features], labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss of a batch; scalar whose backward pass embeds the batch again, in parts."""
        columns = self.columns(sentence_features)
        # The library hands on what stands for labels, and looks at nothing in it.
        keys_and_labels: Any = self.keys(columns), labels
        return self.forward_cached(columns, keys_and_labels)

    def calculate_loss(
        self,
        reps: list[list[torch.Tensor]],
        labels: Any = None,
        *,
        with_backward: bool = False,
    ) -> torch.Tensor:
        """The loss of embeddings by column and part; `labels` are keys of the texts and labels."""
        loss = self.terms([torch.cat(parts) for parts in reps], *(labels or ())).loss
        if with_backward:
            loss.backward()
            return loss.detach()
        return loss

    def get_config_dict(self) -> dict[str, Any]:
        """The options, for the model card."""
        more = {name: getattr(self, name) for name in ("mini_batch_size", "mini_batch_num_tokens")}
        return super().get_config_dict() | more
