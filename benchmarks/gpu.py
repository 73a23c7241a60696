"""What one accelerator does with local steps of ResNet-18, and how near whole rounds come to it.

    python benchmarks/gpu.py [--data FOLDER]              on a CUDA device, in one process, about five minutes
    python benchmarks/gpu.py --device cpu                 a rehearsal at tiny sizes, anywhere

1. The rate of products of large matrices in fp32, tf32 and bf16: the floor of a step is its 106.5 GFLOP (32 images,
   forward and backward) over that rate.
2. A step of 32 images, per client: the bare eager loop; recorded steps (CUDA graphs) on 1 to 16 streams; clients
   stacked by torch.vmap; torch.compile(mode="reduce-overhead").
3. Whole rounds of 20 clients (Dirichlet 0.1): the bare eager loop, in torch's own fp32 and under bf16 autocast, and
   each engine in the same process; the floor of a round is that of its steps.
4. Where a round of the batched engine goes: the share in which the device computes (the union of its kernels' times),
   and what takes longest, on the device and on the host.

Rounds come first; each row is printed and written as it comes, and one that fails ends nothing but itself.
That results are the same is the study engines_resnet18 (`make reproduce STUDY=engines_resnet18`).
"""

from __future__ import annotations

import argparse
import copy
import gc
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor, nn

from bare import BareLoop
from common import ROOT, cifar10_folder, console, describe, load, quartiles, write_result
from engines import play
from pffdst.build import build
from pffdst.client.loaded import Loaded
from pffdst.client.turn import Turn
from pffdst.config.compose import compose
from pffdst.core.messages import ClientTask
from pffdst.engines.base import numerics
from pffdst.engines.slots import Slot, SlotSettings
from pffdst.experiment import Experiment
from pffdst.wire.downlink import Received

STEP_GFLOP = 106.5  # ResNet-18, 32 images of 32x32: 6 x 0.5554 GMAC x 32
TARGET = 10.0  # times the bare eager loop
PRECISIONS = ("fp32", "tf32", "bf16")
LONGEST = 12  # of what takes longest
BARE = {"bare eager loop": "tf32", "bare eager loop, bf16": "bf16"}  # torch's own convolutions are in TF32
ROUNDS = {  # the most telling first
    "batched, bf16, 8 streams": ["engine=batched", "engine.precision=bf16", "engine.streams=8"],
    "batched, bf16": ["engine=batched", "engine.precision=bf16"],
    "batched, fp32": ["engine=batched", "engine.precision=fp32"],
    "batched, tf32": ["engine=batched", "engine.precision=tf32"],
    "batched, bf16, 16 streams": ["engine=batched", "engine.precision=bf16", "engine.streams=16"],
    "batched, bf16, fastest algorithms": ["engine=batched", "engine.precision=bf16", "engine.deterministic=false"],
    "batched, bf16, not recorded": ["engine=batched", "engine.precision=bf16", "engine.record=false"],
    "fabric": ["engine=fabric"],
    "trainer": ["engine=trainer"],
}


@final
@dataclass(frozen=True)
class Sizes:
    """How much is measured: for real, or to see whether it runs."""

    device: str
    quick: bool

    @property
    def matrix(self) -> int:
        return 256 if self.quick else 8192

    @property
    def streams(self) -> tuple[int, ...]:
        return (1, 2) if self.quick else (1, 2, 4, 8, 16)

    @property
    def steps(self) -> int:
        return 1 if self.quick else 60

    @property
    def rounds(self) -> int:
        return 1 if self.quick else 3

    @property
    def untimed(self) -> int:
        """Rounds before those, to warm up."""
        return 0 if self.quick else 1

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def free(self) -> None:
        """Gives back what is no longer used of the device's memory."""
        if self.device == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

    def seconds(self, work: Callable[[], object], repeats: int) -> float:
        """Seconds of one call, over `repeats` of them after one that is not timed."""
        work()
        self.wait()
        began = time.perf_counter()
        for _ in range(repeats):
            work()
        self.wait()
        return (time.perf_counter() - began) / repeats


