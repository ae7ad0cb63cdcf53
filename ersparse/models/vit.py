"""Vision transformers (Dosovitskiy et al. 2021) in the sizes of DeiT (Touvron et al. 2021), without dropout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ersparse.errors import UserError

MOST_PATCHES = 14  # along a side, as with patches of 16 pixels on images of 224


class Attention(nn.Module):
    """Multi-head self-attention, with one linear layer for queries, keys and values."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.projection = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output [B, N, dim] of tokens x [B, N, dim]."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        attended = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.projection(attended.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Attention and a perceptron of one hidden layer, each after a normalisation and with a residual connection."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), Attention(dim, heads)
        self.norm2, self.mlp = (
            nn.LayerNorm(dim),
            nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output [B, N, dim] of tokens x [B, N, dim]."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionTransformer(nn.Module):
    """Patches as tokens, a class token, learned positions, transformer blocks, and a linear classifier.

    Args:
        num_classes: number of outputs.
        channels: channels of an input image.
        image_size: side of a square input image in pixels, or its height and width.
        patch: side of a patch in pixels; None chooses the smallest with at most 14 patches along a side.
        head_dim: channels of a head.
        heads: number of heads; tokens have `heads * head_dim` channels.
        depth: number of blocks.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int,
        image_size: int | Sequence[int],
        patch: int | None,
        head_dim: int,
        heads: int,
        depth: int,
    ) -> None:
        super().__init__()
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        dim, patch = heads * head_dim, patch_size(height, width, patch)
        self.patches = nn.Conv2d(channels, dim, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, 1 + (height // patch) * (width // patch), dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        """Draw all weights from the truncated normal distribution with standard deviation 0.02, as DeiT does."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits [B, num_classes] of images [B, channels, image_size, image_size]."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], dim=1) + self.positions
        logits: Tensor = self.classifier(self.norm(self.blocks(tokens))[:, 0])
        return logits


def patch_size(height: int, width: int, patch: int | None) -> int:
    """Return the side of a patch, in pixels.

    Raises:
        UserError: `patch` does not divide the image.
    """
    sides = [side for side in range(1, min(height, width) + 1) if height % side == width % side == 0]
    if patch is None:
        return next((side for side in sides if max(height, width) // side <= MOST_PATCHES), sides[-1])
    if patch not in sides:
        raise UserError(f"model.patch={patch}: must divide dataset.image_size={[height, width]}")
    return patch


def vit_tiny(
    num_classes: int,
    channels: int = 3,
    width: float = 1.0,
    image_size: int | Sequence[int] = 224,
    patch: int | None = None,
) -> VisionTransformer:
    """Build the vision transformer of DeiT-Ti: 12 blocks of 3 heads with 64 channels.

    Args:
        num_classes: number of outputs.
        channels: channels of an input image.
        width: factor on the channels of a head, and so on every hidden width.
        image_size: side of a square input image in pixels, or its height and width.
        patch: side of a patch in pixels; None chooses the smallest with at most 14 patches along a side.
    """
    return VisionTransformer(num_classes, channels, image_size, patch, max(1, round(64 * width)), heads=3, depth=12)


def deit_small(
    num_classes: int,
    channels: int = 3,
    width: float = 1.0,
    image_size: int | Sequence[int] = 224,
    patch: int | None = None,
) -> VisionTransformer:
    """Build the vision transformer of DeiT-S: 12 blocks of 6 heads with 64 channels.

    Args:
        num_classes: number of outputs.
        channels: channels of an input image.
        width: factor on the channels of a head, and so on every hidden width.
        image_size: side of a square input image in pixels, or its height and width.
        patch: side of a patch in pixels; None chooses the smallest with at most 14 patches along a side.
    """
    return VisionTransformer(num_classes, channels, image_size, patch, max(1, round(64 * width)), heads=6, depth=12)
