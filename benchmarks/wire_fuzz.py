"""Damaged messages against the decoders: every one must end in a WireError or in a well-formed model.

    python benchmarks/wire_fuzz.py [--inputs N] [--seed S]
    python benchmarks/wire_fuzz.py --atheris -runs=N        coverage-guided, where the package atheris is installed

Starts from the messages of small real runs: every codec, every way to code a mask, both directions. Damages them by
flipped bits, cuts, insertions, swapped and foreign sections, codings and lengths up to 2^32 - 1, and repairs the
checksum in most cases, so that what lies behind it is reached. Prints how many inputs were tried, how they ended, the
most bytes that numpy and Python held for one of them, and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import random
import resource
import struct
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
import xxhash
from rich.progress import track

from common import ROOT, console, describe, write_result
from pffdst.build import build
from pffdst.client.turn import ClientSetup
from pffdst.config.compose import compose
from pffdst.core.model import GlobalModel
from pffdst.core.signals import Signal
from pffdst.experiment import Experiment
from pffdst.wire.downlink import Memory, decode_downlink, remember
from pffdst.wire.frame import WireError, unpack
from pffdst.wire.uplink import Upload, decode_uplink

HEADER, SECTION, HASH_AT = 28, 8, 20
LARGEST = (1 << 32) - 1
RUNS = (
    ("rounds=6", "readjust.schedule.interval=1", "codec=fp32"),
    ("rounds=6", "readjust.schedule.interval=1", "codec=int8", "clients_keep=false"),
    ("method=feddst", "rounds=4", "readjust.schedule.interval=1", "readjust.alpha=0.5", "codec=int4"),
    ("method=random_mask", "rounds=2", "codec=fp16"),
    ("method=fedavg", "rounds=2", "codec=bf16"),
)


@final
@dataclass(frozen=True)
class Target:
    """A real message and its decoder."""

    payload: bytes
    decode: Callable[[bytes], Any]


def targets() -> list[Target]:
    """The messages of small runs on digits, as they were sent and decoded."""
    found: list[Target] = []
    for overrides in RUNS:
        settings = ["logger=csv", "clients=4", "cohort=2", "local_epochs=1", "engine.workers=0", *overrides]
        with tempfile.TemporaryDirectory() as folder:
            experiment = build(compose(settings, ROOT / "configs"), Path(folder), "fuzz")
            with experiment.engine.open(experiment.setup):
                found += _of_run(experiment)
    return found


def _of_run(experiment: Experiment) -> Iterator[Target]:
    server, setup = experiment.server, experiment.setup
    memories: dict[int, Memory] = {}
    for t in range(experiment.rounds):
        now = server.begin(t)
        tasks = now.tasks()
        for task in tasks:
            memory = memories.get(task.client, Memory())
            memories[task.client] = remember(task.payload, memory, setup.layout, setup.codecs)
            down = setup.method.down(now.plan.stage, t)
            yield Target(task.payload, _downlink(setup, memory, down))
        for update in experiment.engine.run(tasks):
            assert update.payload is not None, update.problem
            yield Target(update.payload, _uplink(setup, now.sent, update.client, t))
            now.absorb(update)
        now.conclude()


def _downlink(setup: ClientSetup, memory: Memory, declared: tuple[Signal, ...]) -> Callable[[bytes], GlobalModel]:
    return lambda payload: decode_downlink(payload, memory, setup.layout, setup.codecs, declared).model


def _uplink(setup: ClientSetup, sent: GlobalModel, client: int, t: int) -> Callable[[bytes], Upload]:
    form = setup.uplink(t)
    return lambda payload: decode_uplink(payload, sent, client, t, form)


# ---- damage --------------------------------------------------------------------------------------------------------


def damaged(payload: bytes, other: bytes, rng: random.Random) -> bytes:
    """The payload after one to three damages, its checksum repaired in three of four cases."""
    for _ in range(rng.randint(1, 3)):
        payload = rng.choice(DAMAGES)(payload, other, rng)
    return repaired(payload) if rng.random() < 0.75 else payload


def repaired(payload: bytes) -> bytes:
    """With the checksum of what it holds."""
    if len(payload) < HEADER:
        return payload
    checksum = xxhash.xxh3_64_intdigest(payload[HEADER:], seed=xxhash.xxh3_64_intdigest(payload[:HASH_AT]))
    return payload[:HASH_AT] + struct.pack("<Q", checksum) + payload[HEADER:]


def _flip(payload: bytes, _other: bytes, rng: random.Random) -> bytes:
    changed = bytearray(payload or b"\0")
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(payload: bytes, _other: bytes, rng: random.Random) -> bytes:
    return payload[: rng.randrange(len(payload) + 1)]


def _insert(payload: bytes, other: bytes, rng: random.Random) -> bytes:
    at, start = rng.randrange(len(payload) + 1), rng.randrange(len(other) + 1)
    return payload[:at] + other[start : start + rng.randint(1, 40)] + payload[at:]


def _header_of_section(payload: bytes, _other: bytes, rng: random.Random) -> bytes:
    """A tag, a coding or a length (0, a little off, 2^31, 2^32 - 1) of a section."""
    if len(payload) < HEADER + SECTION:
        return payload
    count = max(1, min(int.from_bytes(payload[6:8], "little"), (len(payload) - HEADER) // SECTION))
    at = HEADER + SECTION * rng.randrange(count)
    tag, coding, zero, length = struct.unpack_from("<BBHI", payload, at)
    what = rng.randrange(4)
    if what == 0:
        tag = rng.randrange(256)
    elif what <= 2:
        coding = rng.choice((rng.randrange(256), rng.randrange(8), coding ^ 0x10, coding ^ 0x20))
    else:
        length = rng.choice((0, max(0, length - 1), min(length + 1, LARGEST), 1 << 31, LARGEST, rng.randrange(1 << 32)))
    return payload[:at] + struct.pack("<BBHI", tag, coding, zero, length) + payload[at + SECTION :]


def _sections(payload: bytes, other: bytes, rng: random.Random) -> bytes:
    """Bodies exchanged with one another or taken from another message, or a body damaged within, lengths kept right."""
    try:
        mine, theirs = (list(unpack(repaired(p)).sections.items()) for p in (payload, other))
    except WireError:
        return payload
    if not mine or not theirs:
        return payload
    i, j = rng.randrange(len(mine)), rng.randrange(len(theirs))
    tag, section = mine[i]
    what = rng.randrange(3)
    if what == 0:
        k = rng.randrange(len(mine))
        mine[i], mine[k] = (tag, mine[k][1]), (mine[k][0], section)
    elif what == 1:
        mine[i] = (tag, theirs[j][1])
    else:
        body = rng.choice((_flip, _cut, _insert))(bytes(section.body), bytes(theirs[j][1].body), rng)
        mine[i] = (tag, replace(section, body=body))
    heads = b"".join(struct.pack("<BBHI", t, s.coding, 0, len(s.body)) for t, s in mine)
    return payload[:HEADER] + heads + b"".join(bytes(s.body) for _, s in mine)


DAMAGES = (_flip, _cut, _insert, _header_of_section, _sections, _sections)


# ---- the trial -----------------------------------------------------------------------------------------------------


def verdict(target: Target, payload: bytes) -> str:
    """How a decoder takes a payload; any other end is an exception."""
    try:
        decoded = target.decode(payload)
    except WireError as error:
        return str(error).split(":")[0].split()[0]
    if isinstance(decoded, GlobalModel):
        values, masks = decoded.values, [decoded.alive, decoded.frozen]
        assert len(values) == decoded.layout.total
        assert not bool((decoded.frozen & ~decoded.alive).any())
    else:
        values, masks = decoded.weights, [decoded.at.bits]
        assert decoded.report.samples > 0
    assert bool(torch.isfinite(values).all())
    assert all(m.dtype == torch.bool for m in masks)
    return "decoded"


def trial(inputs: int, seed: int) -> dict[str, Any]:
    """Damages `inputs` messages and counts how they end."""
    rng, known = random.Random(seed), targets()
    for target in known:
        assert verdict(target, target.payload) == "decoded"
    ends: Counter[str] = Counter()
    slowest, most = 0.0, 0
    began = time.perf_counter()
    for i in track(range(inputs), "damaging", transient=True):
        target = rng.choice(known)
        payload = damaged(target.payload, rng.choice(known).payload, rng)
        watched = i % 10 == 0
        if watched:
            tracemalloc.start()
        start = time.perf_counter()
        ends[verdict(target, payload)] += 1
        if watched:
            most = max(most, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        else:
            slowest = max(slowest, time.perf_counter() - start)
    return {
        "inputs": inputs,
        "seed": seed,
        "messages": len(known),
        "crashes": 0,  # any would have ended the trial
        "ends": dict(ends.most_common()),
        "slowest_ms": round(1e3 * slowest, 1),
        "most_bytes_for_one": most,
        "seconds": round(time.perf_counter() - began, 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1),
    }


def guided(arguments: list[str]) -> None:
    """Lets atheris choose the bytes: the first picks the message, the rest takes the payload's place."""
    import atheris  # type: ignore[import-untyped]

    with atheris.instrument_imports(include=["pffdst.wire"], enable_loader_override=False):
        known = targets()

    def one(data: bytes) -> None:
        if data:
            target = known[data[0] % len(known)]
            verdict(target, repaired(data[1:]))

    with tempfile.TemporaryDirectory() as corpus:
        for i, target in enumerate(known):
            (Path(corpus) / str(i)).write_bytes(bytes((i % 256,)) + target.payload)
        atheris.Setup([sys.argv[0], "-max_len=20000", *arguments, corpus], one)
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=200_000, help="damaged messages (default: 200,000)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (default: 0)")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write to")
    parser.add_argument("--quick", action="store_true", help="300 messages: does it run?")
    parser.add_argument("--atheris", action="store_true", help="coverage-guided; further arguments are libFuzzer's")
    chosen, rest = parser.parse_known_args()
    torch.set_num_threads(1)
    if chosen.atheris:
        guided(rest)
        return
    result = describe() | trial(300 if chosen.quick else chosen.inputs, chosen.seed)
    screen = console()
    ends = ", ".join(f"{count:,} {end}" for end, count in result["ends"].items())
    screen.print(f"{result['inputs']:,} damaged copies of {result['messages']} messages, {result['crashes']} crashes")
    screen.print(f"how they ended: {ends}")
    screen.print(
        f"slowest {result['slowest_ms']} ms; most memory for one {result['most_bytes_for_one'] / 1e6:.2f} MB; "
        f"peak of the process {result['peak_rss_mb']:.0f} MB"
    )
    screen.print(f"written to {write_result(chosen.results, 'wire_fuzz', result)}", soft_wrap=True)


if __name__ == "__main__":
    main()
