"""The four sample architectures, in PyTorch (development only)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv_bn(inp: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, then BatchNorm."""
    conv = nn.Conv2d(inp, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut: identity, or a 1 x 1 projection."""

    def __init__(self, inp: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = conv_bn(inp, out, 3, stride)
        self.second = conv_bn(out, out, 3)
        self.shortcut = (
            nn.Identity() if stride == 1 and inp == out else conv_bn(inp, out, 1, stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return torch.relu(self.second(h) + self.shortcut(x))


class ResNet20(nn.Module):
    """CIFAR-style ResNet-20 (He et al., 2016) for 1 x 28 x 28."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = conv_bn(1, 16, 3)
        blocks = []
        inp = 16
        for out, stride in ((16, 1), (32, 2), (64, 2)):
            for i in range(3):
                blocks.append(BasicBlock(inp, out, stride if i == 0 else 1))
                inp = out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inp, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.blocks(torch.relu(self.stem(x)))
        return self.head(h.mean((2, 3)))


class VGG(nn.Module):
    """A small VGG: six convolutions, then Flatten(C, H, W) and two dense layers."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inp = 1
        for out in (32, 64, 96):
            layers += [conv_bn(inp, out, 3), nn.ReLU(), conv_bn(out, out, 3), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
            inp = out
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inp * 9, 128),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(128, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class InvertedResidual(nn.Module):
    """Expand 1 x 1, depthwise 3 x 3, project 1 x 1 (Sandler et al., 2018)."""

    def __init__(self, inp: int, out: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inp * expand
        self.body = nn.Sequential(
            conv_bn(inp, hidden, 1),
            nn.ReLU6(),
            conv_bn(hidden, hidden, 3, stride, groups=hidden),
            nn.ReLU6(),
            conv_bn(hidden, out, 1),
        )
        self.residual = stride == 1 and inp == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class MobileNet(nn.Module):
    """A small MobileNet-v2 for 1 x 28 x 28."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = conv_bn(1, 24, 3, 2)
        rows = [(24, 1, 3), (24, 1, 3), (40, 2, 4), (40, 1, 4), (40, 1, 4), (64, 1, 4), (64, 1, 4)]
        blocks = []
        inp = 24
        for out, stride, expand in rows:
            blocks.append(InvertedResidual(inp, out, stride, expand))
            inp = out
        self.blocks = nn.Sequential(*blocks)
        self.last = conv_bn(inp, 160, 1)
        self.head = nn.Linear(160, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.blocks(nn.functional.relu6(self.stem(x)))
        h = nn.functional.relu6(self.last(h))
        return self.head(h.mean((2, 3)))


class Attention(nn.Module):
    """Self-attention with several heads, written out as softmax(q k^T) v."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """(N, tokens, width) to (N, heads, tokens, width / heads)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        weights = torch.softmax(q @ k.transpose(2, 3) * q.shape[-1] ** -0.5, -1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then a two-layer MLP, each after a LayerNorm and around a shortcut."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.before_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        h = x + self.attention(self.before_attention(x))
        return h + self.mlp(self.before_mlp(h))


class ViT(nn.Module):
    """A small Vision Transformer (Dosovitskiy et al., 2021): 49 patches of 4 x 4, class token."""

    def __init__(self, classes: int = 10, width: int = 96, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 50, width))
        self.blocks = nn.Sequential(*(Block(width, heads, 2 * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(x.shape[0], -1, -1), h], 1) + self.positions
        return self.head(self.norm(self.blocks(h))[:, 0])
