"""Makes the golden files of the current format: messages, and what they say, for decoders in any language.

    python tests/wire/golden/make.py

Writes version3.json. Each case has the message in hex; what the receiver holds before it: `memory`, the bitmap of a
client's trainable mask in hex or null, or `base` and `base_trainable`, what the server sent before an update; the
signals that both ends expect (`declared`); and what the decoder must give: bitmaps in hex, values as floating-point
hex. Run it when the version changes, never to make a failing test pass. Files of earlier versions are kept: their
messages must be refused by their version.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pffdst.core.masks import Move
from pffdst.core.model import Entry, GlobalModel, Layout
from pffdst.core.positions import Positions
from pffdst.core.signals import Chosen, Signal
from pffdst.wire.codecs import Codecs, ValueCodec
from pffdst.wire.codecs.floats import BFloat16, Float16, Float32
from pffdst.wire.codecs.integers import Int4, Int8
from pffdst.wire.downlink import Broadcast, Memory, decode_downlink, remember
from pffdst.wire.frame import VERSION
from pffdst.wire.positions import Coding, Known, encode_move, encode_positions
from pffdst.wire.uplink import Report, UplinkForm, decode_uplink, encode_uplink

LAYOUT = Layout(
    (
        Entry("a.weight", (25, 20), 0, "maskable"),
        Entry("b.weight", (5, 20), 500, "maskable"),
        Entry("b.bias", (5,), 600, "parameter"),
        Entry("n.running_mean", (5,), 605, "statistic", normalisation=True),
    )
)
W, N = LAYOUT.maskable, LAYOUT.total
CODECS: dict[str, ValueCodec] = {
    "fp32": Float32(),
    "fp32_plain": Float32(level=0),
    "fp16": Float16(),
    "bf16": BFloat16(),
    "int8": Int8(block=64),
    "int4": Int4(block=32),
}
NOTHING, EVERYTHING = Positions.none(LAYOUT), Positions.all(LAYOUT)
DECLARED = (
    Signal("scores", "chosen", among="dead", lossy=True),
    Signal("votes", "positions", among="alive"),
    Signal("scale", "values", length=3),
)


def codecs(codec: ValueCodec) -> Codecs:
    """The pair of a run: what is not maskable goes exactly, at the codec's level."""
    return Codecs(codec, Float32(codec.level, codec.difference))


def random_mask(seed: int, share: float) -> Positions:
    return Positions(LAYOUT, bits=torch.rand(W, generator=torch.Generator().manual_seed(seed)) < share)


def both(one: Positions, two: Positions) -> Positions:
    return Positions(LAYOUT, bits=one.bits & two.bits)


def model_of(trainable: Positions, frozen: Positions, seed: int) -> GlobalModel:
    values = torch.randn(N, generator=torch.Generator().manual_seed(seed)).mul(16).round() / 256  # compressible
    dense = GlobalModel(LAYOUT, values, EVERYTHING.bits, NOTHING.bits)
    return dense.moved(trainable.plus(frozen)).freezing(frozen)


def signals_of(model: GlobalModel) -> dict[str, Any]:
    """One of each form."""
    dead = random_mask(12, 0.05).without(model.alive_at)
    values = torch.randn(len(dead), generator=torch.Generator().manual_seed(13))
    votes = both(random_mask(14, 0.4), model.alive_at)
    return {"scores": Chosen(dead, values), "votes": votes, "scale": torch.tensor([1.5, -2.0, 0.25])}


def written(signals: Mapping[str, Any]) -> dict[str, Any]:
    """Signals as the file has them: a bitmap, values, or both."""
    parts: dict[str, tuple[Positions | None, torch.Tensor | None]] = {
        name: (s.at, s.values) if isinstance(s, Chosen) else (s, None) if isinstance(s, Positions) else (None, s)
        for name, s in signals.items()
    }
    return {
        name: {
            "at": None if at is None else at.bitmap.hex(),
            "values": None if values is None else [v.hex() for v in values.tolist()],
        }
        for name, (at, values) in parts.items()
    }


def cases() -> Iterator[dict[str, Any]]:
    """Every coding of positions and every value codec, in both directions."""
    first = random_mask(1, 0.1)
    move = Move(both(first, random_mask(2, 0.3)), (15, 4), 2**63 + 12345)
    moved = move.apply(first, NOTHING)
    near = first.without(random_mask(3, 0.05)).plus(random_mask(4, 0.004))
    draw = Move(None, (40, 10), 987654321)
    frozen = both(first, random_mask(5, 0.5))
    held = Broadcast(model_of(first, NOTHING, 1), 0, codecs(Float32())).payload()

    yield down("all", model_of(EVERYTHING, NOTHING, 2), CODECS["fp32_plain"], Coding.ALL)
    yield down("bitmap", model_of(random_mask(6, 0.5), NOTHING, 2), CODECS["fp32_plain"], Coding.BITMAP)
    for name, codec in CODECS.items():
        yield down(f"set_{name}", model_of(first, NOTHING, 2), codec, Coding.SET)
    yield down("changed", model_of(near, NOTHING, 2), CODECS["fp32"], Coding.CHANGED, held=held)
    drawn, begin = draw.apply(NOTHING, NOTHING), encode_move(draw, NOTHING)
    yield down("drawn", model_of(drawn, NOTHING, 2), CODECS["fp32"], Coding.MOVES, [begin])
    regrown = [encode_move(move, first)]
    yield down("moved", model_of(moved, NOTHING, 2), CODECS["fp32"], Coding.MOVES, regrown, held)
    prune = Move(both(drawn, random_mask(7, 0.2)), (0, 0), 0)
    pruned = prune.apply(drawn, NOTHING)
    history = [begin, encode_move(prune, drawn)]
    yield down("history", model_of(pruned, NOTHING, 2), CODECS["fp32"], Coding.MOVES, history)
    beside = draw.apply(NOTHING, frozen)
    for name in ("fp32", "int8"):
        yield down(f"frozen_{name}", model_of(beside, frozen, 2), CODECS[name], Coding.MOVES, [begin], held)
    for name, codec in CODECS.items():
        yield up(f"update_{name}", codec, moves=name == "fp32")
    for name in ("fp32", "int8"):
        yield down(f"signals_{name}", model_of(first, NOTHING, 2), CODECS[name], Coding.SET, declared=DECLARED, t=-3)
        yield up(f"answer_{name}", CODECS[name], moves=False, declared=DECLARED, t=0)
    yield up("answer_alone", CODECS["fp32"], moves=False, declared=DECLARED, t=-3)


