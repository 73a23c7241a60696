"""Random changes of a client's training images, on the batch.

They draw from torch's global generator, which every client's turn seeds by round and client: the images are the same in
every engine, with any number of workers, and after any resume.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Augmentation", "CropFlip", "Plain", "Transforms"]


class Augmentation(ABC):
    """Changes the images of a batch. Random numbers are drawn on the CPU."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] to uint8 [B, C, H, W], on the images' device."""


@final
@dataclass(frozen=True)
class Plain(Augmentation):
    """The images as they are."""

    def __call__(self, images: Tensor) -> Tensor:
        """The same."""
        return images


@final
@dataclass(frozen=True)
class CropFlip(Augmentation):
    """Each image shifted by up to `padding` pixels in each direction, over 0, and mirrored with probability `flip`."""

    padding: int = 4
    flip: float = 0.5

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"Expected `augmentation.padding` to be 0 pixels or more, but got {self.padding}")
        if not 0.0 <= self.flip <= 1.0:
            raise ValueError(f"Expected `augmentation.flip`, a chance, to be in [0, 1], but got {self.flip}")

    def __call__(self, images: Tensor) -> Tensor:
        """Crops of the padded images, some of them mirrored."""
        count, _, height, width = images.shape
        offsets = torch.randint(2 * self.padding + 1, (2, count, 1))
        mirrored = torch.rand(count, 1) < self.flip
        rows = offsets[0] + torch.arange(height)
        across = torch.arange(width)
        columns = offsets[1] + torch.where(mirrored, across.flip(0), across)
        padded = F.pad(images, [self.padding] * 4)
        device = images.device
        rows, columns = rows.to(device)[:, None, :, None], columns.to(device)[:, None, None, :]
        channels = torch.arange(images.shape[1], device=device)[None, :, None, None]
        return padded[torch.arange(count, device=device)[:, None, None, None], channels, rows, columns]


@final
@dataclass(frozen=True)
class Transforms(Augmentation):
    """Any torchvision transforms (v2), applied in order to each image separately."""

    transforms: Sequence[Callable[[Tensor], Tensor]]

    def __call__(self, images: Tensor) -> Tensor:
        """The transformed images. ValueError if a transform changes their shape or turns them into floats."""
        made = []
        for image in images:
            for transform in self.transforms:
                image = transform(image)
            made.append(image)
        found = torch.stack(made)
        if found.shape != images.shape or found.dtype != images.dtype:
            raise ValueError(
                f"Expected `augmentation.transforms` to give uint8 {list(images.shape[1:])}, but got {found.dtype} "
                f"{list(found.shape[1:])}; leave out conversion and normalisation, which are applied automatically"
            )
        return found
