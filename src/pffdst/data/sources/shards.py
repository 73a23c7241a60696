"""Finds the files of the training and test splits in a folder: parquet shards, or a data set saved with `datasets`."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from pffdst.data.dataset import DataError

__all__ = ["Found", "TableFiles", "digests_of"]

_NUMBERED = re.compile(r"(.*?)(\d+)-of-(\d+)(.*)")  # train-00000-of-00002.parquet


@final
@dataclass(frozen=True)
class Found:
    """The files of the two splits, in order of name; either may be empty. `problems` says why they cannot be read."""

    train: tuple[Path, ...] = ()
    test: tuple[Path, ...] = ()
    problems: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class TableFiles:
    """File name patterns of the training and the test shards in a folder, and the names of the columns.

    `test` None means no test split; a pattern may be several, separated by |. `content` (images or texts) or `label`
    None is inferred from the columns; `owner` None means that the samples name no clients. `node` is the configuration
    node with these keys.
    """

    train: str
    test: str | None
    content: str | None
    label: str | None
    owner: str | None
    node: str = "parquet"

    @classmethod
    def from_mapping(cls, keys: Mapping[str, Any], node: str = "parquet", content: str = "image") -> TableFiles:
        """From the configuration's `dataset.NODE`, whose content column is called `content`.

        DataError if a key is missing or unknown.
        """
        expected = {"train", "test", content, "label", "owner"}
        if set(keys) != expected or keys["train"] is None:
            raise DataError(f"dataset.{node} needs the keys {sorted(expected)}, got {sorted(keys)}")
        words = {key: None if value is None else str(value) for key, value in keys.items()}
        return cls(str(keys["train"]), words["test"], words[content], words["label"], words["owner"], node)

    def find(self, folder: Path) -> Found:
        """The splits in a folder: shards in it or in one of its subfolders, else a data set saved with save_to_disk.

        A saved split is matched like a file of its name: `train` as train.parquet.
        """
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            return self._saved(folder)
        places = [folder, *sorted(path for path in folder.glob("*") if path.is_dir())]
        filled = [place for place in places if _matching(place, self.train)]
        place = filled[0] if filled else folder
        if place != folder and len(filled) > 1:
            inside = ", ".join(str(path.relative_to(folder)) for path in filled)
            line = f"{folder} has several folders with training shards: {inside}; write e.g. dataset.path={filled[0]}"
            return Found(problems=(line,))
        train = _matching(place, self.train)
        test = [] if self.test is None else _matching(place, self.test)
        problems = (*self._doubled(place, train, test), *_gaps(train), *_gaps(test))
        return Found(tuple(train), tuple(test), problems)

    def problems(self, folder: Path) -> list[str]:
        """Why the training split cannot be read: missing shards, or shards that match training and test at once."""
        found = self.find(folder)
        if found.problems or found.train:
            return list(found.problems)
        return [_nothing(folder, self.node, "train", self.train)]

    def test_problems(self, folder: Path) -> list[str]:
        """Why there is no test split; empty if there is no folder, which `problems` reports."""
        if not folder.is_dir():
            return []
        found = self.find(folder)
        if found.test or found.problems:
            return []
        instead = "validation_share=0.2 holds out part of the training set instead"
        if self.test is None:
            return [f"dataset.{self.node}.test=null leaves no test split: {instead}"]
        return [f"{_nothing(folder, self.node, 'test', self.test)}; {instead}"]

    def _doubled(self, folder: Path, train: Sequence[Path], test: Sequence[Path]) -> list[str]:
        both = sorted({path.name for path in train} & {path.name for path in test})
        if not both:
            return []
        return [
            f"{both[0]} in {folder} matches both dataset.{self.node}.train={self.train!r} and "
            f"dataset.{self.node}.test={self.test!r}; write narrower patterns"
        ]

    def _saved(self, folder: Path) -> Found:
        try:
            splits = _saved_splits(folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return Found(problems=(f"{folder} is not a data set written by save_to_disk ({error!r}); save it again",))
        train, test = (
            [p for name, files in splits.items() if _names(name, pattern) for p in files]
            for pattern in (self.train, self.test)
        )
        missing = tuple(
            f"{path} is missing: the data set in {folder} is incomplete; copy it again"
            for path in (*train, *test)
            if not path.is_file()
        )
        if not train:
            line = f"{folder} has the splits {', '.join(splits)}; write dataset.{self.node}.train=NAME with one"
            return Found(problems=(line,))
        return Found(tuple(train), tuple(test), missing)


def digests_of(files: Sequence[Path]) -> dict[Path, str]:
    """A digest of the bytes of every file. DataError if two are the same, since their rows would be there twice."""
    found: dict[Path, str] = {}
    first: dict[str, Path] = {}
    for path in files:
        with path.open("rb") as file:
            found[path] = hashlib.file_digest(file, "blake2b").hexdigest()
        if (other := first.setdefault(found[path], path)) != path:
            raise DataError(f"{path} has the same bytes as {other}: remove one of the two")
    return found


def _saved_splits(folder: Path) -> dict[str, list[Path]]:
    """The arrow files of every split; a data set without splits counts as the split `train`."""
    if not (folder / "dataset_dict.json").is_file():
        return {"train": _saved_files(folder)}
    names = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
    return {str(name): _saved_files(folder / str(name)) for name in names}


def _saved_files(folder: Path) -> list[Path]:
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise ValueError("it is a selection of rows: call flatten_indices() before save_to_disk()")
    return [folder / str(entry["filename"]) for entry in state["_data_files"]]


def _names(split: str, pattern: str | None) -> bool:
    return pattern is not None and any(split == p or fnmatch.fnmatch(f"{split}.parquet", p) for p in pattern.split("|"))


def _matching(folder: Path, pattern: str) -> list[Path]:
    return sorted({path for each in pattern.split("|") for path in folder.glob(each) if path.is_file()})


def _nothing(folder: Path, node: str, split: str, pattern: str) -> str:
    return (
        f"no file in {folder} matches dataset.{node}.{split}={pattern!r}; put the {split} files there, "
        f"name their folder with dataset.path=FOLDER or their names with dataset.{node}.{split}=PATTERN"
    )


def _gaps(files: Sequence[Path]) -> list[str]:
    """Shards that are missing from a numbered series such as train-00000-of-00002.parquet."""
    series: defaultdict[tuple[Path, str, str], set[int]] = defaultdict(set)
    endings: Counter[str] = Counter()
    for path in files:
        if match := _NUMBERED.fullmatch(path.name):
            series[path.parent, match[1], match[3]].add(int(match[2]))
            endings[match[4]] += 1
    lines = []
    for (folder, start, total), present in series.items():
        absent = [n for n in range(int(total)) if n not in present]
        names = [f"{start}{n:0{len(total)}}-of-{total}{endings.most_common(1)[0][0]}" for n in absent[:5]]
        more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
        if absent:
            lines.append(f"{folder} lacks {', '.join(names)}{more}, of {int(total)} shards; download the rest")
    return lines
