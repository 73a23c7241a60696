"""Plays every setting, and an option of every group, in one process and over ranks: the same model and figures.

    python -m tests.every_setting [--ranks 2] [LINE ...]

prints a line for each; the suite compares what the ranks make of the same lines in tests/engines/test_followers.py.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

from tests.engines.test_followers import OPTIONS, SETTINGS, SMALL
from tests.warm import WarmPython

ROOT = Path(__file__).resolve().parents[1]
LINES = (*(f"{key}={value}" for key, value in SETTINGS.items()), *OPTIONS)
_OF_THE_MACHINE = ("round/seconds", "time/")


def told(folder: Path) -> tuple[str, list[dict[str, str]]]:
    """The model's digest and the figures of all rounds that are not the machine's."""
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = [{k: v for k, v in row.items() if not k.startswith(_OF_THE_MACHINE)} for row in csv.DictReader(file)]
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))["model_sha256"], rows


def compared(warm: WarmPython, line: str, ranks: int, folder: Path) -> str:
    """What is to be said of the line; it begins with "same" where both agree."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HYDRA"))}
    workers = [] if line.startswith("engine=") else ["engine.workers=0"]
    command = [str(ROOT / "train.py"), *SMALL, *workers, *line.split()]
    for size, name in ((1, "alone"), (ranks, "ranks")):
        done = warm.ranks(size, *command, f"hydra.run.dir={folder / name}", env=kept)
        if done.returncode:
            return f"{name}: exit code {done.returncode}, {done.stderr.strip()[-200:]}"
    (digest, rows), (other, theirs) = told(folder / "alone"), told(folder / "ranks")
    if (digest, rows) != (other, theirs):
        return f"differs: {digest[:12]} alone, {other[:12]} over ranks" + ("" if rows == theirs else ", other figures")
    return f"same {digest[:12]}, {len(rows)} rounds"


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lines", nargs="*", default=LINES, metavar="LINE")
    parser.add_argument("--ranks", type=int, default=2)
    given = parser.parse_args()
    warm, failed = WarmPython(), 0
    for line in given.lines:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            said = compared(warm, line, given.ranks, Path(folder))
        failed += not said.startswith("same")
        print(f"{line:36} {time.monotonic() - began:5.1f} s  {said}", flush=True)
    warm.close()
    print(f"{failed} of {len(given.lines)} differ")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
