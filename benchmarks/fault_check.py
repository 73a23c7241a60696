"""Every way a run can be ended, one after another: what it says, what it leaves behind, what it is after a resume.

    python benchmarks/fault_check.py [--only NAME ...] [--out TABLE.md]

Each row is a run on digits that is begun anew, hurt after its third round and resumed. `left` lists what a run that
was never hurt does not leave: in its folder, in shared memory, in the temporary folder, and processes. `digest` is
`same` where the resumed run ends with the model of the undisturbed one. Linux alone; a full disk needs the right to
mount a tmpfs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from common import ROOT

ROUNDS, HURT_AFTER = 24, 3
SETTINGS = (
    "method=pffdst",
    f"rounds={ROUNDS}",
    "eval_every=12",
    "checkpoint_every=8",
    "logger=csv",
    "clients=8",
    "cohort=4",
    "batch_size=32",
    "readjust.schedule.interval=1",
)
SHARED_MEMORY = Path("/dev/shm")
RANKS = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--rdzv-backend=c10d")


@dataclass(frozen=True)
class Case:
    """A way to end a run: `hurt` is given the first process and the run's folder.

    `before` limits the process as it starts; `ranks` and `disk` say whether it runs under torchrun, on a small disk.
    """

    hurt: Callable[[psutil.Process, Path], None] | None = None
    ranks: bool = False
    disk: bool = False
    before: Callable[[], None] | None = None
    mend: Callable[[Path], None] | None = None
    settings: tuple[str, ...] = ("engine.workers=2",)


def workers(main: psutil.Process) -> list[psutil.Process]:
    """The worker processes of a run, or the ranks of a torchrun."""
    return sorted(main.children(), key=lambda process: process.pid)


def once(number: int) -> Callable[[psutil.Process, Path], None]:
    """A signal to the first process."""
    return lambda main, _: main.send_signal(number)


def twice(main: psutil.Process, _: Path) -> None:
    """Ctrl-C, and again before the round is over."""
    main.send_signal(signal.SIGINT)
    time.sleep(0.01)
    with contextlib.suppress(psutil.NoSuchProcess):
        main.send_signal(signal.SIGINT)


def to_worker(number: int, place: int = 0) -> Callable[[psutil.Process, Path], None]:
    """A signal to a worker or rank."""
    return lambda main, _: workers(main)[place].send_signal(number)


def fill(_: psutil.Process, folder: Path) -> None:
    """The disk is full from now on."""
    with contextlib.suppress(OSError), (folder.parent / "filler").open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()


def unfill(folder: Path) -> None:
    """There is room again."""
    (folder.parent / "filler").unlink()


def small_files(main: psutil.Process, _: Path) -> None:
    """No file may grow beyond 20 kB: `ulimit -f`."""
    resource.prlimit(main.pid, resource.RLIMIT_FSIZE, (20_000, 20_000))


def little_memory(main: psutil.Process, _: Path) -> None:
    """No more memory than there is now, in the first process and in its workers: `ulimit -v`."""
    for process in (main, *workers(main)):
        resource.prlimit(process.pid, resource.RLIMIT_AS, (2**20, 2**20))


def put_back(folder: Path) -> None:
    """The folder, which was moved away, comes back."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_name("away").rename(folder)


def gone(_: psutil.Process, folder: Path) -> None:
    """The folder is moved away."""
    folder.rename(folder.with_name("away"))


def replace(_: psutil.Process, folder: Path) -> None:
    """Another folder in the run's place."""
    folder.rename(folder.with_name("away"))
    folder.mkdir()


def limit(kind: int, most: int) -> Callable[[], None]:
    """A limit of the system for the process that is about to start."""
    return lambda: resource.setrlimit(kind, (most, most))


CASES = {
    "Ctrl-C": Case(once(signal.SIGINT)),
    "Ctrl-C twice": Case(twice),
    "SIGTERM": Case(once(signal.SIGTERM)),
    "SIGHUP": Case(once(signal.SIGHUP)),
    "kill -9 main": Case(once(signal.SIGKILL)),
    "kill -9 worker": Case(to_worker(signal.SIGKILL)),
    "stopped worker": Case(to_worker(signal.SIGSTOP)),
    "folder gone": Case(gone, mend=put_back),
    "folder replaced": Case(replace, mend=put_back),
    "disk full": Case(fill, disk=True, mend=unfill),
    "files too large": Case(small_files),
    "out of memory": Case(little_memory),
    "kill -9 rank 1": Case(to_worker(signal.SIGKILL, 1), ranks=True),
    "kill -9 rank 0": Case(to_worker(signal.SIGKILL, 0), ranks=True),
    "SIGTERM torchrun": Case(once(signal.SIGTERM), ranks=True),
    "kill -9 torchrun": Case(once(signal.SIGKILL), ranks=True),
    "30 open files": Case(before=limit(resource.RLIMIT_NOFILE, 30)),
    "2 GB of memory": Case(before=limit(resource.RLIMIT_AS, 2 * 10**9)),
    "400 workers": Case(once(signal.SIGINT), settings=("engine.workers=400",)),
}


