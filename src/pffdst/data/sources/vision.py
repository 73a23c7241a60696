"""Image classification data sets: torchvision's archives and parquet shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from pffdst.core.facts import NOTHING_KNOWN, Facts
from pffdst.data.cache import ImageCache
from pffdst.data.dataset import DataError, Dataset, DataSource, Declared
from pffdst.data.sources.archive import ARCHIVES, Archive
from pffdst.data.sources.parquet import ParquetFiles, read_shards

__all__ = ["ParquetSource", "VisionSource"]


@final
@dataclass(frozen=True)
class VisionSource(DataSource):
    """A published data set, from whichever form lies in the folder `path`.

    Parquet shards come first, then torchvision's archive (`path` is its root), then, with `download`, torchvision's
    download.
    """

    name: str
    archive: str
    path: str
    download: bool
    cache: str
    channels: int | None
    size: int | None
    classes: int | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    parquet: Mapping[str, str]

    def problems(self, facts: Facts = NOTHING_KNOWN) -> list[str]:
        """Settings out of range, and files that are not there and will not be downloaded."""
        found = self._declared.problems()
        if self.archive not in ARCHIVES:
            return [*found, f"dataset.archive must be one of {', '.join(ARCHIVES)}, got {self.archive!r}"]
        if self._folder.exists() and not self._folder.is_dir():
            return [*found, f"dataset.path must be a folder, but {self._folder} is a file"]
        shards = self._files.shards(self._folder)
        if all(shards) or (any(shards) and not self._archive.present()):
            return [*found, *self._files.problems(self._folder)]
        if not self.download and not self._archive.present():
            return [*found, self._missing("dataset.download=false")]
        return found

    def load(self, seed: int) -> Dataset:
        """The published split, whatever the seed."""
        del seed
        if problems := self.problems():
            raise DataError("\n".join(problems))
        if all(self._files.shards(self._folder)):
            return _load_parquet(self.name, self._folder, self._files, self._declared, self.cache)
        if not self._archive.present():
            reason = self._archive.download()
            if reason is not None:
                raise DataError(self._missing(f"the download failed: {reason}"))
        return self._declared.dataset(self.name, *self._archive.load())

    @property
    def _folder(self) -> Path:
        return Path(self.path).expanduser().absolute()

    @property
    def _files(self) -> ParquetFiles:
        return ParquetFiles.from_mapping(self.parquet)

    @property
    def _archive(self) -> Archive:
        return Archive(self.archive, self._folder)

    @property
    def _declared(self) -> Declared:
        return Declared(self.channels, self.size, self.classes, self.mean, self.std)

    def _missing(self, reason: str) -> str:
        files = self._files
        return (
            f"dataset {self.name} is not in {self._folder} ({reason}). Put one of these there:\n"
            f"  torchvision's archive: {self._archive.expected()}\n"
            f"  parquet shards: {files.train} and {files.test}, with the columns {files.image} and {files.label}\n"
            "or name the folder that holds them: dataset.path=FOLDER dataset.download=false"
        )


@final
@dataclass(frozen=True)
class ParquetSource(DataSource):
    """Images of one's own in parquet shards; what is None is read off them."""

    name: str
    path: str
    cache: str
    channels: int | None
    size: int | None
    classes: int | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    parquet: Mapping[str, str]

    def problems(self, facts: Facts = NOTHING_KNOWN) -> list[str]:
        """Settings out of range, and shards that are not there."""
        found = self._declared.problems()
        if not self._folder.is_dir():
            return [*found, f"dataset.path must name the folder of the parquet shards, but {self._folder} is none"]
        return [*found, *ParquetFiles.from_mapping(self.parquet).problems(self._folder)]

    def load(self, seed: int) -> Dataset:
        """The shards' own split, whatever the seed."""
        del seed
        if problems := self.problems():
            raise DataError("\n".join(problems))
        files = ParquetFiles.from_mapping(self.parquet)
        return _load_parquet(self.name, self._folder, files, self._declared, self.cache)

    @property
    def _folder(self) -> Path:
        return Path(self.path).expanduser().absolute()

    @property
    def _declared(self) -> Declared:
        return Declared(self.channels, self.size, self.classes, self.mean, self.std)


def _load_parquet(name: str, folder: Path, files: ParquetFiles, declared: Declared, cache: str) -> Dataset:
    kept = ImageCache(Path(cache))
    train_shards, test_shards = files.shards(folder)
    train = read_shards(train_shards, files, declared.channels, kept, f"{name} train")
    test = read_shards(test_shards, files, train.images.shape[1], kept, f"{name} test")
    return declared.dataset(name, train, test)
