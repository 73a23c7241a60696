"""Whether engine=batched is right on this accelerator: under four minutes, a line for each check.

    python benchmarks/gpu_check.py                  on a CUDA device (`make gpu-check`)
    python benchmarks/gpu_check.py --device cpu     a rehearsal, without streams and recordings

Scikit-learn's digits; clients of different sizes, so that last batches are of many lengths. Checks: fp32 against
engine=trainer on the CPU, with and without normalisation (the largest difference of a weight after one round is at most
TOLERANCE, and the masks are the same), gradient rounds, the same seed twice (the same sha256), every codec, tf32, bf16
and `deterministic=false` (finite, and no further from fp32 than their products are), a run that goes on from its
checkpoint, dropout, AdamW, relabelled clients, the other engines on this device, worker processes beside it, and three
rounds of every method. The exit code is 1 where one fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from torch import Tensor, nn

from common import ROOT, console, describe, write_result
from pffdst.build import build
from pffdst.config.compose import compose
from pffdst.experiment import Experiment
from pffdst.runs.files import CHECKPOINTS, LAST

TOLERANCE = 2e-5  # of a weight, after one round of a few steps in fp32: two orders of sums
COARSE = 2e-2  # of tf32 and bf16
CLIENTS = ["clients=40", "cohort=3", "partition.alpha=0.3", "batch_size=16", "local_epochs=1"]
SMALL = ["logger=csv", "eval_every=100", *CLIENTS]
RESNET = ["model=resnet18", "model.width=4", "lr=0.001"]  # larger steps make rounding grow in them
MOVING = "readjust.schedule.interval=1"
CANDIDATES = ["method=fedtiny", "readjust=fedtiny_candidates", "readjust.candidates=3", *RESNET]
DROPOUT = "model._target_=gpu_check.Dropping"
ADAMW = ["optimizer=adamw", "lr=0.001", "lr_schedule=cosine", "weight_decay=0.1"]


class Dropping(nn.Module):
    """A network that draws in every pass."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(channels * size * size, 32), nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, channels, size, size] to logits [B, classes]."""
        return self.last(nn.functional.dropout(self.first(x.flatten(1)).relu(), 0.5, self.training))  # type: ignore[no-any-return]


def played(folder: Path, rounds: int, *overrides: str) -> Experiment:
    """A run without its files."""
    settings = [*SMALL, f"rounds={max(rounds, 4)}", *overrides]
    experiment = build(compose(settings, ROOT / "configs"), folder, "check")
    with experiment.engine.open(experiment.setup):
        for t in range(experiment.first, rounds):
            now = experiment.server.begin(t)
            for update in experiment.engine.run(now.tasks()):
                now.absorb(update)
            record = now.conclude()
            if record.rejected:
                raise AssertionError(f"updates were refused: {record.rejected}")
    return experiment


def difference(a: Experiment, b: Experiment) -> float:
    """The largest of a weight. AssertionError where masks differ or a number is not finite."""
    x, y = a.server.model, b.server.model
    if not torch.equal(x.alive, y.alive) or not torch.equal(x.frozen, y.frozen):
        raise AssertionError("the masks differ")
    if not x.values.isfinite().all():
        raise AssertionError("a weight is not finite")
    return float((x.values - y.values).abs().max())


