"""Plays a study and writes its page: `python -m reproduce lenet_cifar10`; carries it: `pack`, `unpack`."""

from __future__ import annotations

import argparse
import functools
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pffdst.core.errors import UserError
from pffdst.core.words import counted
from reproduce import packing, page, tuning
from reproduce.play import Player, matters
from reproduce.record import Entry, Record
from reproduce.sitting import Sitting
from reproduce.study import Study, load, names

__all__ = ["main", "parser"]

_ROOT = Path(__file__).resolve().parents[1]
_CARRY = ("pack", "unpack")
_FOLDERS = {"runs": _ROOT / "logs" / "reproduce", "results": _ROOT / "docs" / "results"}


def parser() -> argparse.ArgumentParser:
    """The command line that plays a study."""
    made = argparse.ArgumentParser(
        prog="python -m reproduce",
        description=f"Plays a study and writes docs/results/STUDY.md. Studies: {', '.join(names())}.",
        epilog="Stopped at any moment and started again, it goes on where it was. `python -m reproduce pack STUDY -o "
        "FILE` and `python -m reproduce unpack FILE` carry what is done and what is half done to another machine.",
    )
    made.add_argument("study", metavar="STUDY", help="its name, or a YAML file of your own")
    made.add_argument("--data", type=Path, metavar="FOLDER", help="where the dataset lies (default: as configured)")
    _add_folders(made)
    _add_choice(made)
    made.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs side by side, the cores divided among them"
    )
    made.add_argument("--minutes", type=float, metavar="M", help="stop after so long; what runs goes on next time")
    made.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="how runs are computed, such as engine=batched"
    )
    made.add_argument("--rehearse", action="store_true", help="every run tiny, the page beside the runs")
    made.add_argument("--forget", action="store_true", help="remove from the record what fits no run of the study")
    instead = made.add_mutually_exclusive_group()
    instead.add_argument(
        "--again", action="store_true", help="play what is on the page already, and compare the models"
    )
    instead.add_argument("--list", action="store_true", help="say what is done and how far the rest is, play nothing")
    instead.add_argument("--write-only", action="store_true", help="write the page from what is kept, play nothing")
    return made


def carrier() -> argparse.ArgumentParser:
    """The command line of `pack` and `unpack`."""
    made = argparse.ArgumentParser(prog="python -m reproduce", description="Carries a study between machines.")
    ways = made.add_subparsers(dest="way", required=True)
    pack = ways.add_parser("pack", help="write what is done and what is half done into one file")
    pack.add_argument("study", metavar="STUDY", help="its name, or a YAML file of your own")
    pack.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="such as STUDY.zip")
    _add_choice(pack)
    unpack = ways.add_parser("unpack", help="check such a file and take in what is further along than here")
    unpack.add_argument("file", type=Path, metavar="FILE")
    unpack.add_argument("--study", metavar="YAML", help="the study's file, where it is one of your own")
    for one in (pack, unpack):
        _add_folders(one)
    return made


def _add_folders(made: argparse.ArgumentParser) -> None:
    made.add_argument("--runs", type=Path, default=_FOLDERS["runs"], metavar="FOLDER", help="of the runs")
    made.add_argument("--results", type=Path, default=_FOLDERS["results"], metavar="FOLDER", help="of the pages")


def _add_choice(made: argparse.ArgumentParser) -> None:
    made.add_argument("--only", default="", metavar="ROW,ROW", help="only these rows")
    made.add_argument("--seeds", default="", metavar="N,N", help="only these seeds")


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the command line says; the exit code: 0, 1 where a run failed, 2 for an error, 130 after Ctrl-C."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    carries = bool(words) and words[0] in _CARRY
    given = (carrier() if carries else parser()).parse_args(words)
    try:
        return {"pack": _pack, "unpack": _unpack}[given.way](given) if carries else _main(given)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130


