"""Checkpoints are whole or absent, whatever happens while one is written or to the disk afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pffdst.core.errors import UserError
from pffdst.runs.checkpoint import CheckpointError, latest, load, save
from pffdst.runs.files import write_whole

HEAD = 48


def state(t: int) -> dict[str, Any]:
    return {
        "t": t,
        "values": torch.arange(50.0) + t,
        "mask": torch.arange(9) % 2 == 0,
        "none": None,
        "text": ("a", 1.5),
    }


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(v, two[k]) if isinstance(v, torch.Tensor) else v == two[k] for k, v in one.items()
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two checkpoints: previous of round 1, last of round 2."""
    save(tmp_path / "checkpoints", state(1))
    save(tmp_path / "checkpoints", state(2))
    return tmp_path / "checkpoints"


def test_what_is_saved_is_loaded(folder: Path) -> None:
    assert same(load(folder / "last.ckpt"), state(2))
    assert same(load(folder / "previous.ckpt"), state(1))


def test_the_last_two_are_kept_and_nothing_else(folder: Path) -> None:
    save(folder, state(3))
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert [load(folder / f"{name}.ckpt")["t"] for name in ("previous", "last")] == [2, 3]


def test_the_newest_is_the_last(folder: Path) -> None:
    found = latest(folder)
    assert found is not None
    assert (found[0]["t"], found[1]) == (2, folder / "last.ckpt")


def test_a_folder_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    assert latest(tmp_path / "absent") is None


# ---- damage -----------------------------------------------------------------------------------------------------


def lengths(size: int) -> Iterator[int]:
    """In the magic, the length, the checksum, at their borders, in the body."""
    yield from (0, 1, 7, 8, 9, 15, 16, 17, 40, HEAD - 1, HEAD, HEAD + 1, size // 2, size - 1)


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_file_cut_short_is_refused_by_name(folder: Path) -> None:
    path = folder / "last.ckpt"
    whole = path.read_bytes()
    for length in lengths(len(whole)):
        path.write_bytes(whole[:length])
        refused(path)


def test_a_file_with_more_bytes_is_refused(folder: Path) -> None:
    path = folder / "last.ckpt"
    path.write_bytes(path.read_bytes() + b"\0")
    refused(path)


def test_a_changed_byte_is_refused_wherever_it_is(folder: Path) -> None:
    path = folder / "last.ckpt"
    whole = path.read_bytes()
    for at in [*range(HEAD + 4), *range(HEAD + 4, len(whole), 101), len(whole) - 1]:
        path.write_bytes(whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :])
        refused(path)


def test_what_is_no_checkpoint_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save(state(1), path)
    assert "not a checkpoint of this program" in refused(path)
    refused(tmp_path / "absent.ckpt")
    refused(tmp_path)


def test_a_damaged_file_tells_of_the_one_beside_it(folder: Path) -> None:
    path = folder / "last.ckpt"
    path.write_bytes(path.read_bytes()[:-1])
    assert f"resume={folder / 'previous.ckpt'}" in refused(path)


def test_advice_was_tried_first(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert "resume=" not in refused(folder / "last.ckpt")


def test_a_state_of_wrong_content_is_passed_over_for_the_one_before(folder: Path) -> None:
    def refuse_two(found: dict[str, Any], path: Path) -> None:
        if same(found, state(2)):
            raise CheckpointError(f"{path} is none")

    found = latest(folder, refuse_two)
    assert found is not None
    assert found[1] == folder / "previous.ckpt"


def test_errors_are_the_users() -> None:
    assert issubclass(CheckpointError, UserError)


@pytest.mark.parametrize("how", ["short", "flipped", "gone", "empty"])
def test_where_the_last_is_damaged_the_one_before_serves(folder: Path, how: str) -> None:
    path = folder / "last.ckpt"
    whole = path.read_bytes()
    damaged = {"short": whole[:-9], "flipped": whole[:-1] + bytes((whole[-1] ^ 4,)), "empty": b"", "gone": None}[how]
    path.unlink()
    if damaged is not None:
        path.write_bytes(damaged)
    found = latest(folder)
    assert found is not None
    assert same(found[0], state(1))
    assert found[1] == folder / "previous.ckpt"


def test_where_none_is_whole_the_newest_is_named(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"last\.ckpt"):
        latest(folder)


# ---- crashes ----------------------------------------------------------------------------------------------------


class Crash(BaseException):
    """Stands for a kill or a power cut."""


def crash_at(patch: pytest.MonkeyPatch, step: int) -> None:
    """The process ends at the `step`-th call that reaches the disk, counted from 0."""
    left = iter(range(step))

    def doomed(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(left, None) is None:
                raise Crash
            return real(*args, **kwargs)

        return call

    patch.setattr(os, "fsync", doomed(os.fsync))
    patch.setattr(Path, "replace", doomed(Path.replace))


@pytest.mark.parametrize("step", range(5))
@pytest.mark.parametrize("damaged", [False, True])
def test_a_crash_at_any_step_leaves_a_checkpoint(folder: Path, step: int, damaged: bool) -> None:
    if damaged:
        (folder / "last.ckpt").write_bytes(b"PFFDSTC1 and no more")
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, step)
        try:
            save(folder, state(3))
            crashed = False
        except Crash:
            crashed = True
    assert crashed or step >= 3
    found = latest(folder)
    assert found is not None
    assert same(found[0], state(found[0]["t"]))
    assert found[0]["t"] >= (1 if damaged else 2)


def test_after_a_crash_the_next_save_is_whole(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, 1)
        with pytest.raises(Crash):
            save(folder, state(3))
    save(folder, state(4))
    found = latest(folder)
    assert found is not None
    assert found[0]["t"] == 4


def test_a_disk_that_is_full_leaves_a_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(folder, state(3))
    monkeypatch.undo()
    found = latest(folder)
    assert found is not None
    assert found[0]["t"] == 2


@pytest.mark.parametrize("step", range(3))
def test_a_file_holds_all_or_what_it_held_before(tmp_path: Path, step: int) -> None:
    path = tmp_path / "summary.json"
    path.write_bytes(b"old")
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, step)
        with pytest.raises(Crash):
            write_whole(path, b"new")
    assert path.read_bytes() == (b"new" if step == 2 else b"old")


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("sync"), sync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda a, b: (calls.append("rename"), rename(a, b))[1])
    write_whole(tmp_path / "x", b"content")
    assert calls == ["sync", "rename", "sync"]


def test_code_hidden_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    save(tmp_path, {"call": os.getcwd})
    assert "more than tensors" in refused(tmp_path / "last.ckpt")