@contextmanager
def precise(precision: str) -> Iterator[None]:
    with numerics(precision, deterministic=False):  # type: ignore[arg-type]
        yield


@final
class Findings:
    """What was found so far: printed and written as it comes, so that nothing is lost of a run that is cut short."""

    def __init__(self, folder: Path, name: str, head: dict[str, Any]) -> None:
        self.result: dict[str, Any] = head | {"matrix_tflops": {}, "rounds": [], "steps": [], "failed": {}}
        self.result["profile"] = {"busy_share": 0.0, "device": {}, "host": {}}
        self._folder, self._name = folder, name

    def put(self, key: str, value: Any) -> None:
        """A part that is whole."""
        self.result[key] = value
        self.write()

    def add(self, key: str, row: dict[str, Any]) -> None:
        """One more row."""
        self.result[key].append(row)
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items() if k != "seconds"}, flush=True)
        self.write()

    @contextmanager
    def failing(self, name: str) -> Iterator[None]:
        """What fails inside is noted and told, and the rest goes on."""
        try:
            yield
        except Exception as error:
            self.result["failed"][name] = f"{type(error).__name__}: {error}"
            print(f"{name}: {self.result['failed'][name]}", flush=True)
            self.write()

    def write(self) -> Path:
        """The file so far."""
        return write_result(self._folder, self._name, self.result)


# ---- 1. matrices ---------------------------------------------------------------------------------------------------


def matrix_rates(sizes: Sizes) -> dict[str, float]:
    """TFLOP/s of a product of square matrices."""
    rates, n = {}, sizes.matrix
    for precision in PRECISIONS:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        a, b = (torch.randn(n, n, device=sizes.device, dtype=dtype) for _ in range(2))
        with precise(precision):
            rates[precision] = 2 * n**3 / sizes.seconds(partial(torch.mm, a, b), 10) / 1e12
    return rates


# ---- 2. steps ------------------------------------------------------------------------------------------------------


def step_rows(experiment: Experiment, sizes: Sizes, rates: dict[str, float], found: Findings) -> None:
    """Milliseconds a client-step by variant and precision; one that fails ends its precision."""
    for precision in reversed(PRECISIONS):
        with found.failing(f"steps in {precision}"), precise(precision):
            for name, seconds in variants(experiment, sizes, bf16=precision == "bf16"):
                floor = STEP_GFLOP / 1e3 / rates[precision]
                row = {"variant": name, "precision": precision, "ms": 1e3 * seconds, "of_floor": seconds / floor}
                found.add("steps", row)
                sizes.free()


def variants(experiment: Experiment, sizes: Sizes, *, bf16: bool) -> Iterator[tuple[str, float]]:
    yield "eager", eager_step(experiment, sizes, bf16=bf16, channels_last=False)
    yield "eager, channels_last", eager_step(experiment, sizes, bf16=bf16, channels_last=True)
    for streams in sizes.streams:
        yield f"recorded, {streams} streams", slot_step(experiment, sizes, streams, bf16=bf16)
    for clients in (2,) if sizes.quick else (5, 20):
        yield f"vmap, {clients} clients", vmap_step(experiment, sizes, clients, bf16=bf16)
    if not sizes.quick:
        yield "compiled", eager_step(experiment, sizes, bf16=bf16, channels_last=True, compiled=True)


def batch_of(experiment: Experiment, sizes: Sizes) -> tuple[Tensor, Tensor]:
    data = experiment.setup.data.open().to(sizes.device)
    return data.batch(torch.arange(32))


