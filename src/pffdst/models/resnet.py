"""ResNet-18 with the CIFAR stem: a 3x3 first convolution and no max-pooling (He et al., 2016)."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, final

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ResNet18"]


def conv3x3(n_in: int, n_out: int, stride: int) -> nn.Conv2d:
    """A 3x3 convolution without bias: the normalisation after it has one."""
    return nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)


@final
class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation and a shortcut, projected where the shape changes."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(n_in, n_out, stride)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = conv3x3(n_out, n_out, 1)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """[B, n_in, H, H] to [B, n_out, H / stride, H / stride]."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x), inplace=True)


@final
class ResNet18(nn.Module):
    """Four stages of two blocks with 64, 128, 256 and 512 channels, global average pooling, one linear layer.

    Global average pooling accepts images of any `size`. A `width` other than 64 scales all stages equally, e.g. for a
    narrow network in quick tests.
    """

    min_size: ClassVar[int] = 8

    def __init__(self, channels: int, size: int, classes: int, width: int = 64) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"Expected `model.width` to be at least 1, but got {width}; the paper's is 64")
        self.conv1 = conv3x3(channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        widths = (width, width, 2 * width, 4 * width, 8 * width)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(BasicBlock(n_in, n_out, 1 if n_in == n_out else 2), BasicBlock(n_out, n_out, 1))
                for n_in, n_out in pairwise(widths)
            )
        )
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, channels, size, size] to logits [B, classes]."""
        x = self.stages(F.relu(self.bn1(self.conv1(x)), inplace=True))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]
