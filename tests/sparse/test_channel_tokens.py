"""Reachability in networks of tokens (attention, windows, transformers), against automatic differentiation."""

import pytest
import torch
from positive_network import compare, linear, network_of
from torch import nn
from torch.nn import functional as F
from torchvision.models import SwinTransformer, VisionTransformer

from ersparse import models


class Attention(nn.Module):
    """Self-attention as people write it, with a projection of queries, keys and values together."""

    def __init__(self, width, heads, bias, how):
        super().__init__()
        self.qkv, self.out = linear(width, 3 * width, bias), linear(width, width, bias)
        self.heads, self.how = heads, how

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.how == "fused":
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.how == "matmul":
            y = F.softmax(q @ k.transpose(-2, -1) * 0.5, dim=-1) @ v
        else:
            y = torch.einsum("bhnm,bhmd->bhnd", F.softmax(torch.einsum("bhnd,bhmd->bhnm", q, k), dim=-1), v)
        return self.out(y.transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    """A transformer block with normalisation before or after the residual sum."""

    def __init__(self, width=8, heads=2, bias=True, how="fused", before=True):
        super().__init__()
        self.attention = Attention(width, heads, bias, how)
        self.up, self.down = linear(width, 12, bias), linear(12, width, bias)
        self.norms, self.before = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)]), before

    def forward(self, x):
        for norm, part in zip(self.norms, (self.attention, lambda h: self.down(F.gelu(self.up(h)))), strict=True):
            x = x + part(norm(x)) if self.before else norm(x + part(x))
        return x


class CrossAttention(nn.Module):
    """Learned queries that read the tokens of an image, and that count as an input."""

    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 3, 8))
        self.embed, self.head = linear(6, 8), linear(8, 5)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        tokens = self.embed(x)
        read, _ = self.attention(self.queries.expand(len(x), -1, -1), tokens, tokens, need_weights=False)
        return self.head(read.mean(1))


def windowed(self, x):
    """Attention within windows of two tokens, after a shift, without a library for reshaping."""
    h = self.embed(x).roll(1, 1)
    b, n, c = h.shape
    windows = h.view(b, n // 2, 2, c).reshape(-1, 2, c)
    return self.head(self.attention(windows).view(b, n, c).roll(-1, 1).flatten(1))


def mixed(self, x):
    """An MLP-Mixer: linear layers on the tokens and on the channels in turn."""
    h = self.embed(x)
    h = h + self.tokens(h.transpose(1, 2)).transpose(1, 2)
    return self.head((h + self.channels(h)).mean(1))


def self_attention(self, x):
    h = self.embed(x)
    return self.head(h + self.attention(h, h, h, need_weights=self.weights)[0])


def multi_head(weights, **options):
    network = network_of(
        self_attention,
        embed=linear(6, 8),
        attention=nn.MultiheadAttention(8, 2, batch_first=True, **options),
        head=linear(8, 5),
    )
    network.weights = weights
    return network


BLOCKS = {
    "fused attention": lambda: nn.Sequential(linear(6, 8), Block(), linear(8, 5)),
    "matmul": lambda: nn.Sequential(linear(6, 8), Block(how="matmul"), linear(8, 5)),
    "einsum, no biases": lambda: nn.Sequential(linear(6, 8), Block(how="einsum", bias=False), linear(8, 5)),
    "attention alone, no biases": lambda: nn.Sequential(linear(6, 8), Attention(8, 4, False, "matmul"), linear(8, 5)),
    "post-norm": lambda: nn.Sequential(linear(6, 8), Block(before=False), Block(before=False), linear(8, 5)),
    "multi-head attention": lambda: multi_head(False),
    "multi-head attention and weights": lambda: multi_head(True, bias=False),
    "extra key": lambda: multi_head(True, add_bias_kv=True, add_zero_attn=True),
    "own key and value sizes": lambda: multi_head(True, kdim=8, vdim=8),
    "encoder layer": lambda: nn.Sequential(
        linear(6, 8), nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True), linear(8, 5)
    ),
    "encoder": lambda: nn.Sequential(
        linear(6, 8), nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), 2), linear(8, 5)
    ),
    "cross-attention": CrossAttention,
    "windows": lambda: network_of(
        windowed, embed=linear(6, 8), attention=Attention(8, 2, False, "matmul"), head=linear(32, 5)
    ),
    "mixer": lambda: network_of(
        mixed, embed=linear(6, 8), tokens=linear(4, 4), channels=linear(8, 8), head=linear(8, 5)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BLOCKS)
def test_paths_of_token_blocks_match_gradients_of_a_positive_network(name):
    shares = [
        compare(BLOCKS[name](), torch.rand(2, 4, 6).double() + 0.1, density, seed, (2, 4, 6))
        for seed, density in enumerate((0.1, 0.2, 0.3, 0.3))
    ]
    assert sum(shares) > 0


def vit(**options):
    return VisionTransformer(
        image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=12, num_classes=5
    )


def swin():
    return SwinTransformer([2, 2], 8, [2, 2], [2, 2], [2, 2], num_classes=5)


FAMILIES = {
    "vit": (vit, 8),
    "vit_tiny": (lambda: models.vit_tiny(5, width=0.1, image_size=8, patch=4), 8),
    "deit_small": (lambda: models.deit_small(5, width=0.05, image_size=8, patch=2), 8),
    "swin": (swin, 16),
    "swin with padded windows": (swin, 12),
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("density", [0.1, 0.2])
def test_paths_of_transformers_match_gradients_of_a_positive_network(name, density):
    make, side = FAMILIES[name]
    assert compare(make(), torch.rand(2, 3, side, side).double() + 0.1, density, 1, (2, 3, side, side)) > 0
