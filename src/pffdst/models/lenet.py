"""LeNet as FedDST and PFFDST use it: 781,770 weights on 32x32 colour images with 10 classes."""

from __future__ import annotations

from typing import ClassVar, final

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LeNet"]


@final
class LeNet(nn.Module):
    """Convolutions 5x5 with 6 and 16 channels, each with 3x3 max-pooling of stride 1; linear layers 120, 84, classes.

    Logits come out: the cross-entropy holds the softmax.
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
        # ReLU and max commute; ReLU on the pooled, smaller tensor is the cheaper order.
        x = F.relu(F.max_pool2d(self.conv1(x), 3, stride=1))
        x = F.relu(F.max_pool2d(self.conv2(x), 3, stride=1))
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))  # type: ignore[no-any-return]
