"""LeNet as FedDST and PFFDST use it: 781,770 weights on 32x32 colour images with 10 classes."""

from __future__ import annotations

from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LeNet"]


def max_pool(x: Tensor) -> Tensor:
    """Max-pooling 3x3 of stride 1 over [B, C, H, W].

    On a CPU torch pools the channels of channels_last images eight at a time, and the rest one by one, many times more
    slowly: LeNet's six are padded to eight. The result is bit-identical, forward and backward.
    """
    channels = x.shape[1]
    missing = -channels % 8
    if missing == 0 or x.device.type != "cpu" or not x.is_contiguous(memory_format=torch.channels_last):
        return F.max_pool2d(x, 3, stride=1)
    return F.max_pool2d(F.pad(x, (0, 0, 0, 0, 0, missing)), 3, stride=1)[:, :channels]


@final
class LeNet(nn.Module):
    """Convolutions 5x5 with 6 and 16 channels, each with 3x3 max-pooling of stride 1; linear layers 120, 84, classes.

    The outputs are logits: the cross-entropy includes the softmax.
    """

    min_size: ClassVar[int] = 13

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * (size - 12) ** 2, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, channels, size, size] to logits [B, classes]."""
        # ReLU and max commute; applying ReLU to the smaller, pooled tensor is cheaper.
        x = F.relu(max_pool(self.conv1(x)))
        x = F.relu(max_pool(self.conv2(x)))
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))  # type: ignore[no-any-return]