def main() -> None:
    """Plays the cases and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/fault_check.md")
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where this script runs in the background, it is ignored
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    lines = ["| ended by | exit code | last line | left | digest after resume |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory(prefix="fault-check-") as scratch:
        expected, usual = undisturbed(Path(scratch) / "whole")
        for name in given.only:
            lines.append(f"| {name} | {' | '.join(row(CASES[name], Path(scratch) / 'case', expected, usual))} |")
            print(lines[-1], flush=True)
            given.out.write_text("\n".join(lines) + "\n")


def undisturbed(place: Path) -> tuple[str, set[str]]:
    """The digest of a run that is left alone, and what it leaves."""
    place.mkdir()
    started = start(Case(), place)
    _, errors = started.communicate()
    assert started.returncode == 0, errors
    return digest(place / "run"), names(place / "run")


def row(case: Case, place: Path, expected: str, usual: set[str]) -> list[str]:
    """One case: exit code, last line, what is left, the digest after the resume."""
    place.mkdir()
    folder, shared = place / "run", names(SHARED_MEMORY)
    with disk(place, wanted=case.disk) as mounted:
        if case.disk and not mounted:
            return ["-", "no right to mount a small disk", "-", "-"]
        started = start(case, place)
        if case.hurt is not None:
            wait_for_rounds(folder, started)
            case.hurt(psutil.Process(started.pid), folder)
        _, errors = started.communicate(timeout=300)
        time.sleep(4 if case.ranks else 1)
        left = sorted(names(folder) - usual) + [f"/dev/shm/{name}" for name in names(SHARED_MEMORY) - shared]
        left += [f"TMPDIR/{name}" for name in names(place / "tmp")] + [f"pid {pid}" for pid in still(folder)]
        if case.mend is not None:
            case.mend(folder)
        last = last_words(errors).replace(str(place), "").replace(str(ROOT), "").replace("|", "/")
        found = [str(started.returncode), last[:300], ", ".join(left) or "nothing", resumed(folder, place, expected)]
    shutil.rmtree(place)
    return found


def last_words(errors: str) -> str:
    """The last line that says how to go on; else the last. torchrun adds a report of its own to what the run says."""
    lines = errors.strip().splitlines() or ["-"]
    return next((line for line in reversed(lines) if "resume=" in line), lines[-1])


def resumed(folder: Path, place: Path, expected: str) -> str:
    """What becomes of the run when it is gone on with."""
    if not (folder / "run.json").exists():
        return "nothing to resume"
    command = [sys.executable, str(ROOT / "train.py"), f"resume={folder}", "engine.workers=2"]
    done = subprocess.run(command, cwd=ROOT, env=environment(place), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return f"exit code {done.returncode}: {(done.stderr.strip().splitlines() or ['-'])[-1][:200]}"
    rest = sorted(path.name for path in folder.rglob(".*.*-*"))
    return ("same" if digest(folder) == expected else "OTHER") + (f", {rest} stays" if rest else "")


@contextlib.contextmanager
def disk(place: Path, *, wanted: bool) -> Iterator[bool]:
    """A disk of 3 MB at `place`, where one is wanted and may be mounted."""
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    mounted = wanted and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=False)
            place.mkdir(exist_ok=True)


def start(case: Case, place: Path) -> subprocess.Popen[str]:
    """Begins a run in `place`."""
    (place / "tmp").mkdir()
    launcher = RANKS if case.ranks else ()
    settings = ("engine.workers=0",) if case.ranks else case.settings
    command = [
        sys.executable,
        *launcher,
        str(ROOT / "train.py"),
        *SETTINGS,
        *settings,
        f"hydra.run.dir={place / 'run'}",
    ]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(place),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=case.before,
    )


def environment(place: Path) -> dict[str, str]:
    """Its own temporary folder, and little patience with those who hang."""
    own = {"TMPDIR": str(place / "tmp"), "PFFDST_WORKER_TIMEOUT": "5", "PFFDST_RANK_TIMEOUT": "20"}
    return os.environ | own | {"OMP_NUM_THREADS": "1"}


def wait_for_rounds(folder: Path, started: subprocess.Popen[str]) -> None:
    """Until HURT_AFTER rows are in metrics.csv."""
    while started.poll() is None:
        with contextlib.suppress(OSError):
            if (folder / "metrics.csv").read_bytes().count(b"\n") > HURT_AFTER:
                return
        time.sleep(0.01)
    sys.exit(f"the run ended before it was hurt: {started.communicate()[1]}")


def digest(folder: Path) -> str:
    """The model's, of summary.json."""
    return str(json.loads((folder / "summary.json").read_text())["model_sha256"])


def names(folder: Path) -> set[str]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def still(folder: Path) -> list[int]:
    """Processes of the run that are there yet."""
    found = psutil.process_iter(["cmdline"])
    return [process.pid for process in found if any(str(folder) in word for word in process.info["cmdline"] or ())]


if __name__ == "__main__":
    main()
