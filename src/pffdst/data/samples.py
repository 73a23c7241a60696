"""The samples for training and evaluation: in memory once, each with a class."""

from __future__ import annotations

import functools
import hashlib
import mmap
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, Self, final

import torch
from torch import Tensor

from pffdst.data.npy import map_tensor, write_tensor

__all__ = ["Handle", "ImageSet", "Samples", "SharedImages", "digest_of"]


class Handle(Protocol):
    """A reference to samples: the samples themselves, or files that another process can open."""

    def open(self) -> Samples:
        """The samples, ready to be read."""
        ...

    def share(self, folder: Path) -> Handle:
        """The same in a form with a small pickle; files that it needs are written under `folder`."""


class Samples(Handle, Protocol):
    """N samples, as partitions, clients' batches and engines use them; images are one case."""

    @property
    def labels(self) -> Tensor:
        """The class of every sample, int64 [N]."""

    @property
    def owners(self) -> Tensor | None:
        """The natural owner (client) of every sample, int64 [N]; None if the data name none."""

    @property
    def digest(self) -> str:
        """32 hexadecimal digits of the content, equal for equal samples on any machine."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The raw samples [b, ...] and the labels int64 [b] of `indices` int64 [b], which are on the CPU."""

    def batch_shape(self, indices: Tensor) -> tuple[int, ...]:
        """The shape of the samples in that batch, without reading them."""

    def part(self, span: slice) -> Tensor:
        """The raw samples of a span, without copying if possible."""

    def take(self, indices: Tensor) -> Self:
        """The samples `indices` int64 [n], copied into new memory."""

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""

    def numbered(self, labels: Tensor, owners: Tensor | None) -> Self:
        """The same with these labels and owners."""

    @classmethod
    def mapped(cls, files: Mapping[str, Path], digest: str | None = None) -> Self:
        """The samples of these .npy files by column. Raises OSError or ValueError if one is missing or damaged."""

    def columns(self) -> dict[str, Tensor]:
        """The tensors by name: what `mapped` reads."""

    def known(self) -> Self:
        """The same, with the digest of everything but the labels computed."""

    @property
    def kept_digest(self) -> str | None:
        """That digest, if already known."""

    def forget_pages(self) -> None:
        """Releases pages mapped from files from this process's memory until the next access."""


