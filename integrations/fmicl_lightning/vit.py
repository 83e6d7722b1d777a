"""Vision transformer of MoCo v3: fixed sine-cosine positions, class token, ViT-S in 6 heads."""

from __future__ import annotations

import math

import torch
from torch import nn

from fmicl_recipes.vit import EPSILON, HEADS, TOKEN_DEVIATION, check_patches, sine_cosine, token_dim


class ViT(nn.Module):
    """A transformer from images (N, C, H, W) to the class token (N, dim) after `depth` blocks.

    Args:
        channels: number C of channels of the images.
        width: channels per head, even; tokens have dim = 6 * width, and 64 is ViT-S.
        depth: number of blocks.
        patch_size: pixels a side of a patch, a divisor of H and W.

    Raises:
        ValueError: the width is odd, or the patches do not tile the images.

    Source: Dosovitskiy et al. (2021), in the form of Chen et al. (2021), section 4.1 and its code.
    """

    def __init__(self, channels: int, width: int, depth: int, patch_size: int) -> None:
        super().__init__()
        dim = token_dim(width)
        self.patches = nn.Conv2d(channels, dim, patch_size, patch_size)
        self.token = nn.Parameter(torch.empty(dim))
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    dim, HEADS, 4 * dim, dropout=0.0, activation="gelu", layer_norm_eps=EPSILON,
                    batch_first=True, norm_first=True,
                )
                for _ in range(depth)
            )
        )  # fmt: skip
        self.norm = nn.LayerNorm(dim, eps=EPSILON)
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
        nn.init.normal_(self.token, std=TOKEN_DEVIATION)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features (N, dim)."""
        check_patches(self.patches.kernel_size[0], *images.shape[-2:])
        grid = self.patches(images)
        place = torch.from_numpy(sine_cosine(grid.shape[-2:], grid.shape[1]))
        # A copy that does not wait for the device.
        place = place.to(grid.device, non_blocking=True)
        tokens = grid.flatten(2).transpose(1, 2) + place
        token = self.token.expand(len(tokens), 1, -1)
        return self.norm(self.blocks(torch.cat([token, tokens], dim=1))[:, 0])
