"""The files of a run's folder: what each is called, how one is written whole, and how one is read.

A folder may come from anyone and is only data. The readers accept regular files of bounded size, with bounded depth and
numbers, and run nothing that a file names. Anything beyond these bounds is a FileProblem, never a hang.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import re
import stat
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Final, final

import yaml

from pffdst.core.errors import UserError
from pffdst.core.words import one_line

__all__ = [
    "CHECKPOINTS",
    "CLIENTS",
    "CONFIG",
    "HYDRA",
    "HYDRA_JOB",
    "HYDRA_SETTINGS",
    "LAST",
    "LOCK",
    "LOG",
    "METRICS",
    "MODEL",
    "MODEL_AVERAGE",
    "MOST_JSON",
    "MOST_YAML",
    "OVERRIDES",
    "PREVIOUS",
    "PROVENANCE",
    "RUN",
    "SEARCH",
    "SKIPPED",
    "SUMMARY",
    "SWEEP",
    "FileProblem",
    "opened",
    "place_of",
    "read_json",
    "read_rows",
    "read_text",
    "read_yaml",
    "remove_half_written",
    "write_whole",
]

# ---- names -----------------------------------------------------------------------------------------------------------

RUN: Final = "run.json"
SUMMARY: Final = "summary.json"
SKIPPED: Final = "skipped.json"
LOCK: Final = "run.lock"
LOG: Final = "train.log"
CONFIG: Final = "config.yaml"
METRICS: Final = "metrics.csv"
CLIENTS: Final = "clients.json"
PROVENANCE: Final = "provenance.json"
MODEL: Final = "model.safetensors"
MODEL_AVERAGE: Final = "model_ema.safetensors"
CHECKPOINTS: Final = "checkpoints"
LAST: Final = "last.ckpt"
PREVIOUS: Final = "previous.ckpt"
HYDRA: Final = ".hydra"
OVERRIDES: Final = f"{HYDRA}/overrides.yaml"
HYDRA_SETTINGS: Final = f"{HYDRA}/hydra.yaml"
HYDRA_JOB: Final = f"{HYDRA}/config.yaml"
SWEEP: Final = "multirun.yaml"  # in a sweep's folder, next to its jobs' folders
SEARCH: Final = "search.db"  # in a search's folder

# ---- writing ---------------------------------------------------------------------------------------------------------

_written = itertools.count()
_ASIDE = re.compile(r"\..+\.\d+-\d+")


def write_whole(
    path: Path, *pieces: bytes | memoryview | Callable[[BinaryIO], object], keep: Path | None = None
) -> None:
    """Writes atomically: the file has all the pieces or its old content, even after a power cut.

    The old file may be kept under `keep`. A piece is bytes or a function that writes to the open file. Raises OSError;
    nothing half-written is left behind.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}-{next(_written)}")
    try:
        with aside.open("wb") as file:
            for piece in pieces:
                piece(file) if callable(piece) else file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        aside.replace(path)
    except BaseException as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    _sync_folder(path.parent)


def place_of(folder: Path) -> tuple[int, int] | None:
    """An identity that distinguishes a folder from another one of the same name; None if there is no folder."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def remove_half_written(folder: Path) -> None:
    """Removes what a kill during `write_whole` left in a folder; only for the holder of the folder's lock."""
    for path in folder.glob(".*.*-*"):
        if _ASIDE.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable. Windows has no such call and needs none."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---- reading ---------------------------------------------------------------------------------------------------------

MOST_JSON: Final = 4 * 2**20  # bytes
MOST_YAML: Final = 2**20
MOST_TEXT: Final = 64 * 2**20
MOST_ROWS: Final = 2**31
MOST_LINE: Final = 2**20
_DEPTH, _NODES, _DIGITS = 32, 200_000, 40
_LIKE_A_NUMBER = re.compile(r"[-+]?[0-9a-fA-FxXob_:.+-]{41,}")
_SURROGATE = re.compile("[\ud800-\udfff]")


@final
class FileProblem(UserError):
    """A file in a run's folder that `is_missing` or cannot be read; the message names the file and says why."""

    def __init__(self, path: Path, why: str, *, is_missing: bool = False) -> None:
        super().__init__(f"{path.name} {why}")
        self.is_missing = is_missing


def _unreadable(path: Path, why: object) -> FileProblem:
    return FileProblem(path, f"cannot be read: {one_line(why, 200)}")


def read_json(path: Path) -> Any:
    """A JSON file's value; numbers that are not finite become None. FileProblem."""
    content = _content(path, MOST_JSON)
    try:
        found = json.loads(content.decode(), parse_int=_whole, parse_constant=lambda _: None)
        return _Bounded().value(found)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, _reason(error)) from error


