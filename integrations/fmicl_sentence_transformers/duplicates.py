"""Which samples of a batch share a text: texts are told apart by their tokens, on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fmicl_core.checks import invalid


def text_keys(features: Mapping[str, Any]) -> torch.Tensor:
    """The keys of a column of N texts, int64 (N,): equal for equal texts, whatever their padding.

    key = sum over the tokens of (token + 1) * weight of its place, modulo 2^64, with fixed random
    odd weights; two different texts share a key with a probability of about 2^-45.

    Args:
        features: output of the model's tokenizer: "input_ids" and "attention_mask" (N, T), or all
            tokens in one row, "input_ids" (T,) or (1, T), with the places where texts begin,
            "offsets" (N,) of static embeddings or "cu_seq_lens_q" (N + 1,) of flash attention.

    Raises:
        ValueError: the inputs are no tokens (images, bags of words).
    """
    tokens, mask = _tensor(features, "input_ids"), _tensor(features, "attention_mask")
    starts, ends = _tensor(features, "offsets"), _tensor(features, "cu_seq_lens_q")
    if ends is not None:
        starts = ends[:-1]
    if (
        tokens is not None and tokens.shape[-1:] == (tokens.numel(),)
        and starts is not None and starts.ndim == 1
    ):  # fmt: skip
        starts, every = starts.long(), torch.arange(tokens.numel(), device=tokens.device)
        rows = torch.searchsorted(starts, every, right=True) - 1
        weighted = _weighted(tokens.flatten(), every - starts[rows])
        return torch.zeros_like(starts).index_add_(0, rows, weighted)
    if tokens is not None and mask is not None and tokens.ndim == 2 and tokens.shape == mask.shape:
        mask = mask.bool()
        places = (mask.cumsum(dim=1) - 1).clamp(min=0)  # from the first token, wherever padding is
        return torch.where(mask, _weighted(tokens, places), 0).sum(dim=1)
    raise invalid(
        "mask_duplicates", "False for inputs other than tokens", True,
        why="Equal texts are recognised by `input_ids` with `attention_mask`, `offsets` or "
        f"`cu_seq_lens_q`, and the model's inputs are {sorted(features)}.",
    )  # fmt: skip


def _tensor(features: Mapping[str, Any], name: str) -> torch.Tensor | None:
    value = features.get(name)
    return value if isinstance(value, torch.Tensor) else None


def _weighted(tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    weights = _weights(tokens.shape[-1]).to(tokens.device)
    return (tokens.long() + 1) * weights[places]


def _weights(count: int) -> torch.Tensor:
    draws = np.random.default_rng(20402).integers(-(2**63), 2**63 - 1, size=count, dtype=np.int64)
    return torch.from_numpy(draws | 1)


def sample_numbers(keys: torch.Tensor, n: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """A number for every sample, the same for samples that share a text, directly or over others.

    Args:
        keys: keys of the texts, column after column: anchors, positives, any hard negatives.
        n: number N of samples, and so of anchors and of positives.

    Returns:
        The numbers of the N samples and those of the hard negatives, column after column; the
        second is None without hard negatives. (None, None) when no text stands in two samples,
        and no hard negative is the text of a sample.
    """
    values, texts = np.unique(keys.cpu().numpy(), return_inverse=True)
    own = texts[: 2 * n]
    # A graph of samples and texts: each sample is tied to its anchor and to its positive.
    size = n + len(values)
    ties = (np.ones(2 * n), (np.tile(np.arange(n), 2), n + own))
    _, number = connected_components(coo_array(ties, shape=(size, size)), directed=False)
    samples, hard = number[:n], number[n + texts[2 * n :]]
    if len(np.unique(samples)) == n and not np.isin(hard, samples).any():
        return None, None
    given, others = (torch.from_numpy(i.astype(np.int64)).to(keys.device) for i in (samples, hard))
    return given, others if len(hard) else None


def labels_of_texts(keys: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A label for every hard negative: that of a sample with the same text, or else nobody's.

    Args:
        keys: keys of the texts, column after column: anchors, positives, hard negatives.
        labels: (N,) labels of the samples.
    """
    own, hard = keys[: 2 * len(labels)], keys[2 * len(labels) :]
    order = own.argsort()
    place = torch.searchsorted(own[order], hard).clamp(max=len(own) - 1)
    found = order[place]
    nobodys = labels.max() + 1
    return torch.where(own[found] == hard, labels[found % len(labels)], nobodys)
