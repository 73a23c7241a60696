"""A small convolutional network for small images: the default model."""

from __future__ import annotations

from typing import ClassVar, final

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SmallCNN"]


@final
class SmallCNN(nn.Module):
    """Two 3x3 convolutions (16, 32 channels), each with ReLU and 2x2 max-pooling; linear layers 64 and classes."""

    min_size: ClassVar[int] = 4

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(32 * (size // 4) ** 2, 64)
        self.fc2 = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, channels, size, size] to logits [B, classes]."""
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))  # type: ignore[no-any-return]
