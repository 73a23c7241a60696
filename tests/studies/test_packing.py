"""A study carried to another machine: what arrives goes on as if it had never moved, and nothing else gets in."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pffdst.runs import checkpoint
from reproduce import play
from reproduce.__main__ import main
from reproduce.record import FILES, Entry, Record

ROW = "moving/0"
MakeEntry = Callable[..., Entry]
pytestmark = pytest.mark.usefixtures("warm_runs")


@pytest.fixture
def command(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return [str(study_file)]


def places(root: Path) -> list[str]:
    return ["--runs", str(root / "runs"), "--results", str(root / "results")]


def half_done(root: Path, rounds: int) -> Path:
    """The run of a machine, cut back to where a kill after so many rounds would have left it."""
    folder = root / "runs" / "masks" / ROW
    (folder / "summary.json").unlink()
    (folder / "run.json").write_text((folder / "run.json").read_text().replace('"done"', '"running"'))
    shutil.rmtree(root / "results")
    assert checkpoint.load(folder / "checkpoints" / "last.ckpt")["t"] == rounds
    return folder


def stopped_after_a_few(command: list[str], root: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Plays until there is a checkpoint, as `--minutes` would, and gives its round."""
    saved = root / "runs" / "masks" / ROW / "checkpoints" / "last.ckpt"
    with monkeypatch.context() as patch:
        patch.setattr(play.Player, "_is_over", lambda self: saved.exists())
        assert main([*command, *places(root), "--only", "moving", "--seeds", "0", *EVERY]) == 0
    t = int(checkpoint.load(saved)["t"])
    assert 0 < t < 200
    return t


EVERY = ["--set", "checkpoint_every=1"]


def test_a_run_that_moved_ends_as_one_that_never_did(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Path(command[0])
    study.write_text(study.read_text().replace("rounds=8, eval_every=2", "rounds=120, eval_every=30"))
    here, there, still = (tmp_path / name for name in ("here", "there", "still"))
    t = stopped_after_a_few(command, here, monkeypatch)
    assert main([*command, *places(here), "--list", "--only", "moving"]) == 0
    assert f"moving/0: stopped, {t} rounds done" in capsys.readouterr().out

    assert main(["pack", *command, "-o", str(tmp_path / "masks.zip"), *places(here)]) == 0
    assert f"moving/0: after round {t}\n" in capsys.readouterr().out
    shutil.rmtree(here)  # nothing of the first machine is there any more
    assert main(["unpack", str(tmp_path / "masks.zip"), *places(there)]) == 2
    assert "write --study masks.yaml" in capsys.readouterr().err
    assert main(["unpack", str(tmp_path / "masks.zip"), "--study", *command, *places(there)]) == 0
    said = capsys.readouterr().out
    assert f"moving/0: taken, after round {t}\n" in said
    assert said.splitlines()[-1] == f"to resume: {shlex.join(['python', '-m', 'reproduce', *command, *places(there)])}"

    one = ["--only", "moving", "--seeds", "0", *EVERY]
    for root in (there, still):
        assert main([*command, *places(root), *one]) == 0
    moved, unmoved = (Record.read(root / "results" / "masks").entries["moving", 0] for root in (there, still))
    assert moved.summary["model_sha256"] == unmoved.summary["model_sha256"]
    assert moved.evaluations == unmoved.evaluations
    assert [one["from_round"] for one in moved.provenance] == [1, t + 1]  # it did go on, and did not start anew

    # what is done is carried too, and what is done is never gone back from
    assert main(["pack", *command, "-o", str(tmp_path / "done.zip"), *places(there)]) == 0
    assert main(["unpack", str(tmp_path / "done.zip"), "--study", *command, *places(tmp_path / "third")]) == 0
    assert "moving/0: taken, finished" in capsys.readouterr().out
    assert Record.read(tmp_path / "third" / "results" / "masks").entries["moving", 0] == moved
    assert "**1 of 4 runs are done.**" in (tmp_path / "third" / "results" / "masks.md").read_text()
    assert main(["unpack", str(tmp_path / "masks.zip"), "--study", *command, *places(there)]) == 0
    assert "kept as it is here, finished" in capsys.readouterr().out


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, study_text: str, warm_runs: None) -> bytes:
    """A pack of a run in its last round."""
    root = tmp_path_factory.mktemp("once")
    (root / "masks.yaml").write_text(study_text)
    command = [str(root / "masks.yaml")]
    assert main([*command, *places(root), "--only", "moving", "--seeds", "0", *EVERY]) == 0
    half_done(root, 8)
    assert main(["pack", *command, "-o", str(root / "masks.zip"), *places(root)]) == 0
    return (root / "masks.zip").read_bytes()


