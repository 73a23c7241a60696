"""Finds, unpacks or downloads torchvision's on-disk formats and reads them as image sets.

The folder is torchvision's `root`. Reading and checking are torchvision's; unpacking and downloading happen in a
hidden folder whose files are moved into place when complete, so nothing incomplete is ever taken for data.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import shutil
import socket
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from pffdst.core.words import one_line
from pffdst.data.dataset import DataError
from pffdst.data.samples import ImageSet

__all__ = ["ARCHIVES", "Archive"]

ARCHIVES = ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "KMNIST")
_TIMEOUT = 10.0  # seconds without an answer from the network: torchvision itself would wait forever
_FAILURES = (OSError, RuntimeError, EOFError, http.client.HTTPException, tarfile.TarError, zlib.error)


@final
@dataclass(frozen=True)
class _Part:
    """One file that must be unpacked in the folder, and the packed file that contains it."""

    file: Path
    intact: Callable[[Path], bool]
    packed: Path
    packed_md5: str


@final
@dataclass(frozen=True)
class Archive:
    """The archive `kind` (a name of torchvision.datasets, one of ARCHIVES) under the folder `root`."""

    kind: str
    root: Path

    def present(self) -> bool:
        """Whether its files are there, packed or unpacked; their contents are not checked."""
        return all(part.file.is_file() or part.packed.is_file() for part in self._parts())

    def expected(self) -> str:
        """The packed and unpacked files that torchvision looks for, for a message."""
        parts = self._parts()
        packed = ", ".join(dict.fromkeys(str(part.packed.relative_to(self.root)) for part in parts))
        files = ", ".join(str(part.file.relative_to(self.root)) for part in parts)
        return f"{packed} (or unpacked: {files})"

    def load(self) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
        """Training and test set and the class names; unpacks packed files. DataError names the damaged file."""
        waiting = [part for part in self._parts() if not part.intact(part.file)]
        for part in waiting:
            self._check(part)
        for packed in dict.fromkeys(part.packed for part in waiting):
            self._unpack(packed)
        try:
            (train, names), (test, _) = self._read(train=True), self._read(train=False)
            return train, test, names
        except Exception as error:  # complete but nonsensical files make the readers raise almost anything
            raise DataError(
                f"{self.kind} in {self.root} cannot be read ({error}); delete it and download it again"
            ) from error

    def download(self) -> str | None:
        """Lets torchvision download the archive into the folder; returns why it failed, None on success."""
        try:
            with _building_site(self.root) as site, _network_timeout(_TIMEOUT), _bar_in_a_terminal():
                self._kind(site, train=True, download=True)
                _move_in(site, self.root)
        except _FAILURES as error:
            return one_line(error) or type(error).__name__
        return None

    @property
    def _kind(self) -> Any:
        import torchvision.datasets  # takes seconds to import, which other datasets do not need

        return getattr(torchvision.datasets, self.kind)

    def _parts(self) -> list[_Part]:
        kind = self._kind
        return _idx_parts(kind, self.root) if hasattr(kind, "resources") else _pickle_parts(kind, self.root)

    def _check(self, part: _Part) -> None:
        if part.packed.is_file():
            if not _has_md5(part.packed_md5)(part.packed):
                raise DataError(
                    f"{part.packed} is damaged: its md5 is not {part.packed_md5}; delete it and download it again"
                )
        elif part.file.is_file():
            raise DataError(f"{part.file} is damaged: its checksum or length is wrong; delete it and download it again")
        else:
            raise DataError(f"{part.file} is missing, and so is {part.packed}, from which it would be unpacked")

    def _unpack(self, packed: Path) -> None:
        from torchvision.datasets.utils import extract_archive

        try:
            with _building_site(packed.parent) as site:
                extract_archive(packed, site)
                _move_in(site, packed.parent)
        except _FAILURES as error:
            raise DataError(f"{packed} cannot be unpacked ({error}); unpack it by hand in the same folder") from error

    def _read(self, train: bool) -> tuple[ImageSet, tuple[str, ...]]:
        loaded = self._kind(self.root, train=train, download=False)
        pixels = np.asarray(loaded.data)
        channels_first = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
        labels = torch.as_tensor(loaded.targets, dtype=torch.int64)
        images = torch.from_numpy(np.ascontiguousarray(channels_first))
        return ImageSet(images, labels), tuple(map(str, loaded.classes))


def _pickle_parts(kind: Any, root: Path) -> list[_Part]:
    """CIFAR's: batches in one tar."""
    named = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    packed = root / kind.filename
    return [_Part(root / kind.base_folder / name, _has_md5(md5), packed, kind.tgz_md5) for name, md5 in named]


def _idx_parts(kind: Any, root: Path) -> list[_Part]:
    """MNIST's: one .gz per file; torchvision publishes no md5 of the unpacked ones."""
    raw = root / kind.__name__ / "raw"
    return [_Part(raw / Path(name).stem, _is_whole_idx, raw / Path(name).name, md5) for name, md5 in kind.resources]


def _has_md5(md5: str) -> Callable[[Path], bool]:
    def intact(path: Path) -> bool:
        from torchvision.datasets.utils import check_integrity

        return bool(check_integrity(path, md5))

    return intact


def _is_whole_idx(path: Path) -> bool:
    """Whether the file is as long as its header says: 4 bytes (0, 0, 8 = uint8, dimensions), then 4 per dimension."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        magic = file.read(4)
        if len(magic) != 4 or magic[:3] != b"\0\0\x08":
            return False
        shape = np.frombuffer(file.read(4 * magic[3]), dtype=">u4")
    return len(shape) == magic[3] and path.stat().st_size == 4 + 4 * magic[3] + int(shape.prod(dtype=np.int64))


@contextlib.contextmanager
def _building_site(parent: Path) -> Iterator[Path]:
    """A hidden folder inside `parent`, removed afterwards, with any parents created for it that stayed empty."""
    created = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    site = Path(tempfile.mkdtemp(dir=parent, prefix=".unfinished-"))
    try:
        yield site
    finally:
        shutil.rmtree(site, ignore_errors=True)
        for folder in created:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _move_in(site: Path, target: Path) -> None:
    for source in sorted(path for path in site.rglob("*") if path.is_file()):
        place = target / source.relative_to(site)
        place.parent.mkdir(parents=True, exist_ok=True)
        source.replace(place)


@contextlib.contextmanager
def _network_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _bar_in_a_terminal() -> Iterator[None]:
    """Keeps torchvision's progress bar out of files and pipes."""
    from torchvision.datasets import utils

    bar = utils.tqdm
    utils.tqdm = functools.partial(bar, desc="downloading", disable=None)
    try:
        yield
    finally:
        utils.tqdm = bar
