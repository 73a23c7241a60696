"""From pixels to what a network takes, in one place: for training, for evaluation and in front of a saved model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

__all__ = ["Normalise"]


@final
class Normalise(nn.Module):
    """uint8 images [B, C, H, W] to (images / 255 - mean) / std, in a given `dtype` and `memory_format`.

    `mean` and `std` have a number per channel, in units of pixel / 255. They are constants, not part of a state dict.
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
        for name, numbers in (("mean", mean), ("std", std)):
            tensor = torch.tensor(list(numbers), dtype=dtype, device=device).view(1, -1, 1, 1)
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """The network's input, [B, C, H, W]. TypeError for images that are not uint8: they would be scaled twice."""
        if images.dtype != torch.uint8:
            raise TypeError(f"Expected uint8 images [B, C, H, W] with pixels 0 to 255, but got {images.dtype}")
        scaled = images.to(self.mean.dtype, memory_format=self.memory_format).div_(255.0)
        return scaled.sub_(self.mean).div_(self.std)
