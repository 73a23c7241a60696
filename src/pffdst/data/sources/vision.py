"""Image classification data sets: torchvision's archives and shards of encoded images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from pffdst.core.facts import NOTHING_KNOWN, Facts
from pffdst.data.cache import SampleCache
from pffdst.data.dataset import DataError, Dataset
from pffdst.data.samples import ImageSet
from pffdst.data.sources.archive import ARCHIVES, Archive
from pffdst.data.sources.base import ImageSource, Split, folder_of
from pffdst.data.sources.parquet import read_shards
from pffdst.data.sources.shards import Found, TableFiles, digests_of

__all__ = ["ParquetSource", "VisionSource"]


@final
@dataclass(frozen=True)
class VisionSource(ImageSource):
    """A published data set, in whichever form is in the folder `path`.

    Parquet shards come first, then torchvision's archive (`path` is its root), then, with `download`, torchvision's
    download.
    """

    archive: str
    path: str
    download: bool
    cache: str
    parquet: Mapping[str, Any]

    def problems(self, facts: Facts = NOTHING_KNOWN) -> list[str]:
        """Settings out of range, and missing files that will not be downloaded."""
        found = self.shape_problems()
        if self.archive not in ARCHIVES:
            return [*found, f"dataset.archive must be one of {', '.join(ARCHIVES)}, got {self.archive!r}"]
        folder = folder_of(self.path)
        if folder.exists() and not folder.is_dir():
            return [*found, f"dataset.path must be a folder, but {folder} is a file"]
        shards = self._files.find(folder)
        if self._takes(shards):
            return [*found, *self._files.problems(folder)]
        if not self.download and not self._archive.present():
            return [*found, self._missing("dataset.download=false")]
        return found

    def test_problems(self) -> list[str]:
        """Training shards without test shards."""
        folder = folder_of(self.path)
        return self._files.test_problems(folder) if self._takes(self._files.find(folder)) else []

    def load(self, seed: int) -> Dataset:
        """The published split, independent of the seed."""
        if problems := self.problems():
            raise DataError("\n".join(problems))
        folder = folder_of(self.path)
        shards = self._files.find(folder)
        if self._takes(shards):
            return self.assembled(*_read(self, shards, self._files, self.cache))
        if not self._archive.present():
            reason = self._archive.download()
            if reason is not None:
                raise DataError(self._missing(f"the download failed: {reason}"))
        return self.dataset(*self._archive.load())

    def _takes(self, shards: Found) -> bool:
        """Whether to read shards instead of an archive: both splits are there, or one and no archive."""
        both, some = shards.train and shards.test, shards.train or shards.test or shards.problems
        return bool(both or (some and not self._archive.present()))

    @property
    def _files(self) -> TableFiles:
        return TableFiles.from_mapping(self.parquet)

    @property
    def _archive(self) -> Archive:
        return Archive(self.archive, folder_of(self.path))

    def _missing(self, reason: str) -> str:
        files = self._files
        return (
            f"dataset {self.name} is not in {folder_of(self.path)} ({reason}). Put one of these there:\n"
            f"  torchvision's archive: {self._archive.expected()}\n"
            f"  parquet shards: {files.train} and {files.test}, with the columns {files.content} and {files.label}\n"
            "or name the folder that contains them: dataset.path=FOLDER dataset.download=false"
        )


@final
@dataclass(frozen=True)
class ParquetSource(ImageSource):
    """Your own images in parquet shards, or a data set from the Hugging Face hub as downloaded or saved."""

    path: str
    cache: str
    parquet: Mapping[str, Any]

    def problems(self, facts: Facts = NOTHING_KNOWN) -> list[str]:
        """Settings out of range, and missing shards."""
        found = self.shape_problems()
        if not folder_of(self.path).is_dir():
            return [
                *found,
                f"dataset.path must name the folder of the parquet shards, but {folder_of(self.path)} is not one",
            ]
        return [*found, *self._files.problems(folder_of(self.path))]

    def test_problems(self) -> list[str]:
        """Missing test shards."""
        return self._files.test_problems(folder_of(self.path))

    def load(self, seed: int) -> Dataset:
        """The shards' own split, independent of the seed."""
        if problems := self.problems():
            raise DataError("\n".join(problems))
        return self.assembled(*_read(self, self._files.find(folder_of(self.path)), self._files, self.cache))

    @property
    def _files(self) -> TableFiles:
        return TableFiles.from_mapping(self.parquet)


_Splits = tuple[Split[ImageSet], Split[ImageSet] | None]


def _read(source: ImageSource, shards: Found, files: TableFiles, cache: str) -> _Splits:
    """Both splits; the test images get the channels of the training images."""
    digests = digests_of([*shards.train, *shards.test])
    first, second = ({path: digests[path] for path in split} for split in (shards.train, shards.test))
    kept = SampleCache(Path(cache))
    train = read_shards(first, files, source.form, kept, f"{source.name} train")
    if train is None:
        raise DataError(f"{shards.train[0]}: it has no rows; write the images into it, or name another file")
    form = replace(source.form, channels=train.samples.images.shape[1])
    return train, read_shards(second, files, form, kept, f"{source.name} test", test=True)
