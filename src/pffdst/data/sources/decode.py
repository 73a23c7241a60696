"""Encoded images (JPEG, PNG, ...) as one uint8 array: upright, with the same size and number of channels."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from pffdst.data.dataset import DataError

__all__ = ["CHUNK", "Cells", "Decoded", "Form", "decode_all", "resized"]

CHUNK = 512  # encoded images in memory at a time
_TASK = 32  # of them per task of the thread pool
_GREY = frozenset({"1", "L", "LA"})
_COLOUR = frozenset({"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
_CLEAR = frozenset({"LA", "PA", "RGBA"})  # modes with an alpha channel
_ORIENTATION = 0x0112  # EXIF's tag for the camera's orientation; 1 is upright
# Where Pillow keeps it: searching an image without any takes a quarter of the decoding time.
_EXIF = frozenset({"exif", "xmp", "Raw profile type exif", "XML:com.adobe.xmp"})
_GROUND = "white"


@final
@dataclass(frozen=True)
class Form:
    """The form to which every image is converted.

    `channels` 1 or 3; None uses that of the first image. `crop` cuts out the largest central square; then `resize`
    brings the image to that many pixels per side, stretching it if it is not square.
    """

    channels: int | None = None
    resize: int | None = None
    crop: bool = False


@final
@dataclass(frozen=True)
class Cells:
    """Some consecutive encoded images; `where(i)` names the i-th in a message."""

    images: Sequence[bytes]
    where: Callable[[int], str]


@final
@dataclass(frozen=True, eq=False)
class Decoded:
    """Images uint8 [N, C, H, W], the number with transparent pixels, which are put on white, and the number with the
    same bytes as an earlier image."""

    images: Tensor
    transparent: int
    repeated: int


@final
@dataclass(frozen=True)
class _Target:
    """What every image must become. `convert`: the channels were configured, not taken from the first image."""

    channels: int
    width: int
    height: int
    convert: bool
    form: Form


def decode_all(stream: Iterator[Cells], total: int, form: Form, what: str) -> Decoded:
    """The `total` images of a stream, in order; `what` names them on the progress bar.

    Raises DataError naming the image that cannot be decoded or differs from the first.
    """
    head = next(stream)
    target = _target(_open(head.images[0], head.where(0)), form)
    shape = (total, target.channels, target.height, target.width)
    # Mapped memory, not the C library's heap, which would then keep far more freed memory for itself.
    images = np.frombuffer(mmap.mmap(-1, math.prod(shape)), dtype=np.uint8).reshape(shape)
    done = transparent = 0
    seen: set[int] = set()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, _progress(what, total) as advance:
        for cells in itertools.chain([head], stream):
            stop = done + len(cells.images)
            transparent += _decode_cells(cells, target, images[done:stop], pool)
            seen.update(map(hash, cells.images))
            done = stop
            advance(len(cells.images))
    return Decoded(torch.from_numpy(images), transparent, total - len(seen))


def resized(images: Tensor, side: int) -> Tensor:
    """Square images uint8 [N, C, S, S] at another size, resampled like decoded ones."""
    parts = torch.split(images, CHUNK)
    scale = torch.nn.functional.interpolate
    return torch.cat([scale(part, size=(side, side), mode="bilinear", antialias=True) for part in parts])


def _decode_cells(cells: Cells, target: _Target, out: NDArray[np.uint8], pool: ThreadPoolExecutor) -> int:
    """Fills `out` and returns the number of images with transparent pixels."""

    def decode(start: int) -> int:
        transparent = 0
        for index in range(start, min(start + _TASK, len(cells.images))):
            out[index], clear = _decode(cells.images[index], cells.where(index), target)
            transparent += clear
        return transparent

    # getting the results raises the threads' errors, in image order
    return sum(pool.map(decode, range(0, len(cells.images), _TASK)))


def _decode(data: bytes, where: str, target: _Target) -> tuple[NDArray[np.uint8], bool]:
    """Pixels uint8 [C, H, W] of one encoded image, and whether some of them were transparent."""
    image = _open(data, where)
    if not target.convert and _channels(image) > target.channels:
        raise DataError(
            f"{where}: the image has colours, but the first one is grey; "
            "write dataset.channels=3 (or 1) to convert all of them"
        )
    given = image.size
    image, clear = _flattened(_cropped(image) if target.form.crop else image)
    mode = "L" if target.channels == 1 else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    if target.form.resize is not None and image.size != (target.width, target.height):
        image = image.resize((target.width, target.height), Image.Resampling.BILINEAR)
    if image.size != (target.width, target.height):
        raise DataError(
            f"{where}: the image is {given[0]}x{given[1]} pixels, but the first one gives {target.width}x"
            f"{target.height}; write dataset.resize=32 to bring all to 32x32, with dataset.crop=true "
            "to cut squares out of them first"
        )
    pixels = np.asarray(image)
    return pixels[None] if target.channels == 1 else pixels.transpose(2, 0, 1), clear


def _open(data: bytes, where: str) -> Image.Image:
    """The image, upright."""
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        image.load()
        if not _EXIF.isdisjoint(image.info) and image.getexif().get(_ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
    except Exception as error:  # damaged files make Pillow raise almost anything
        why = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"  # which names only our buffer
        raise DataError(f"{where}: the image cannot be decoded; it is damaged or has an unknown format{why}") from error
    if image.mode not in _GREY | _COLOUR:
        raise DataError(
            f"{where}: images need 8 bits per channel, got Pillow's mode {image.mode!r}; convert them to 8 bits"
        )
    return image


def _target(first: Image.Image, form: Form) -> _Target:
    wanted = _channels(first) if form.channels is None else form.channels
    width, height = (min(first.size),) * 2 if form.crop else first.size
    if form.resize is not None:
        width = height = form.resize
    return _Target(wanted, width, height, form.channels is not None, form)


def _channels(image: Image.Image) -> int:
    return 1 if image.mode in _GREY else 3


def _cropped(image: Image.Image) -> Image.Image:
    """The largest central square."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image if image.width == image.height else image.crop((left, top, left + side, top + side))


def _flattened(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image on white where it is transparent, and whether any pixel is."""
    if image.mode not in _CLEAR and "transparency" not in image.info:
        return image, False
    pixels = image.convert("RGBA")
    if pixels.getchannel("A").getextrema() == (255, 255):
        return pixels.convert("L" if image.mode in _GREY else "RGB"), False
    ground = Image.new("RGBA", pixels.size, _GROUND)
    return Image.alpha_composite(ground, pixels).convert("RGB"), True


@contextlib.contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of finished images; a bar is shown only on a terminal."""
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(f"decoding {what}", total=total)
        yield lambda count: bar.advance(task, count)