def eager_step(
    experiment: Experiment, sizes: Sizes, *, bf16: bool, channels_last: bool, compiled: bool = False
) -> float:
    """A step of plain PyTorch, with torch.compile where `compiled`."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = copy.deepcopy(experiment.setup.network).to(sizes.device).to(memory_format=layout).train()
    forward: Callable[[Tensor], Tensor] = torch.compile(model, mode="reduce-overhead") if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3)
    images, labels = batch_of(experiment, sizes)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(sizes.device, dtype=torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(forward(images.to(torch.float32, memory_format=layout) / 255), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return sizes.seconds(step, sizes.steps)


def slot_step(experiment: Experiment, sizes: Sizes, streams: int, *, bf16: bool) -> float:
    """The engine's own steps: `streams` slots that each train a client of `sizes.steps` batches."""
    setup, data = experiment.setup, experiment.setup.data.open().to(sizes.device)
    settings = SlotSettings(torch.device(sizes.device), True, bf16, sizes.device == "cuda")
    slots = [Slot(setup, data, settings) for _ in range(streams)]
    loaded = Loaded(slots[0].flat)
    loaded.load_(experiment.server.model)
    batches = [torch.arange(32) for _ in range(sizes.steps)]
    task = ClientTask(0, 0, b"")
    turn = Turn(setup, task, Received(experiment.server.model, 0, {}), {}, lambda _: iter(()))

    def side_by_side() -> None:
        for slot in slots:
            with torch.cuda.stream(slot.stream):
                slot.train(loaded, turn, 0.01, [batches])

    return sizes.seconds(side_by_side, 1 if sizes.quick else 3) / (streams * sizes.steps)