def read_yaml(path: Path) -> Any:
    """A YAML file's value, made of plain values only: no object tags, no aliases. FileProblem."""
    content = _content(path, MOST_YAML)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = content.decode("utf-8-sig")
        _check_events(text, loader)
        return _Bounded().value(yaml.load(text, Loader=loader))
    except Exception as error:  # yaml's constructors may raise anything, depending on their input
        raise _unreadable(path, _reason(error)) from error


def read_text(path: Path) -> str:
    """A text file's content. FileProblem."""
    try:
        return _content(path, MOST_TEXT).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unreadable(path, error) from error


def read_rows(
    path: Path, wanted: Callable[[str], bool] = lambda _: True, places: Container[int] | None = None
) -> Iterator[dict[str, str]]:
    """The rows of a CSV file with a heading, one at a time: the `wanted` columns' fields that are not empty.

    An incomplete row (too few fields, too long) is returned as an empty one; a last line without a line end is skipped.
    With `places`, only these rows are read and others are empty. Separated by commas or, as some spreadsheets write,
    semicolons. FileProblem for the file as a whole.
    """
    with opened(path, MOST_ROWS) as file:
        first = file.readline(MOST_LINE).decode("utf-8-sig", errors="replace")
        mark = ";" if ";" in first and "," not in first else ","
        heading = _fields(first.rstrip("\r\n"), mark)
        picked = [(i, name) for i, name in enumerate(heading) if wanted(name)]
        for place, line in enumerate(iter(lambda: file.readline(MOST_LINE), b"")):
            if not line.endswith(b"\n") and len(line) < MOST_LINE:
                return  # being written, or cut short by a kill
            if places is not None and place not in places:
                yield {}
                continue
            fields = _fields(line.decode(errors="replace").rstrip("\r\n"), mark)
            whole = len(fields) == len(heading)
            yield {name: fields[i] for i, name in picked if fields[i] != ""} if whole else {}


def _fields(line: str, mark: str) -> list[str]:
    if '"' in line:
        try:
            return next(csv.reader([line], delimiter=mark), [])
        except csv.Error:
            return []
    return [field.replace(",", ".") for field in line.split(mark)] if mark == ";" else line.split(mark)


def _content(path: Path, most: int) -> bytes:
    with opened(path, most) as file:
        found = file.read(most + 1)
    if len(found) > most:  # it grew while being read
        raise _unreadable(path, f"it is larger than {most // 2**20} MiB")
    return found


def opened(path: Path, most: int) -> BufferedReader:
    """Opens a regular file of at most `most` bytes that is really in its folder; no pipe or device is ever opened."""
    try:
        if path.is_symlink() and not path.resolve().is_relative_to(path.parent.resolve()):
            raise _unreadable(path, "it is a link to outside its folder")
        if not stat.S_ISREG(path.stat().st_mode):
            raise _unreadable(path, "it is not a regular file")
        file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileProblem(path, "is missing", is_missing=True) from error
    except (OSError, ValueError, RuntimeError) as error:  # an invalid name, circular links
        raise _unreadable(path, getattr(error, "strerror", None) or error) from error
    told = os.fstat(file.fileno())
    if stat.S_ISREG(told.st_mode) and told.st_size <= most:
        return file
    file.close()
    raise _unreadable(path, f"it is larger than {most // 2**20} MiB")


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"it contains a number with {len(digits)} digits")
    return int(digits)


def _reason(error: Exception) -> object:
    return "it is nested too deeply" if isinstance(error, RecursionError) else error


def _check_events(text: str, loader: Any) -> None:
    """ValueError for content that would be too expensive to build; yaml's events come one by one and are cheap."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=loader)):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it uses an alias")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH or count > _NODES:
            raise ValueError("it is nested too deeply" if depth > _DEPTH else "it holds too many values")
        if isinstance(event, yaml.ScalarEvent) and _LIKE_A_NUMBER.fullmatch(event.value):
            raise ValueError(f"it contains a number with {len(event.value)} digits")


class _Bounded:
    """Makes a value plain: encodable text, finite numbers, keys that are text; counts what it meets."""

    def __init__(self) -> None:
        self._count = 0

    def value(self, found: Any, depth: int = 0) -> Any:
        """The plain value. ValueError if there is too much of it, or for types that JSON does not have."""
        self._count += 1
        if depth > _DEPTH or self._count > _NODES:
            raise ValueError("it is nested too deeply" if depth > _DEPTH else "it holds too many values")
        if isinstance(found, dict):
            return {self._key(key): self.value(each, depth + 1) for key, each in found.items()}
        if isinstance(found, list):
            return [self.value(each, depth + 1) for each in found]
        if isinstance(found, str):
            return _SURROGATE.sub("\ufffd", found)
        if isinstance(found, float):
            return found if math.isfinite(found) else None
        if found is None or isinstance(found, int):  # bool too
            return found
        return str(found)

    def _key(self, key: Any) -> str:
        return str(self.value(key))
