"""The comparison page from the command line: `python -m pffdst report logs -o report.html`."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from pffdst.core.errors import UserError
from pffdst.core.program import command_line
from pffdst.core.words import counted
from pffdst.metrics.units import format_bytes
from pffdst.report.exports import common_level, latex_text, runs_csv, write_text
from pffdst.report.figures import ACCURACIES
from pffdst.report.groups import group_runs, is_counted, keys_of
from pffdst.report.html import page
from pffdst.report.library import Library, Shelf
from pffdst.report.payload import payload
from pffdst.report.serve import open_server
from pffdst.runs.foreign import foreign

__all__ = ["main"]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog=command_line("report"), description="Compares the runs below a folder.")
    made.add_argument("logs", nargs="+", type=Path, metavar="FOLDER", help="folder with runs and sweeps, such as logs")
    made.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the page to FILE (default: report.html)")
    made.add_argument("--serve", type=int, metavar="PORT", help="serve the page on 127.0.0.1 and keep it up to date")
    made.add_argument("--open", action="store_true", help="open the page in a browser")
    made.add_argument("--group-by", metavar="KEY,KEY", help="configuration keys to group by (default: all that differ)")
    made.add_argument(
        "--accuracy",
        choices=ACCURACIES,
        default="ema_acc_global",
        metavar="NAME",
        help=f"accuracy to use in --png and --latex: {', '.join(ACCURACIES)}",
    )
    made.add_argument("--level", type=float, metavar="PERCENT", help="accuracy for which --latex gives the bytes")
    made.add_argument("--png", type=Path, metavar="FOLDER", help="write the main figures as PNG")
    made.add_argument("--csv", type=Path, metavar="FILE", help="write the table of runs")
    made.add_argument("--latex", type=Path, metavar="FILE", help="write the table of methods")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the command line says; returns the exit code: 0, or 2 after one message about what cannot be done."""
    given = parser().parse_args(arguments)
    try:
        library = Library(given.logs)
        shelf = library.look()
        check(given, shelf)
        write_files(given, shelf)
        if given.serve is not None:
            serve(given, library)
    except UserError as error:
        print(foreign(error).plain, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print()
    return 0


def check(given: argparse.Namespace, shelf: Shelf) -> None:
    """UserError for what cannot be done, before anything is written."""
    if not shelf.runs and given.serve is None:
        raise UserError(f"{', '.join(map(str, given.logs))}: no runs there; make one with `{command_line()}`")
    known = sorted({key for run in shelf.runs for key in run.config})
    unknown = [key for key in wanted_keys(given) or () if key not in known]
    if unknown:
        raise UserError(f"--group-by {','.join(unknown)}: no run has such a key; available: {', '.join(known)}")
    if given.png is not None and find_spec("matplotlib") is None:
        raise UserError("--png needs matplotlib, which is not installed: pip install 'pffdst[figures]'")
    if given.level is not None and not 0 < given.level <= 100:
        raise UserError(f"--level {given.level:g}: write an accuracy in percent, above 0 and at most 100")


def wanted_keys(given: argparse.Namespace) -> list[str] | None:
    """The keys of --group-by."""
    return None if given.group_by is None else [key.strip() for key in given.group_by.split(",") if key.strip()]


def write_files(given: argparse.Namespace, shelf: Shelf) -> None:
    """Writes the page, which --serve alone does not need, and the requested files."""
    console = Console()

    def say(words: str) -> None:
        console.print(foreign(words), soft_wrap=True)

    say(summary_line(shelf))
    for line in [
        f"  {run.id}: {run.status}, {'; '.join(run.remarks)}"
        for run in shelf.runs
        if run.status in ("damaged", "failed", "empty")
    ]:
        say(line)
    path = given.output or (Path("report.html") if given.serve is None else None)
    if path is not None:
        write_text(path, page(payload(shelf, wanted=wanted_keys(given))))
        say(f"{path} ({format_bytes(path.stat().st_size)})")
        if given.open and given.serve is None:
            webbrowser.open(path.resolve().as_uri())
    for path in exports(given, shelf):
        say(str(path))


def summary_line(shelf: Shelf) -> str:
    """How many runs there are, by status: `12 runs: 11 done, 1 failed`."""
    if not shelf.runs:
        return "no runs yet"
    counts = Counter("duplicate" if run.twin else run.status for run in shelf.runs)
    told = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    return f"{counted(len(shelf.runs), 'run')}: {told}"


def exports(given: argparse.Namespace, shelf: Shelf) -> list[Path]:
    """Writes the files of --csv, --latex and --png; returns them."""
    keys, written = keys_of([run for run in shelf.runs if run.has_figures and not run.twin], wanted_keys(given)), []
    if given.csv is not None:
        write_text(given.csv, runs_csv(shelf.runs, list(keys.differing)))
        written.append(given.csv)
    groups = group_runs([run for run in shelf.runs if is_counted(run)], keys)
    if given.latex is not None:
        level = common_level(groups, given.accuracy) if given.level is None else given.level / 100
        write_text(given.latex, latex_text(groups, given.accuracy, level))
        written.append(given.latex)
    if given.png is not None:
        from pffdst.report.pictures import write_pictures

        written += write_pictures(groups, given.accuracy, given.png)
    return written


def serve(given: argparse.Namespace, library: Library) -> None:
    """Answers until Ctrl-C."""
    wanted = wanted_keys(given)

    def ask(since: int) -> dict[str, Any]:
        return payload(library.look(), since, wanted)

    with open_server(ask, given.serve) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        Console().print(foreign(f"{address} (Ctrl-C to stop)"))
        sys.stdout.flush()
        if given.open:
            webbrowser.open(address)
        server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
