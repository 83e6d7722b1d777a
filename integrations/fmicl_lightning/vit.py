"""Vision transformer of MoCo v3: fixed sine-cosine positions, class token, ViT-S in 6 heads."""

from __future__ import annotations

import math

import torch
from torch import nn

from fmicl_core.checks import invalid

HEADS = 6


class ViT(nn.Module):
    """Images (N, C, H, W) to the class token (N, dim) after `depth` blocks.

    Args:
        channels: C.
        width: channels per head, even; dim = 6 * width, so that 64 is ViT-S.
        depth: number of blocks.
        patch_size: pixels a side of a patch, a divisor of H and W.

    Raises:
        ValueError: the width is odd, or the patches do not tile the images.

    Source: Dosovitskiy et al. (2021), in the form of Chen et al. (2021), section 4.1 and its code.
    """

    def __init__(self, channels: int, width: int, depth: int, patch_size: int) -> None:
        super().__init__()
        if width % 2:
            raise invalid("width", "an even number for a ViT", width)
        dim = HEADS * width
        self.patches = nn.Conv2d(channels, dim, patch_size, patch_size)
        self.token = nn.Parameter(torch.empty(dim))
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    dim, HEADS, 4 * dim, dropout=0.0, activation="gelu", layer_norm_eps=1e-6,
                    batch_first=True, norm_first=True,
                )
                for _ in range(depth)
            )
        )  # fmt: skip
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self._draw()

    def _draw(self) -> None:
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            elif name.endswith("in_proj_weight"):  # query, key and value, each on its own
                bound = math.sqrt(6.0 / (weight.shape[0] // 3 + weight.shape[1]))
                nn.init.uniform_(weight, -bound, bound)
            elif weight.ndim > 1:
                nn.init.xavier_uniform_(weight.flatten(1))
        nn.init.normal_(self.token, std=1e-6)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features (N, dim)."""
        size = self.patches.kernel_size[0]
        if images.shape[-2] % size or images.shape[-1] % size:
            sides = f"{images.shape[-2]} x {images.shape[-1]}"
            raise invalid("patch_size", f"a divisor of the images' sides, {sides}", size)
        grid = self.patches(images)
        place = sine_cosine(grid.shape[-2], grid.shape[-1], grid.shape[1], grid.device)
        tokens = grid.flatten(2).transpose(1, 2) + place
        token = self.token.expand(len(tokens), 1, -1)
        return self.norm(self.blocks(torch.cat([token, tokens], dim=1))[:, 0])


def sine_cosine(
    height: int, width: int, dim: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Positions (height * width, dim), row by row: sine and cosine of column, then of row.

    The frequencies are 10000^(-i / (dim / 4)), i < dim / 4. Source: Chen et al. (2021), its code.
    """
    rate = 10000.0 ** (-torch.arange(dim // 4, device=device) / (dim // 4))
    row, column = (
        torch.arange(n, device=device)[:, None] * rate for n in (height, width)
    )  # fmt: skip
    column = column.repeat(height, 1)
    row = row.repeat_interleave(width, dim=0)
    return torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], dim=1)
