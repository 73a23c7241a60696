"""One file that carries a study: its record, and the runs that are half done. Checked on arrival, as anybody's file.

A zip of manifest.json {"format", "study", "versions", "runs": [{"row", "seed", "round"}], "files": {name: {"size",
"sha256"}}} and the files that it names and nothing else: `record/` with the record's two files, and below
`runs/ROW/SEED/` those of a run that going on takes. Nothing of it is code, and nothing is written before all of it is
read and found to be what the manifest says.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from pffdst.core.errors import UserError
from pffdst.core.words import one_line
from pffdst.experiment import STATE_FORMAT
from pffdst.runs import checkpoint, files
from pffdst.runs.jobs import in_use
from pffdst.runs.provenance import versions
from reproduce import tuning
from reproduce.play import Player
from reproduce.record import FILES, Record
from reproduce.study import Job, Study

__all__ = ["FORMAT", "Pack", "opened_pack", "pack", "unpack"]

FORMAT: Final = 1
_MANIFEST = "manifest.json"
_CHECKPOINT = f"{files.CHECKPOINTS}/{files.LAST}"
# Of a run, what going on takes, and the most bytes that each may have.
_OF_A_RUN = {
    files.RUN: files.MOST_JSON,
    files.CONFIG: files.MOST_YAML,
    files.PROVENANCE: files.MOST_JSON,
    files.CLIENTS: files.MOST_JSON,
    files.OVERRIDES: files.MOST_YAML,
    files.HYDRA_SETTINGS: files.MOST_YAML,
    files.METRICS: 2**28,
    _CHECKPOINT: 2**31,
}
_MOST_FILES, _MOST_BYTES = 20_000, 2**32
_IN_RECORD = "record/"
_IN_RUN = re.compile(r"runs/\w+(\.\w+)?/\d{1,19}/(?P<file>[\w./]+)", re.ASCII)


# ---- packing -------------------------------------------------------------------------------------------------------


def pack(path: Path, name: str, record: Record, player: Player, left: Sequence[Job]) -> list[str]:
    """Writes the study's record and those of the runs `left` that are begun into `path`; says what is in it.

    UserError where one of them is being played, or the file cannot be written.
    """
    content: dict[str, Path] = {f"{_IN_RECORD}{file}": record.folder / file for file in FILES if record.entries}
    runs: list[dict[str, Any]] = []
    for job in left:
        folder = player.folder(job)
        if in_use(folder):
            raise UserError(f"{folder}: this run is being played; stop it first, it is packed as far as it is then")
        if job.waits or player.is_done(job) or (found := checkpoint.latest(folder / files.CHECKPOINTS)) is None:
            continue
        state, newest = found
        runs.append({"row": job.row, "seed": job.seed, "round": state["t"]})
        for file in _OF_A_RUN:
            source = newest if file == _CHECKPOINT else folder / file
            if source.is_file():
                content[f"runs/{job.name}/{file}"] = source
    if not content:
        raise UserError(f"{name}: nothing is done or begun yet, so there is nothing to pack")
    told = {"format": FORMAT, "study": name, "versions": versions(), "runs": runs}
    try:
        size = _write(path, told, {inside: source.read_bytes() for inside, source in content.items()})
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    begun = [f"{one['row']}/{one['seed']}: after round {one['round']}" for one in runs]
    return [*begun, f"{path}: {len(record.entries)} finished runs, {len(runs)} begun ones, {size / 1e6:.1f} MB"]


def _write(path: Path, told: Mapping[str, Any], content: Mapping[str, bytes]) -> int:
    listed = {name: {"size": len(own), "sha256": hashlib.sha256(own).hexdigest()} for name, own in content.items()}
    manifest = json.dumps({**told, "files": listed}, indent=1).encode() + b"\n"

    def body(file: Any) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, own in {_MANIFEST: manifest, **content}.items():
                archive.writestr(zipfile.ZipInfo(name), own, zipfile.ZIP_DEFLATED)  # of no date: the same each time

    files.write_whole(path, body)
    return path.stat().st_size


# ---- opening -------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Pack:
    """A pack that is what its manifest says, laid out in `folder`: record/, runs/ROW/SEED/."""

    study: str
    versions: Mapping[str, str]
    runs: Mapping[tuple[str, int], int]
    folder: Path


@contextmanager
def opened_pack(path: Path) -> Iterator[Pack]:
    """Reads and checks a pack into a folder of its own, which goes when it is closed. UserError for what is none."""
    with tempfile.TemporaryDirectory(prefix="pffdst-unpack-") as folder:
        yield _read(path, Path(folder))


def _read(path: Path, folder: Path) -> Pack:
    try:
        with files.opened(path, _MOST_BYTES) as file, zipfile.ZipFile(file) as archive:
            return _laid_out(archive, folder)
    except _Refused as error:
        raise UserError(f"{path}: {error}: it was damaged or made by another program; nothing was taken") from error
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(f"{path}: no pack that can be read ({one_line(error, 200)})") from error


class _Refused(Exception):
    """Why a file is no pack."""


def _laid_out(archive: zipfile.ZipFile, folder: Path) -> Pack:
    told = _manifest(archive, folder)
    listed: Mapping[str, Any] = told["files"]
    infos = {info.filename: info for info in archive.infolist()}
    if len(infos) < len(archive.infolist()) or infos.keys() != {*listed, _MANIFEST}:
        raise _Refused("its files are not those that its manifest names")
    if sum(info.file_size for info in infos.values()) > _MOST_BYTES:
        raise _Refused(f"it holds more than {_MOST_BYTES // 2**30} GiB")
    for name, own in listed.items():
        content = _content(archive, infos[name], _most(name))
        if not isinstance(own, dict) or own.get("sha256") != hashlib.sha256(content).hexdigest():
            raise _Refused(f"{name} is not what the manifest says")
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return Pack(told["study"], told["versions"], _runs(told["runs"], listed), folder)


def _manifest(archive: zipfile.ZipFile, folder: Path) -> Mapping[str, Any]:
    try:
        content = _content(archive, archive.getinfo(_MANIFEST), files.MOST_JSON)
        (folder / _MANIFEST).write_bytes(content)
        told = files.read_json(folder / _MANIFEST)
    except (KeyError, files.FileProblem) as error:
        raise _Refused("it has no manifest that can be read") from error
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        found = told.get("format") if isinstance(told, dict) else None
        raise _Refused(f"its format is {found}, this program reads {FORMAT}; pack and unpack with one version")
    kinds = {"study": str, "versions": dict, "runs": list, "files": dict}
    if any(not isinstance(told.get(key), kind) for key, kind in kinds.items()) or not re.fullmatch(
        r"\w+", told["study"]
    ):
        raise _Refused("its manifest lacks what one has")
    if len(told["files"]) > _MOST_FILES:
        raise _Refused(f"it holds more than {_MOST_FILES} files")
    return told


def _most(name: str) -> int:
    """The most bytes of a file by its name. _Refused for a name that no pack has."""
    if name in {f"{_IN_RECORD}{file}" for file in FILES}:
        return files.MOST_JSON if name.endswith(".json") else 2**28
    found = _IN_RUN.fullmatch(name)
    if not found or found["file"] not in _OF_A_RUN:
        raise _Refused(f"{name[:200]!r} is no file of a pack")
    return _OF_A_RUN[found["file"]]


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.is_dir() or kind not in (0, stat.S_IFREG) or info.flag_bits & 1:
        raise _Refused(f"{info.filename[:200]!r} is not a regular file")
    with archive.open(info) as file:
        content = file.read(most + 1)
    if len(content) > most or len(content) != info.file_size:
        raise _Refused(f"{info.filename[:200]!r} is larger than {most // 2**20} MiB, or than it says")
    return content


def _runs(told: Sequence[Any], listed: Mapping[str, Any]) -> dict[tuple[str, int], int]:
    """Rounds done by row and seed, of runs that have all their files."""
    found = {}
    for one in told:
        row, seed, t = (one.get(key) if isinstance(one, dict) else None for key in ("row", "seed", "round"))
        if not isinstance(row, str) or not isinstance(seed, int) or not isinstance(t, int):
            raise _Refused("its manifest tells of a run without row, seed and round")
        if any(f"runs/{row}/{seed}/{file}" not in listed for file in (_CHECKPOINT, files.OVERRIDES, files.RUN)):
            raise _Refused(f"its run {row}/{seed} lacks files")
        found[row, seed] = t
    return found


# ---- taking in -----------------------------------------------------------------------------------------------------


def unpack(pack: Pack, study: Study, record: Record, player: Player) -> tuple[list[str], bool]:
    """Takes in what is further along than here, and nothing else; says what was done, and whether the record grew.

    UserError, before anything is written, where a run is of other settings than the study's, is being played here, or
    has a checkpoint of another version.
    """
    arrived = Record.read(pack.folder / "record")
    _check_entries(arrived)
    jobs = {(job.row, job.seed): job for job in tuning.jobs(study, _merged(record, arrived))}
    incoming = Player(pack.folder / "runs", player.extra)
    begun = [(job, _round(incoming, job, t)) for key, t in pack.runs.items() if (job := _job(jobs, key))]
    for job, _ in begun:
        if in_use(player.folder(job)):
            raise UserError(f"{player.folder(job)}: this run is being played here; stop it first")
    lines = _differing_versions(pack)
    finished = _take_entries(study, record, arrived, lines)
    for job, t in begun:
        lines.append(_take_run(job, t, record, player, incoming))
    return lines or ["nothing in it is further along than here"], finished


def _job(jobs: Mapping[tuple[str, int], Job], key: tuple[str, int]) -> Job:
    if key not in jobs or jobs[key].waits:
        raise UserError(
            f"{key[0]}/{key[1]}: the pack holds this run, but the study here has none: it is another edition"
        )
    return jobs[key]


def _round(incoming: Player, job: Job, told: int) -> int:
    """Rounds done of an arrived run. UserError where it cannot be gone on with."""
    if incoming.is_done(job):
        raise UserError(f"{job.name}: the pack says it is half done, but it is finished")
    state = checkpoint.load(incoming.folder(job) / _CHECKPOINT)
    if not isinstance(state, dict) or state.get("format") != STATE_FORMAT:
        raise UserError(f"{job.name}: its checkpoint is of another version of this program; finish it with that one")
    if state.get("t") != told:
        raise UserError(f"{job.name}: its checkpoint is of another round than the manifest says")
    return told


def _take_run(job: Job, t: int, record: Record, player: Player, incoming: Player) -> str:
    place = player.folder(job)
    if record.holds(job) or player.is_done(job):
        return f"{job.name}: kept as it is here, finished; the pack's is after round {t}"
    here = checkpoint.latest(place / files.CHECKPOINTS)
    done = 0 if here is None else int(here[0]["t"])
    if here is not None and done >= t:
        return f"{job.name}: kept as it is here, after round {done}; the pack's is after round {t}"
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (place.with_name(f".{place.name}.{word}") for word in ("arriving", "before"))
    for path in (fresh, old):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(incoming.folder(job), fresh)
    if place.exists():
        place.replace(old)
    fresh.replace(place)
    shutil.rmtree(old, ignore_errors=True)
    return f"{job.name}: taken, after round {t}" + (f"; here it was after round {done}" if here is not None else "")


def _merged(record: Record, arrived: Record) -> Record:
    """Both records' entries, this machine's first, in memory alone."""
    return Record(record.folder, {**arrived.entries, **record.entries})


def _take_entries(study: Study, record: Record, arrived: Record, lines: list[str]) -> bool:
    before = len(record.entries)
    for job in tuning.jobs(study, _merged(record, arrived)):
        if not arrived.holds(job):
            continue
        own = arrived.entries[job.row, job.seed]
        if not record.holds(job):
            record.entries[job.row, job.seed] = own
            lines.append(f"{job.name}: taken, finished")
        elif record.entries[job.row, job.seed].summary["model_sha256"] != own.summary["model_sha256"]:
            lines.append(f"{job.name}: kept as it is here; the pack has another model of it")
    if len(record.entries) > before:
        record.write()
    return len(record.entries) > before


_PLAIN = re.compile(r"[\w .,:;()+/@%\[\]{}\"'=*-]{0,500}")


def _check_entries(arrived: Record) -> None:
    """UserError for what would not be figures and plain words on a page."""
    for entry in arrived.entries.values():
        texts = [*entry.config.values(), *_leaves(entry.provenance)]
        odd = [text for text in texts if isinstance(text, str) and not _PLAIN.fullmatch(text)]
        digest = entry.summary.get("model_sha256")
        if odd or not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise UserError(f"{entry.row}/{entry.seed}: the pack's record has more than figures and plain words")
        if any(not isinstance(entry.summary.get(key), int | float) for key in _FIGURES):
            raise UserError(f"{entry.row}/{entry.seed}: the pack's record lacks figures of a finished run")


_FIGURES = ("ema_acc_global", "last5_acc_global", "bytes_up", "bytes_down", "paper_bytes", "flops", "wall_s")


def _leaves(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        node = [*node.keys(), *node.values()]
    if not isinstance(node, list | tuple):
        yield node
        return
    for each in node:
        yield from _leaves(each)


def _differing_versions(pack: Pack) -> list[str]:
    here = versions()
    other = [
        f"{name} {told}, here {here[name]}" for name, told in pack.versions.items() if here.get(name, told) != told
    ]
    return [f"made with {', '.join(other)}: runs that go on may round otherwise"] if other else []
