"""Files of a run's folder: written whole, read within bounds."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from pffdst.loggers.csv import read_metrics
from pffdst.runs.files import FileProblem, read_json, read_rows, read_yaml, write_whole
from pffdst.runs.jobs import locked


def test_pieces_and_writers_make_one_file(tmp_path: Path) -> None:
    def tail(file: BinaryIO) -> None:
        file.write(b"c")

    write_whole(tmp_path / "x", b"a", memoryview(b"b"), tail)
    assert (tmp_path / "x").read_bytes() == b"abc"


def test_what_was_begun_is_removed_when_writing_fails(tmp_path: Path) -> None:
    def full(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(OSError, match=f"No space.*{tmp_path / 'x'}"):
        write_whole(tmp_path / "x", full)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_what_a_kill_left_half_written_is_removed_by_whoever_takes_the_folder(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in (".run.json.12-3", "checkpoints/.last.ckpt.4711-0", ".hidden", "checkpoints/last.ckpt"):
        (tmp_path / name).write_bytes(b"x")
    with locked(tmp_path):
        left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {".hidden", "last.ckpt", "run.lock"}


@pytest.mark.parametrize("read", [read_json, read_yaml, lambda path: list(read_rows(path))])
def test_pipes_links_folders_and_nothing_are_told_by_name(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/etc/hostname")
    (tmp_path / "circle").symlink_to("circle")
    for name in ("pipe", "folder", "link", "circle"):
        with pytest.raises(FileProblem, match=f"{name} cannot be read"):
            read(tmp_path / name)
    with pytest.raises(FileProblem, match="none is missing") as error:
        read(tmp_path / "none")
    assert error.value.is_missing


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    (tmp_path / "b.json").symlink_to("a.json")
    assert read_json(tmp_path / "b.json") == {"a": 1}


def test_numbers_that_are_none_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": NaN, "b": -Infinity, "c": 1e999, "d": 1.5, "e": true}')
    assert read_json(tmp_path / "a.json") == {"a": None, "b": None, "c": None, "d": 1.5, "e": True}


def test_rows_that_a_spreadsheet_saved_are_read_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"round,x,word\n1,0.5,a\n2,,b\n")
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbfround;x;word\r\n1;0,5;a\r\n2;;b\r\n")
    assert (
        read_metrics(tmp_path / "a.csv")
        == read_metrics(tmp_path / "b.csv")
        == [
            {"round": 1, "x": 0.5, "word": "a"},
            {"round": 2, "word": "b"},
        ]
    )


def test_a_row_that_is_being_written_is_not_there_and_a_damaged_one_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'a,b\n1,2\n3\n"4,5\n6,7\n8,')
    assert list(read_rows(tmp_path / "a.csv")) == [{"a": "1", "b": "2"}, {}, {}, {"a": "6", "b": "7"}]