def down(
    name: str,
    model: GlobalModel,
    codec: ValueCodec,
    coding: Coding,
    moves: list[bytes] | None = None,
    held: bytes | None = None,
    declared: Sequence[Signal] = (),
    t: int = 7,
) -> dict[str, Any]:
    """A message to a client that holds nothing, or what `held` told it."""
    memory = Memory() if held is None else remember(held, Memory(), LAYOUT, codecs(codec))
    mask = memory.trainable
    assert encode_positions(model.trainable_at, Known(model.frozen_at, mask), moves).coding == coding
    frozen = codec.encode(model.frozen_at.gather(model.weights), seed=4) if len(model.frozen_at) else None
    signals = signals_of(model) if declared else {}
    broadcast = Broadcast(
        model, t, codecs(codec), seed=5, frozen_values=frozen, declared=tuple(declared), signals=signals
    )
    payload = broadcast.payload(held=mask, moves=moves)
    decoded, read, heard = decode_downlink(payload, memory, LAYOUT, codecs(codec), tuple(declared))
    assert read == t
    return {
        "name": name,
        "direction": "down",
        "codec": codec_name(codec),
        "memory": None if mask is None else mask.bitmap.hex(),
        "message": payload.hex(),
        "round": t,
        "trainable": decoded.trainable_at.bitmap.hex(),
        "frozen": decoded.frozen_at.bitmap.hex(),
        "values": [v.hex() for v in decoded.values.tolist()],
        "declared": [asdict(signal) for signal in declared],
        "signals": written(heard),
    }


def up(name: str, codec: ValueCodec, *, moves: bool, declared: Sequence[Signal] = (), t: int = 7) -> dict[str, Any]:
    """An update of client 3; with `moves` of one that moved its mask, before round 0 of one that answers alone."""
    start = model_of(random_mask(1, 0.1), NOTHING, 2)
    trained = start.with_values(start.values + model_of(start.alive_at, NOTHING, 3).values * 0.1)
    if moves:
        grown = random_mask(9, 0.01).without(trained.alive_at)
        counts = [min(a, b) for a, b in zip(grown.counts, trained.alive_at.counts, strict=True)]
        leaving = Move(first_of(trained.alive_at, counts), tuple(counts), 11)
        trained = trained.moved(leaving.apply(trained.alive_at, NOTHING))
    report = Report(123, 1.5, 0.25)
    form = UplinkForm(codecs(codec), t >= 0, "layers" if moves else None, signals=tuple(declared))
    signals = signals_of(start) if declared else {}
    payload, _ = encode_uplink(trained, start, 3, t, report, form, seed=6, signals=signals)
    upload = decode_uplink(payload, start, 3, t, form)
    values = [part for part in (upload.weights, upload.parameters, upload.statistics) if part is not None]
    return {
        "name": name,
        "direction": "up",
        "codec": codec_name(codec),
        "base": [v.hex() for v in start.values.tolist()],
        "base_trainable": start.trainable_at.bitmap.hex(),
        "own_masks": form.own_masks,
        "only_signals": not form.values,
        "message": payload.hex(),
        "round": t,
        "client": 3,
        "report": [report.samples, report.loss, report.accuracy],
        "trainable": upload.at.bitmap.hex(),
        "values": [v.hex() for part in values for v in part.tolist()],
        "declared": [asdict(signal) for signal in declared],
        "signals": written(upload.signals),
    }


def first_of(mask: Positions, counts: list[int]) -> Positions:
    """The first `counts[l]` positions of each layer."""
    chosen = [mask.index[span][:count] for span, count in zip(mask.spans(), counts, strict=True)]
    return Positions(LAYOUT, index=torch.cat(chosen))


def codec_name(codec: ValueCodec) -> str:
    """The codec's option, by which it is configured."""
    return next(name for name, known in CODECS.items() if known is codec).removesuffix("_plain")


def main() -> None:
    layers = [[e.name, list(e.shape), e.kind] for e in LAYOUT.entries]
    content = {"version": VERSION, "layout": layers, "cases": list(cases())}
    path = Path(__file__).parent / f"version{VERSION}.json"
    path.write_text(json.dumps(content, indent=0) + "\n")
    print(f"{len(content['cases'])} cases in {path}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