def _main(given: argparse.Namespace) -> int:
    study = load(given.study)
    name = Path(given.study).stem
    if given.data is not None and not given.data.is_dir():
        raise UserError(f"--data {given.data}: there is no such folder")
    if given.jobs < 1:
        raise UserError(f"--jobs {given.jobs}: expected at least 1")
    if changing := [word for word in given.set if "=" not in word or matters(word)]:
        raise UserError(
            f"--set {' '.join(changing)}: only what changes no result can be set, such as engine=batched; for other "
            "settings write a study of your own"
        )
    runs = (given.runs / ("rehearsal" if given.rehearse else "") / name).resolve()
    results = runs.parent if given.rehearse else given.results
    record, path = Record.read(results / name), results / f"{name}.md"
    only = (_words(given.only), [_number(word) for word in _words(given.seeds)])
    player = Player(runs, _extra(study, given), _deadline(given.minutes))
    sitting = Sitting(study, record, player, given.data or _ROOT / "data", given.jobs, only)
    if given.again:
        return sitting.again()
    sitting.take_in()
    print(f"{name}: {len(sitting.jobs) - len(sitting.left)} of {len(sitting.jobs)} runs done")
    if given.list:
        print("\n".join(f"  {line}" for line in sitting.told()) or "  nothing is left")
        return 0

    write = functools.partial(_write_page, study, name, record, path)
    failed = 0 if given.write_only else sitting.play(write)
    write()
    print(f"written: {path}")
    strays = record.strays(tuning.jobs(study, record))
    if strays and given.forget:
        record.forget(strays)
    elif strays:
        print(_told_of(strays, record))
    if sitting.left and not given.write_only:
        verb = "is" if len(sitting.left) == 1 else "are"
        broken = f" ({failed} failed)" if failed else ""
        print(f"{counted(len(sitting.left), 'run')} {verb} left{broken}; --list shows them, the same command resumes")
    return 1 if failed else 0


def _write_page(study: Study, name: str, record: Record, path: Path) -> None:
    """The page of what fits the study as it is now; the record keeps the rest."""
    page.write(study, name, record.fitting(tuning.jobs(study, record)), path)


def _told_of(strays: Sequence[Entry], record: Record) -> str:
    named = [f"{entry.row}/{entry.seed}" for entry in strays]
    shown = ", ".join([*named[:5], *([f"and {len(named) - 5} more"] if len(named) > 5 else [])])
    return (
        f"{counted(len(strays), 'finished run')} of {record.folder} fit no run of the study as it is now: {shown}. "
        "They stay there and off the page; --write-only --forget removes them"
    )


def _extra(study: Study, given: argparse.Namespace) -> tuple[str, ...]:
    """Overrides beside a row's: the engine, the rehearsal, where the data lie."""
    own = [f"dataset.path={given.data.resolve()}"] if given.data is not None and not given.rehearse else []
    engine = [] if any(word.startswith("engine=") for word in given.set) else study.engine
    return (*engine, *given.set, *(study.rehearsal if given.rehearse else ()), *own)


def _deadline(minutes: float | None) -> float | None:
    if minutes is not None and not minutes >= 0:
        raise UserError(f"--minutes {minutes:g}: expected a number of at least 0")
    return None if minutes is None else time.monotonic() + 60 * minutes


def _pack(given: argparse.Namespace) -> int:
    study, name = load(given.study), Path(given.study).stem
    record, player = Record.read(given.results / name), Player((given.runs / name).resolve())
    only = (_words(given.only), [_number(word) for word in _words(given.seeds)])
    sitting = Sitting(study, record, player, _ROOT / "data", only=only)
    for line in packing.pack(given.output, name, record, player, sitting.left):
        print(line)
    return 0


def _unpack(given: argparse.Namespace) -> int:
    with packing.opened_pack(given.file) as pack:
        own = Path(given.study).stem if given.study else pack.study
        if own != pack.study:
            raise UserError(f"{given.file} is of the study {pack.study}, not of {own}")
        if not given.study and pack.study not in names():
            raise UserError(f"{given.file} is of a study that is not among ours: write --study {pack.study}.yaml")
        study = load(given.study or pack.study)
        record, player = Record.read(given.results / own), Player((given.runs / own).resolve())
        lines, changed = packing.unpack(pack, study, record, player)
    print("\n".join(lines))
    if changed:
        _write_page(study, own, record, given.results / f"{own}.md")
    print(f"to resume: {_again(given, given.study or own)}")
    return 0


def _again(given: argparse.Namespace, study: str) -> str:
    """The command that plays a study with the same folders."""
    ways = [(f"--{way}", getattr(given, way)) for way in _FOLDERS if getattr(given, way) != _FOLDERS[way]]
    return shlex.join(["python", "-m", "reproduce", study, *(str(word) for way in ways for word in way)])


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _number(word: str) -> int:
    if not word.isdecimal():
        raise UserError(f"--seeds {word}: expected whole numbers; write e.g. --seeds 0,1,2")
    return int(word)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the runs end with a checkpoint
    sys.exit(main())