@final
@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images uint8 [N, C, H, W] (contiguous), their labels int64 [N] and, if the data name them, owners int64 [N].

    `files` names the .npy files that the images and, if the second is not None, the labels are mapped from; None if
    everything is only in memory. `mapping` is that of the images. `image_digest` is the images' digest, if already
    known.
    """

    images: Tensor
    labels: Tensor
    owners: Tensor | None = None
    files: tuple[Path, Path | None] | None = field(default=None, repr=False)
    mapping: mmap.mmap | None = field(default=None, repr=False)
    image_digest: str | None = field(default=None, repr=False)

    @classmethod
    def mapped(cls, files: Mapping[str, Path], digest: str | None = None) -> ImageSet:
        """The set of these .npy files. Raises OSError or ValueError if one is missing or damaged."""
        images, labels = files["images"], files["labels"]
        tensor, mapping = map_tensor(images)
        whose = map_tensor(files["owners"])[0] if "owners" in files else None
        return cls(tensor, map_tensor(labels)[0], whose, (images, labels), mapping, digest)

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4 or not self.images.is_contiguous():
            given = f"{self.images.dtype} {list(self.images.shape)}"
            raise ValueError(f"Expected `images` to be contiguous uint8 [N, C, H, W], but got {given}")
        for name, tensor in (("labels", self.labels), ("owners", self.owners)):
            if tensor is not None and (tensor.dtype != torch.int64 or tensor.shape != self.images.shape[:1]):
                given = f"{tensor.dtype} {list(tensor.shape)}"
                raise ValueError(f"Expected `{name}` to be int64 [{len(self.images)}], but got {given}")

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def digest(self) -> str:
        """32 hexadecimal digits of images, labels and owners; the images are read if their digest is not known."""
        images = digest_of(self.images) if self.image_digest is None else self.image_digest
        self.forget_pages()
        rest = [tensor for tensor in (self.labels, self.owners) if tensor is not None]
        return hashlib.blake2b(f"{images} {digest_of(*rest)}".encode(), digest_size=16).hexdigest()

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images uint8 [b, C, H, W] and labels int64 [b]."""
        indices = indices.to(self.images.device, non_blocking=True)
        return self.images.index_select(0, indices), self.labels.index_select(0, indices)

    def batch_shape(self, indices: Tensor) -> tuple[int, ...]:
        """(b, C, H, W)."""
        return (len(indices), *self.images.shape[1:])

    def part(self, span: slice) -> Tensor:
        """Images of a span, a view."""
        return self.images[span]

    def take(self, indices: Tensor) -> ImageSet:
        """The images `indices` int64 [n], copied."""
        owners = None if self.owners is None else self.owners.index_select(0, indices)
        return ImageSet(*self.batch(indices), owners)

    def to(self, device: torch.device | str) -> ImageSet:
        """Images and labels on a device; owners stay where they are, since no computation reads them."""
        return ImageSet(self.images.to(device), self.labels.to(device))

    def numbered(self, labels: Tensor, owners: Tensor | None) -> ImageSet:
        """The same images with these labels and owners; the labels' file is dropped if it no longer matches."""
        files = self.files
        if files is not None and labels is not self.labels:
            files = files[0], None
        return replace(self, labels=labels, owners=owners, files=files)

    def columns(self) -> dict[str, Tensor]:
        """`images`, `labels` and, if present, `owners`."""
        owners = {} if self.owners is None else {"owners": self.owners}
        return {"images": self.images, "labels": self.labels, **owners}

    def known(self) -> ImageSet:
        """With the digest of the images."""
        return self if self.image_digest is not None else replace(self, image_digest=digest_of(self.images))

    @property
    def kept_digest(self) -> str | None:
        """The images' digest."""
        return self.image_digest

    def open(self) -> ImageSet:
        """Itself."""
        return self

    def share(self, folder: Path) -> SharedImages:
        """Images and labels as files: those they are mapped from, else new ones under `folder`, which the caller must
        delete. Raises OSError."""
        images, labels = self.files or (None, None)
        if images is None or labels is None:
            folder.mkdir(parents=True, exist_ok=True)
            place = Path(tempfile.mkdtemp(dir=folder, prefix="images-"))
            if images is None:
                images = place / "images.npy"
                write_tensor(images, self.images)
            labels = place / "labels.npy"
            write_tensor(labels, self.labels)
        return SharedImages((images, labels), tuple(self.images.shape))

    def forget_pages(self) -> None:
        """Releases mapped images from this process's memory until the next access; the system's cache keeps them."""
        if self.mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            self.mapping.madvise(mmap.MADV_DONTNEED)


@final
@dataclass(frozen=True)
class SharedImages:
    """Images and labels in two .npy files: pickles as two paths, opens as a mapping whose pages all processes share."""

    files: tuple[Path, Path]
    shape: tuple[int, ...]

    def open(self) -> ImageSet:
        """The set mapped into memory; writes to its tensors stay in this process and never reach the files.

        Raises OSError if a file is gone, ValueError if it is not the shared one.
        """
        found = ImageSet.mapped(dict(zip(("images", "labels"), self.files, strict=True)))
        if tuple(found.images.shape) != self.shape:
            raise ValueError(f"Expected {self.files[0]} to hold {self.shape}, but got {tuple(found.images.shape)}")
        return found

    def share(self, folder: Path) -> SharedImages:
        """Itself."""
        return self


def digest_of(*tensors: Tensor) -> str:
    """32 hexadecimal digits of the shapes, types and values of contiguous tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.cpu().numpy().data)
    return digest.hexdigest()
