"""Images as files in class folders: PATH/train/CLASS/..., PATH/test/CLASS/..., or only PATH/CLASS/..."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np

from pffdst.core.facts import NOTHING_KNOWN, Facts
from pffdst.data.cache import SampleCache
from pffdst.data.columns import of_words, ranked
from pffdst.data.dataset import DataError, Dataset
from pffdst.data.samples import ImageSet
from pffdst.data.sources.base import ImageSource, Split, folder_of, kept_split
from pffdst.data.sources.decode import CHUNK, Cells, Form, decode_all
from pffdst.data.sources.parquet import remarks_on

__all__ = ["FolderSource"]

_FORMAT = 1  # of the decoded arrays: a change makes every cached file stale
_ENDINGS = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"])
_SPLITS = frozenset(["train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"])
_HELD_OUT = "validation_share=0.2 holds out part of the training set instead"


@final
@dataclass(frozen=True)
class FolderSource(ImageSource):
    """Every folder in `train` and `test` is a class; the image files below it, at any depth, are its images.

    Without a folder `train`, the classes are in `path` itself and there is no test split. Images are ordered by class
    and path.
    """

    path: str
    train: str
    test: str | None
    cache: str

    def problems(self, facts: Facts = NOTHING_KNOWN) -> list[str]:
        """Settings out of range, and missing or empty class folders."""
        found = self.shape_problems()
        if not self._folder.is_dir():
            return [*found, f"dataset.path must name the folder of the images, but {self._folder} is not one"]
        splits = sorted(path.name for path in self._folder.iterdir() if path.is_dir() and path.name.lower() in _SPLITS)
        if self._flat and splits:
            return [
                *found,
                f"{self._folder} has no folder {self.train}, but {', '.join(splits)}: "
                "write dataset.train=NAME dataset.test=NAME",
            ]
        tested = [] if self._test is None else _folder_problems(self._test)
        return [*found, *_folder_problems(self._train), *tested]

    def test_problems(self) -> list[str]:
        """No folder of test images."""
        if self._test is not None or not self._folder.is_dir():
            return []
        if self._flat:
            return [f"{self._folder} contains class folders but no test split; {_HELD_OUT}"]
        others = ", ".join(sorted(path.name for path in self._folder.iterdir() if path.is_dir()))
        return [
            f"{self._folder} has no folder {self.test}, but {others}: write dataset.test=NAME with one of these; "
            f"{_HELD_OUT}"
        ]

    def load(self, seed: int) -> Dataset:
        """The folders' own split, independent of the seed."""
        if problems := self.problems():
            raise DataError("\n".join(problems))
        kept = SampleCache(Path(self.cache))
        train = _read(self._train, self.form, kept, f"{self.name} train")
        if self._test is None:
            return self.assembled(train, None)
        form = replace(self.form, channels=train.samples.images.shape[1])
        return self.assembled(train, _read(self._test, form, kept, f"{self.name} test"))

    @property
    def _folder(self) -> Path:
        return folder_of(self.path)

    @property
    def _flat(self) -> bool:
        return not (self._folder / self.train).is_dir()

    @property
    def _train(self) -> Path:
        return self._folder if self._flat else self._folder / self.train

    @property
    def _test(self) -> Path | None:
        if self._flat or self.test is None or not (self._folder / self.test).is_dir():
            return None
        return self._folder / self.test


def _classes(folder: Path) -> list[str]:
    return ranked(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _folder_problems(folder: Path) -> list[str]:
    names = _classes(folder)
    if not names:
        return [f"{folder} contains no class folders; put the images of each class into a subfolder named after it"]
    empty = [name for name in names if next(_files(folder / name), None) is None]
    more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
    return [f"{folder / empty[0]}{more} contains no images; add some, or remove the folder"] if empty else []


def _files(folder: Path) -> Iterator[Path]:
    """Image files at any depth, in no order; links are followed."""
    return (path for path in _seen(folder) if _is_image(path.name))


def _seen(folder: Path) -> Iterator[Path]:
    """Files at any depth, except those whose name, or that of a parent folder, begins with a dot.

    A folder that links lead to again, as one to a parent does, is entered once.
    """
    entered = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, followlinks=True):
        inside = {os.path.realpath(Path(place, name)): name for name in sorted(folders) if not name.startswith(".")}
        folders[:] = [name for real, name in inside.items() if real not in entered]
        entered.update(inside)
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in _ENDINGS


def _others(folder: Path) -> int:
    """Number of files that are not images of a class; hidden ones do not count."""
    inside = sum(not _is_image(path.name) for path in _seen(folder))
    return inside + sum(path.is_file() and _is_image(path.name) for path in folder.iterdir())


def _read(folder: Path, form: Form, cache: SampleCache, what: str) -> Split[ImageSet]:
    """All images of a split, from the cache if the same bytes were in the same classes before."""
    names = _classes(folder)
    files = [(path, code) for code, name in enumerate(names) for path in sorted(_files(folder / name))]
    key = _content_key(folder, [path for path, _ in files], form)

    def decoded() -> Split[ImageSet]:
        labels = of_words(names, np.array([code for _, code in files], dtype=np.int64))
        found = decode_all(_cells([path for path, _ in files]), len(files), form, what)
        remarks = remarks_on(len(files), found.transparent, found.repeated)
        if others := _others(folder):
            remarks = (*remarks, f"{others:,} files in {folder.name} are not images of a class: they are left out")
        return Split(ImageSet(found.images, labels.codes), labels, None, remarks)

    split = kept_split(cache, key, ImageSet, decoded)
    assert split is not None  # there are images, or a problem was reported before
    return split


def _cells(files: Sequence[Path]) -> Iterator[Cells]:
    for start in range(0, len(files), CHUNK):
        part = files[start : start + CHUNK]
        yield Cells([_bytes(path) for path in part], _namer(part))


def _namer(files: Sequence[Path]) -> Callable[[int], str]:
    return lambda index: str(files[index])


def _bytes(path: Path) -> bytes:
    if not path.is_file() and path.exists():  # reading a pipe would block forever
        raise DataError(f"{path}: this is not a regular file; remove it from the folder")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: the file cannot be read ({error.strerror or error})") from error


def _content_key(folder: Path, files: Sequence[Path], form: Form) -> str:
    digest = hashlib.blake2b(repr(("folder", _FORMAT, form)).encode("utf-8"), digest_size=16)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for path, content in zip(
            files, pool.map(lambda path: hashlib.blake2b(_bytes(path)).digest(), files), strict=True
        ):
            digest.update(os.fsencode(path.relative_to(folder)) + b"\0" + content)
    return digest.hexdigest()
