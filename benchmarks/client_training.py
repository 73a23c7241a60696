"""Time of the clients' training, against a bare PyTorch loop over the same steps.

    python benchmarks/client_training.py [--data FOLDER] [--pairs N]

LeNet, 400 clients, Dirichlet 0.1, cohorts of 20, batch 32, sparsity 0.8. A sample of an engine is a whole round of
its clients: the server's dispatch, decoding, training, encoding, up to the last update's arrival. The bare loop has no
masks, no messages and no framework, and all cores. Each engine's sample comes right after one of the bare loop on the
same clients; figures are ratios within these pairs. Pairs of two bare loops show the noise.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from rich.progress import track
from rich.table import Table

from bare import BareLoop
from common import ROOT, cifar10_folder, console, describe, load, paired, quartiles, write_result
from pffdst.build import build
from pffdst.config.compose import compose
from pffdst.experiment import Experiment

TARGET = 0.65
NOISE = "bare again (noise)"


# ---- the engines ---------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Variant:
    """An engine's settings, and the stage whose rounds it plays: 0 has masks, 1 frozen weights as well."""

    name: str
    overrides: tuple[str, ...]
    stage: int


VARIANTS = (
    Variant("fabric, default", (), 0),
    Variant("fabric, default, frozen stage", (), 1),
    Variant("fabric, workers=0", ("engine.workers=0",), 0),
    Variant("fabric, exact", ("engine.exact=true",), 0),
    Variant("trainer", ("engine=trainer",), 0),
)


@final
class EngineRounds:
    """Rounds of one variant that end when the last update is in: nothing is averaged, so all start from one model."""

    def __init__(self, experiment: Experiment, stage: int) -> None:
        self.experiment = experiment
        self.server = experiment.server
        self.first = self.server.rules.stages[stage].start
        for t in range(self.first):  # the stage before: what it leaves alive is what freezes
            self.server.begin(t)

    def plan(self, repetition: int) -> tuple[tuple[int, ...], int, Callable[[], object]]:
        """The cohort and number of a round, and the round itself."""
        now = self.server.begin(self.first + repetition)

        def play() -> None:
            updates = list(self.experiment.engine.run(now.tasks()))
            problems = [u.problem for u in updates if u.payload is None]
            if problems:
                raise RuntimeError(f"a client did not train: {problems[0]}")

        return now.plan.cohort, now.plan.t, play


@contextlib.contextmanager
def opened(settings: list[str], scratch: Path) -> Iterator[dict[str, EngineRounds]]:
    """Every variant, its workers started: before this process has threads that they could miss."""
    with contextlib.ExitStack() as stack:
        rounds = {}
        for variant in VARIANTS:
            experiment = build(compose([*settings, *variant.overrides], ROOT / "configs"), scratch, "benchmark")
            stack.enter_context(experiment.engine.open(experiment.setup))
            rounds[variant.name] = EngineRounds(experiment, variant.stage)
        yield rounds


# ---- the measurement -----------------------------------------------------------------------------------------------


def measure(rounds: dict[str, EngineRounds], pairs: int) -> dict[str, list[dict[str, float]]]:
    """Pairs of seconds by variant, after one untimed repetition. Variants take turns: all see the same hours."""
    bare = BareLoop(next(iter(rounds.values())).experiment.setup)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in (NOISE, *rounds)}

    def sample(name: str, cohort: tuple[int, ...], t: int, play: Callable[[], object] | None) -> None:
        def base() -> None:
            bare.round(cohort, t)

        bare_s, s = paired(base, base if play is None else play)
        if repetition > 0:
            found[name].append({"bare_s": bare_s, "s": s, "steps": bare.steps(cohort)})

    for repetition in track(range(pairs + 1), "measuring", transient=True):
        for name, variant in rounds.items():
            cohort, t, play = variant.plan(repetition)
            sample(name, cohort, t, play)
        sample(NOISE, cohort, t, None)
    return found


def summarise(found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Ratios of every pair, their median and quartiles."""
    result = {}
    for name, pairs in found.items():
        ratios = [p["s"] / p["bare_s"] for p in pairs]
        first, median, third = quartiles(ratios)
        _, step_ms, _ = quartiles([1e3 * p["s"] / p["steps"] for p in pairs])
        result[name] = {
            "median": round(median, 4),
            "quartiles": [round(first, 4), round(third, 4)],
            "ms_per_step": round(step_ms, 2),
            "ratios": [round(ratio, 4) for ratio in ratios],
        }
    return result


def table(result: dict[str, Any]) -> Table:
    shown = Table(title=f"client training, time / bare loop ({result['data']}, {result['pairs']} pairs)")
    for column in ("variant", "median", "quartiles", "ms per step"):
        shown.add_column(column, justify="left" if column == "variant" else "right")
    for name, row in result["ratios"].items():
        low, high = row["quartiles"]
        shown.add_row(name, f"{row['median']:.3f}", f"{low:.3f} - {high:.3f}", f"{row['ms_per_step']:.2f}")
    return shown


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with cifar10_train*.parquet and cifar10_test*.parquet")
    parser.add_argument("--pairs", type=int, default=11, help="pairs per variant (default: 11)")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    parser.add_argument("--quick", action="store_true", help="one pair on a few random images: does it run?")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    before = load()
    with tempfile.TemporaryDirectory(prefix="pffdst-benchmark-") as name:
        scratch = Path(name)
        folder, data = cifar10_folder(chosen.data, scratch, quick=chosen.quick)
        settings = ["experiment=lenet_cifar10", "logger=csv", f"dataset.path={folder}"]
        if chosen.quick:
            settings += ["clients=8", "cohort=2", "rounds=8", "local_epochs=1"]
        if data != "CIFAR-10":
            settings.append(f"paths.cache={scratch}")
        with opened(settings, scratch) as rounds:
            found = measure(rounds, 1 if chosen.quick else chosen.pairs)
    pairs = len(found[NOISE])
    result = describe() | {
        "threads_of_bare_loop": torch.get_num_threads(),
        "load": {"before": before, "after": load()},
        "data": data,
        "pairs": pairs,
        "target": TARGET,
        "ratios": summarise(found),
    }
    screen = console()
    screen.print(table(result))
    reached = result["ratios"][VARIANTS[0].name]["median"]
    screen.print(f"default engine: {reached:.3f} of the bare loop (target: at most {TARGET})")
    screen.print(f"written to {write_result(chosen.results, 'client_training', result)}", soft_wrap=True)


if __name__ == "__main__":
    main()