class Checks:
    """The checks by name; each gives what is to be said of it, or raises."""

    def __init__(self, device: str, folder: Path) -> None:
        self.batched = ["engine=batched", f"engine.device={device}"]
        self.device, self.folder = device, folder

    def as_trainer(self, *overrides: str, own: tuple[str, ...] = (), rounds: int = 1) -> Callable[[], str]:
        """Against the trainer in fp32; `own` are settings of this engine alone."""

        def check() -> str:
            batched = [] if own and own[0].startswith("engine=") else self.batched
            ours = played(self.folder, rounds, *overrides, *batched, *own)
            found = difference(ours, played(self.folder, rounds, *overrides, "engine=trainer"))
            if found > TOLERANCE * rounds:
                raise AssertionError(f"a weight is off by {found:.1e}, at most {TOLERANCE * rounds:.1e} are allowed")
            return f"largest difference {found:.1e}"

        return check

    def close(self, *settings: str) -> Callable[[], str]:
        """Other arithmetic against fp32."""

        def check() -> str:
            exact = played(self.folder, 1, *RESNET, *self.batched)
            found = difference(played(self.folder, 1, *RESNET, *self.batched, *settings), exact)
            if found > COARSE:
                raise AssertionError(f"a weight is off by {found:.1e}, at most {COARSE:.1e} are allowed")
            return f"largest difference {found:.1e}"

        return check

    def same(self, one: list[str], other: list[str], rounds: int = 3) -> Callable[[], str]:
        """Two ways to compute what must not differ by a bit."""

        def check() -> str:
            first, second = (played(self.folder, rounds, *settings) for settings in (one, other))
            if not torch.equal(first.server.model.values, second.server.model.values):
                raise AssertionError(f"two models, {difference(first, second):.1e} apart")
            return "the same to the bit"

        return check

    def every_method(self) -> str:
        """A few rounds of each; of those with a schedule of readjustments, every round is one."""
        names = sorted(path.stem for path in (ROOT / "configs" / "method").glob("*.yaml"))
        for name in names:
            scheduled = "schedule" in compose([f"method={name}"], ROOT / "configs").readjust
            try:
                found = played(
                    self.folder, 3, f"method={name}", *([MOVING] if scheduled else []), "rounds=12", *self.batched
                )
            except Exception as error:
                raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
            if not found.server.model.values.isfinite().all():
                raise AssertionError(f"{name}: a weight is not finite")
        return f"{len(names)} methods"

    def repeats(self, *overrides: str) -> Callable[[], str]:
        """Twice the same seed."""

        def check() -> str:
            first, second = (played(self.folder, 3, MOVING, *overrides, *self.batched) for _ in range(2))
            if not torch.equal(first.server.model.values, second.server.model.values):
                raise AssertionError(f"the same seed gave two models, {difference(first, second):.1e} apart")
            return "the same to the bit"

        return check

    def alone(self, engine: str) -> tuple[str, ...]:
        """One of the engines that train a client at a time, on this device."""
        return f"engine={engine}", f"engine.device={self.device}"

    def resumes(self) -> str:
        """Killed in the third round of eight and gone on with from its checkpoint: the sha256 of a run in one go."""
        run = ["method=pffdst", "rounds=8", "checkpoint_every=1", MOVING, *SMALL, *self.batched]
        digests = [self._train("whole", run), self._train("halves", run, stop=2)]
        if digests[0] != digests[1]:
            raise AssertionError(f"{digests[0][:12]} in one go, {digests[1][:12]} resumed")
        return f"sha256 {digests[0][:12]}"

    def _train(self, name: str, settings: list[str], stop: int | None = None) -> str:
        folder = self.folder / name
        program = "import sys\nfrom pffdst.cli.train import main\nsys.argv[0] = 'train.py'\nmain()"
        if stop is not None:  # ends like a kill, in the middle of a round
            killing = "import os, pffdst.run as r\nplay = r.play_round\n"
            killing += f"r.play_round = lambda e, t: os._exit(9) if t == {stop} else play(e, t)\n"
            self._run(killing + program, [*settings, f"hydra.run.dir={folder}"], 9)
            if not (folder / CHECKPOINTS / LAST).exists():
                raise AssertionError("the run that was killed left no checkpoint: it would begin anew")
            settings = [*settings, "resume=true"]
        self._run(program, [*settings, f"hydra.run.dir={folder}"], 0)
        digest: str = json.loads((folder / "summary.json").read_text())["model_sha256"]
        return digest

    def _run(self, program: str, settings: list[str], due: int) -> None:
        done = subprocess.run(
            [sys.executable, "-c", program, *settings], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode != due:
            raise AssertionError(f"exit code {done.returncode}: {(done.stdout + done.stderr)[-600:]}")

    def all(self) -> dict[str, Callable[[], str]]:
        """What is checked, the most telling first."""
        codecs = ("fp16", "bf16", "int8", "int4")
        return {
            "fp32 as the trainer": self.as_trainer("method=pffdst"),
            "with normalisation": self.as_trainer("method=pffdst", *RESNET),
            "gradient rounds": self.as_trainer("method=feddst", MOVING, rounds=2),
            "the same seed twice": self.repeats("method=pffdst", *RESNET),
            "twice, with client gradients and bf16": self.repeats("method=feddst", *RESNET, "engine.precision=bf16"),
            "resumed": self.resumes,
            "worker processes": self.same(["engine.workers=2"], ["engine.workers=0"]),
            "dropout, 1 and 4 streams": self.same(
                [DROPOUT, *self.batched, "engine.streams=1"], [DROPOUT, *self.batched, "engine.streams=4"]
            ),
            "AdamW with a schedule": self.repeats(*ADAMW),
            "relabelled clients": self.as_trainer("faults=shuffled_labels", "faults.share=0.7"),
            "candidates": self.repeats(*CANDIDATES),
            "the trainer here": self.as_trainer("method=feddst", MOVING, *RESNET, own=self.alone("trainer")),
            "fabric here": self.as_trainer("method=feddst", MOVING, *RESNET, own=self.alone("fabric")),
            "every method": self.every_method,
            **{f"codec {name}, twice": self.repeats("method=pffdst", f"codec={name}") for name in codecs},
            "tf32": self.close("engine.precision=tf32"),
            "bf16": self.close("engine.precision=bf16"),
            "deterministic=false": self.close("engine.deterministic=false"),
            "unrecorded steps": self.as_trainer("method=pffdst", own=("engine.record=false",)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--results", type=Path, help="folder to write gpu_check.json to (default: none)")
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device here: --device cpu rehearses the checks")
    screen, rows, began = console(), list[dict[str, Any]](), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pffdst-check-") as folder:
        for name, check in Checks(chosen.device, Path(folder)).all().items():
            start = time.monotonic()
            try:
                row = {"check": name, "right": True, "said": check()}
            except Exception as error:
                row = {"check": name, "right": False, "said": f"{type(error).__name__}: {error}"}
                if not isinstance(error, AssertionError):
                    traceback.print_exc()
            rows.append(row | {"seconds": round(time.monotonic() - start, 1)})
            mark = "[green]right[/]" if row["right"] else "[red]WRONG[/]"
            screen.print(f"{mark}  {escape(name)}: {escape(str(row['said']))}, {rows[-1]['seconds']} s", soft_wrap=True)
    wrong = [row["check"] for row in rows if not row["right"]]
    seconds = time.monotonic() - began
    if chosen.results is not None:
        write_result(chosen.results, "gpu_check", describe() | {"device": chosen.device, "rows": rows})
    screen.print(f"{len(rows) - len(wrong)} of {len(rows)} right on {chosen.device} in {seconds:.0f} s")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