@pytest.fixture
def packed(once: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "masks.zip"
    path.write_bytes(once)
    return path


def taken(packed: Path, command: list[str], root: Path) -> int:
    return main(["unpack", str(packed), "--study", *command, *places(root)])


def test_what_is_further_along_stays(
    packed: Path, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "there"
    assert taken(packed, command, there) == 0
    saved = there / "runs" / "masks" / ROW / "checkpoints" / "last.ckpt"
    mark = saved.with_name("of_here")
    mark.touch()
    assert taken(packed, command, there) == 0  # as far as here, not further
    assert "kept as it is here, after round 8; the pack's is after round 8" in capsys.readouterr().out
    assert mark.exists()
    checkpoint.write(saved, checkpoint.load(saved) | {"t": 3})
    assert taken(packed, command, there) == 0
    assert "moving/0: taken, after round 8; here it was after round 3" in capsys.readouterr().out
    assert not mark.exists()
    assert sorted(path.name for path in saved.parents[2].iterdir()) == ["0"]  # nothing is left lying about


Change = Callable[[dict[str, bytes]], Mapping[str, bytes]]


def altered(packed: Path, change: Change, **attributes: int) -> None:
    """The pack with other files in it."""
    with zipfile.ZipFile(packed) as archive:
        content = dict(change({name: archive.read(name) for name in archive.namelist()}))
    with zipfile.ZipFile(packed, "w") as archive:
        for name, own in content.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = attributes.get("mode", 0) << 16
            archive.writestr(info, own)


def named(content: dict[str, bytes], name: str, own: bytes, **told: object) -> dict[str, bytes]:
    """A further file, which the manifest names and vouches for."""
    manifest = json.loads(content["manifest.json"])
    manifest["files"][name] = {"size": len(own), "sha256": hashlib.sha256(own).hexdigest()}
    return content | {name: own, "manifest.json": json.dumps(manifest | told).encode()}


def told_of(content: dict[str, bytes], **run: object) -> dict[str, bytes]:
    return named(content, f"runs/{ROW}/clients.json", b"{}", runs=[{"seed": 0, **run}])


def last_bit_turned(content: dict[str, bytes]) -> dict[str, bytes]:
    name = f"runs/{ROW}/checkpoints/last.ckpt"
    return content | {name: content[name][:-1] + bytes([content[name][-1] ^ 1])}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (last_bit_turned, "is not what the manifest says"),
        (lambda c: c | {"runs/moving/0/more.txt": b"x"}, "not those that its manifest names"),
        (lambda c: named(c, f"runs/{ROW}/../../../../out.txt", b"x"), "is no file of a pack"),
        (lambda c: named(c, "/tmp/out.txt", b"x"), "is no file of a pack"),
        (lambda c: named(c, f"runs/{ROW}/evil.py", b"x"), "is no file of a pack"),
        (lambda c: named(c, f"runs/{ROW}/clients.json", b" " * 2**23), "is larger than 4 MiB"),
        (lambda c: named(c, f"runs/{ROW}/clients.json", b"{}", format=2), "its format is 2, this program reads 1"),
        (lambda c: named(c, f"runs/{ROW}/clients.json", b"{}", study="../other"), "lacks what one has"),
        (
            lambda c: named(c, f"runs/{ROW}/clients.json", b"{}", runs=[{"row": "fixed", "seed": 0, "round": 1}]),
            "lacks",
        ),
        (
            lambda c: named(c, f"runs/{ROW}/clients.json", b"{}", runs=[{"row": "moving", "seed": 0, "round": 9}]),
            "another",
        ),
        (lambda c: named(c, f"runs/{ROW}/.hydra/overrides.yaml", b"- lr=7\n"), "other settings"),
        (lambda c: {k: v for k, v in c.items() if k != "manifest.json"}, "no manifest"),
        (lambda c: named(c, "record/runs.json", b"[{}]") | {}, "cannot be read"),
    ],
)
def test_what_is_no_pack_is_refused_and_nothing_is_written(
    packed: Path, command: list[str], tmp_path: Path, change: Change, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    altered(packed, change)
    assert taken(packed, command, tmp_path / "there") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "there").exists()
    assert not (tmp_path / "out.txt").exists()


def test_where_data_lie_and_how_it_is_computed_may_differ(packed: Path, command: list[str], tmp_path: Path) -> None:
    name = f"runs/{ROW}/.hydra/overrides.yaml"
    further = b"- dataset.path=/mnt/elsewhere\n- engine.workers=3\n"
    altered(packed, lambda content: named(content, name, content[name] + further))
    assert taken(packed, command, tmp_path / "there") == 0
    assert (tmp_path / "there" / "runs" / "masks" / ROW / "checkpoints" / "last.ckpt").exists()


def test_links_cut_files_and_no_files_are_refused(
    packed: Path, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = packed.read_bytes()
    altered(packed, lambda content: content, mode=0o120777)
    assert taken(packed, command, tmp_path / "there") == 2
    assert "is not a regular file" in capsys.readouterr().err
    for damaged in (whole[: len(whole) // 2], b"", b"no zip"):
        packed.write_bytes(damaged)
        assert taken(packed, command, tmp_path / "there") == 2
        assert "no pack that can be read" in capsys.readouterr().err
    assert taken(tmp_path, command, tmp_path / "there") == 2
    assert "is not a regular file" in capsys.readouterr().err
    assert taken(tmp_path / "nothing.zip", command, tmp_path / "there") == 2
    assert "is missing" in capsys.readouterr().err
    assert not (tmp_path / "there").exists()


def test_a_record_with_more_than_figures_is_refused(
    packed: Path,
    command: list[str],
    make_entry: Callable[..., Entry],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    entry = make_entry("fixed", 0, [0.1], 1)
    entry.provenance[0]["git"] = "<script>alert(1)</script>"  # type: ignore[index]
    Record(tmp_path / "kept", {("fixed", 0): entry}).write()

    def change(content: dict[str, bytes]) -> dict[str, bytes]:
        for file in FILES:
            content = named(content, f"record/{file}", (tmp_path / "kept" / file).read_bytes())
        return content

    altered(packed, change)
    assert taken(packed, command, tmp_path / "there") == 2
    assert "more than figures and plain words" in capsys.readouterr().err
    assert not (tmp_path / "there").exists()