def vmap_step(experiment: Experiment, sizes: Sizes, clients: int, *, bf16: bool) -> float:
    """All clients in one step: torch.vmap stacks their weights, convolutions become grouped ones."""
    model = copy.deepcopy(experiment.setup.network).to(sizes.device).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics in place are not vmap's; batch statistics alone
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
            module.num_batches_tracked = None
    weights = {n: p.detach().expand(clients, *p.shape).contiguous() for n, p in model.named_parameters()}
    momenta = {n: torch.zeros_like(p) for n, p in weights.items()}
    images, labels = (x.expand(clients, *x.shape) for x in batch_of(experiment, sizes))

    def loss_of(own: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        dtype = torch.bfloat16 if bf16 else torch.float32  # normalisation under vmap takes no autocast
        cast = {name: weight.to(dtype) for name, weight in own.items()}
        return F.cross_entropy(torch.func.functional_call(model, cast, (x.to(dtype) / 255,)).float(), y)

    gradients_of = torch.vmap(torch.func.grad(loss_of))

    def step() -> None:
        gradients = gradients_of(weights, images, labels)
        for name, weight in weights.items():
            momenta[name].mul_(0.9).add_(gradients[name])
            weight.sub_(momenta[name], alpha=0.01)

    return sizes.seconds(step, max(1, sizes.steps // clients)) / clients


# ---- 3. rounds -----------------------------------------------------------------------------------------------------


def round_rows(settings: list[str], sizes: Sizes, scratch: Path, rates: dict[str, float], found: Findings) -> None:
    """Rounds a second of the bare loops and of every engine, on the same cohorts."""
    rows, floors = found.result["rounds"], dict[str, list[float]]()

    def add(name: str, precision: str, seconds: list[float]) -> None:
        bare = rows[0]["seconds"] if rows else seconds
        found.add("rounds", round_row(name, seconds, bare, floors[precision], sizes))
        sizes.free()

    for name, precision in BARE.items():
        seconds, samples = bare_rounds(settings, sizes, scratch, bf16=precision == "bf16")
        if not floors:
            floors = {p: [STEP_GFLOP / 32 * n / 1e3 / rates[p] for n in samples] for p in PRECISIONS}
        add(name, precision, seconds)
    for name, engine in ROUNDS.items():
        precision = next((p for p in PRECISIONS if f"engine.precision={p}" in engine), "tf32")
        with found.failing(name):
            add(name, precision, engine_rounds([*settings, *engine], sizes, scratch))


def bare_rounds(settings: list[str], sizes: Sizes, scratch: Path, *, bf16: bool) -> tuple[list[float], list[int]]:
    """Seconds of rounds of the bare loop, and how many images each of them trains on."""
    experiment = build(compose(settings, ROOT / "configs"), scratch, "-")
    bare = BareLoop(experiment.setup, device=sizes.device)
    if sizes.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds, samples = [], []
    for t in range(sizes.untimed + sizes.rounds):
        cohort = experiment.server.begin(t).plan.cohort
        began = time.perf_counter()
        with torch.autocast(sizes.device, dtype=torch.bfloat16, enabled=bf16):
            bare.round(cohort, t)
        seconds.append(time.perf_counter() - began)
        samples.append(bare.samples(cohort))
    return seconds[sizes.untimed :], samples[sizes.untimed :]


def engine_rounds(settings: list[str], sizes: Sizes, scratch: Path) -> list[float]:
    """Seconds of an engine's rounds, after those to warm up."""
    experiment = build(compose([*settings, f"engine.device={sizes.device}"], ROOT / "configs"), scratch, "-")
    if sizes.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with experiment.engine.open(experiment.setup):
        return [timed_round(experiment, sizes, t) for t in range(sizes.untimed + sizes.rounds)][sizes.untimed :]


def timed_round(experiment: Experiment, sizes: Sizes, t: int) -> float:
    began = time.perf_counter()
    play(experiment, t)
    sizes.wait()
    return time.perf_counter() - began


def round_row(name: str, seconds: list[float], bare: list[float], floor: list[float], sizes: Sizes) -> dict[str, Any]:
    _, median, _ = quartiles([b / s for b, s in zip(bare, seconds, strict=True)])
    memory = torch.cuda.max_memory_allocated() / 1e6 if sizes.device == "cuda" else None
    return {
        "engine": name,
        "rounds_per_s": len(seconds) / sum(seconds),
        "times_bare": median,
        "of_floor": sum(seconds) / sum(floor),
        "device_mb": memory,
        "seconds": seconds,
    }


# ---- 4. where it goes ----------------------------------------------------------------------------------------------


def profile(settings: list[str], sizes: Sizes, scratch: Path) -> dict[str, Any]:
    """A round of the batched engine, after one to warm up.

    `busy_share`: of its time, in which at least one kernel runs; None without a device. `device` and `host`: what takes
    longest, in shares of the round; several streams and threads may sum to more than 1.
    """
    engine = ["engine=batched", f"engine.device={sizes.device}", "engine.precision=bf16"]
    experiment = build(compose([*settings, *engine], ROOT / "configs"), scratch, "-")
    with experiment.engine.open(experiment.setup):
        play(experiment, 0)
        sizes.wait()
        with torch.profiler.profile() as profiler:
            seconds = timed_round(experiment, sizes, 1)
    spans = sorted((e.time_range.start, e.time_range.end) for e in profiler.events() if e.device_type.name == "CUDA")
    device, host = {}, {}
    for one in profiler.key_averages():
        device[one.key] = one.self_device_time_total / 1e6 / seconds
        host[one.key] = one.self_cpu_time_total / 1e6 / seconds
    return {
        "busy_share": union(spans) / 1e6 / seconds if spans else None,
        "seconds": seconds,
        "device": longest(device),
        "host": longest(host),
    }


def longest(shares: dict[str, float]) -> dict[str, float]:
    """The largest of them, largest first."""
    found = sorted(((share, name) for name, share in shares.items() if share > 0), reverse=True)
    return {name: share for share, name in found[:LONGEST]}


def union(spans: list[tuple[float, float]]) -> float:
    """The length of what sorted spans cover."""
    covered, reached = 0.0, float("-inf")
    for begin, end in spans:
        covered += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return covered


# ---- what is shown -------------------------------------------------------------------------------------------------


def tables(result: dict[str, Any]) -> Iterator[Table]:
    rates = Table(title="products of large matrices, TFLOP/s")
    for name in result["matrix_tflops"]:
        rates.add_column(name, justify="right")
    rates.add_row(*(f"{rate:,.2f}" for rate in result["matrix_tflops"].values()))
    yield rates
    steps = Table(title="a client's step of 32 images")
    for name in ("variant", "precision", "ms", "times the floor"):
        steps.add_column(name, justify="left" if name in ("variant", "precision") else "right")
    for row in result["steps"]:
        steps.add_row(row["variant"], row["precision"], f"{row['ms']:.3f}", f"{row['of_floor']:.1f}")
    yield steps
    rounds = Table(title="whole rounds")
    for name in ("engine", "rounds/s", "times the bare loop", "times the floor", "device MB"):
        rounds.add_column(name, justify="left" if name == "engine" else "right")
    for row in result["rounds"]:
        memory = "-" if row["device_mb"] is None else f"{row['device_mb']:,.0f}"
        rounds.add_row(
            row["engine"], f"{row['rounds_per_s']:.3f}", f"{row['times_bare']:.2f}", f"{row['of_floor']:.1f}", memory
        )
    yield rounds
    for where in ("device", "host"):
        shares = Table(title=f"what takes longest of a round of the batched engine, on the {where}")
        shares.add_column("kernel or operator", max_width=90, no_wrap=True)
        shares.add_column("% of the round", justify="right")
        for name, share in result["profile"][where].items():
            shares.add_row(name, f"{100 * share:.1f}")
        if shares.row_count:
            yield shares


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with cifar10_train*.parquet and cifar10_test*.parquet")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    parser.add_argument("--quick", action="store_true", help="tiny sizes on a few random images: does it run?")
    return parser.parse_args()


def measured(settings: list[str], sizes: Sizes, scratch: Path, found: Findings) -> None:
    """Everything, the most telling first: rounds beside the bare loop, where they go, single steps."""
    rates = matrix_rates(sizes)
    found.put("matrix_tflops", rates)
    round_rows(settings, sizes, scratch, rates, found)
    with found.failing("profile"):
        found.put("profile", profile(settings, sizes, scratch))
    step_rows(build(compose(settings, ROOT / "configs"), scratch, "-"), sizes, rates, found)


def main() -> None:
    chosen = arguments()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device here: rehearse with --device cpu --quick")
    for name in ("lightning.pytorch", "pffdst"):
        logging.getLogger(name).setLevel(logging.ERROR)
    before, sizes = load(), Sizes(chosen.device, chosen.quick or chosen.device == "cpu")
    with tempfile.TemporaryDirectory(prefix="pffdst-benchmark-") as place:
        scratch = Path(place)
        folder, data = cifar10_folder(chosen.data, scratch, quick=sizes.quick)
        settings = ["experiment=resnet18_cifar10", "logger=csv", f"dataset.path={folder}"]
        settings += ["clients=16", "cohort=2", "rounds=8", "model.width=4", "local_epochs=1"] if sizes.quick else []
        settings += [] if data == "CIFAR-10" else [f"paths.cache={scratch}"]
        device = torch.cuda.get_device_name() if chosen.device == "cuda" else "cpu"
        name = "gpu_rehearsal" if sizes.quick else "gpu"
        head = describe() | {"device": device, "load": {"before": before}, "data": data}
        found = Findings(chosen.results, name, head)
        measured(settings, sizes, scratch, found)
    result, screen = found.result, console()
    result["load"]["after"] = load()
    for shown in tables(result):
        screen.print(shown)
    if sizes.quick:
        screen.print("a rehearsal: everything runs, the figures mean nothing")
    else:
        best = max(row["times_bare"] for row in result["rounds"])
        screen.print(f"fastest engine: {best:.2f} times the bare eager loop (target: at least {TARGET:.0f})")
        screen.print(f"device busy: {100 * result['profile']['busy_share']:.0f} % of a round")
    for name, why in result["failed"].items():
        screen.print(f"failed: {name}: {why}", markup=False, soft_wrap=True)
    screen.print(f"written to {found.write()}", soft_wrap=True)


if __name__ == "__main__":
    main()
