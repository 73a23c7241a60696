"""What a network is fed: pixels become its input here, for training, evaluation and whatever is exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

__all__ = ["Normalise"]


@final
class Normalise(nn.Module):
    """uint8 images [B, C, H, W] to (images / 255 - mean) / std, in a dtype and memory format.

    `mean` and `std` are per channel of pixels in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.memory_format = memory_format
        for name, values in (("mean", mean), ("std", std)):
            made = torch.tensor(list(values), dtype=dtype, device=device).view(1, -1, 1, 1)
            self.register_buffer(name, made, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """The network's input [B, C, H, W]."""
        scaled = images.to(self.mean.dtype, memory_format=self.memory_format).div_(255.0)
        return scaled.sub_(self.mean).div_(self.std)
