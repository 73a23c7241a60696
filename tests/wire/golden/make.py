"""Makes the golden files of the current format: messages, and what they say, for decoders in any language.

    python tests/wire/golden/make.py

Writes version2.json. Each case has the message in hex; what the receiver holds before it: `memory`, the bitmap of a
client's trainable mask in hex or null, or `base` and `base_trainable`, what the server sent before an update; and what
the decoder must give: bitmaps in hex, values as floating-point hex. Run it when the version changes, never to make a
failing test pass. Files of earlier versions are kept: they must be refused by their version.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pffdst.wire.values import BFloat16, Float16, Float32, Int4, Int8, ValueCodec
from torch import Tensor

from pffdst.core.masks import Move
from pffdst.core.model import Entry, GlobalModel, Layout
from pffdst.wire.downlink import Broadcast, Memory, decode_downlink, remember
from pffdst.wire.frame import VERSION
from pffdst.wire.positions import Coding, Known, encode_move, encode_positions, to_bitmap, values_at
from pffdst.wire.uplink import Report, decode_uplink, encode_uplink

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
NOTHING = torch.zeros(W, dtype=torch.bool)


def random_mask(seed: int, share: float) -> Tensor:
    return torch.rand(W, generator=torch.Generator().manual_seed(seed)) < share


def model_of(trainable: Tensor, frozen: Tensor, seed: int) -> GlobalModel:
    values = torch.randn(N, generator=torch.Generator().manual_seed(seed)).mul(16).round() / 256  # compressible
    return GlobalModel(LAYOUT, values, ~NOTHING, NOTHING).with_masks(trainable | frozen, frozen)


def cases() -> Iterator[dict[str, Any]]:
    """Every coding of positions and every value codec, in both directions."""
    first = random_mask(1, 0.1)
    move = Move(first & random_mask(2, 0.3), (15, 4), 2**63 + 12345)
    moved = move.apply(LAYOUT, first, NOTHING)
    near = (first & ~random_mask(3, 0.05)) | random_mask(4, 0.004)
    draw = Move(None, (40, 10), 987654321)
    frozen = first & random_mask(5, 0.5)
    held = Broadcast(model_of(first, NOTHING, 1), 0, Float32()).payload()

    yield down("all", model_of(~NOTHING, NOTHING, 2), CODECS["fp32_plain"], Coding.ALL)
    yield down("bitmap", model_of(random_mask(6, 0.5), NOTHING, 2), CODECS["fp32_plain"], Coding.BITMAP)
    for name, codec in CODECS.items():
        yield down(f"set_{name}", model_of(first, NOTHING, 2), codec, Coding.SET)
    yield down("changed", model_of(near, NOTHING, 2), CODECS["fp32"], Coding.CHANGED, held=held)
    drawn, begin = draw.apply(LAYOUT, NOTHING, NOTHING), encode_move(draw, LAYOUT, NOTHING)
    yield down("drawn", model_of(drawn, NOTHING, 2), CODECS["fp32"], Coding.MOVES, [begin])
    regrown = [encode_move(move, LAYOUT, first)]
    yield down("moved", model_of(moved, NOTHING, 2), CODECS["fp32"], Coding.MOVES, regrown, held)
    prune = Move(drawn & random_mask(7, 0.2), (0, 0), 0)
    pruned = prune.apply(LAYOUT, drawn, NOTHING)
    history = [begin, encode_move(prune, LAYOUT, drawn)]
    yield down("history", model_of(pruned, NOTHING, 2), CODECS["fp32"], Coding.MOVES, history)
    beside = draw.apply(LAYOUT, NOTHING, frozen)
    for name in ("fp32", "int8"):
        yield down(f"frozen_{name}", model_of(beside, frozen, 2), CODECS[name], Coding.MOVES, [begin], held)
    for name, codec in CODECS.items():
        yield up(f"update_{name}", codec, moves=name == "fp32")


def down(
    name: str,
    model: GlobalModel,
    codec: ValueCodec,
    coding: Coding,
    moves: list[bytes] | None = None,
    held: bytes | None = None,
) -> dict[str, Any]:
    """A message to a client that holds nothing, or what `held` told it."""
    memory = Memory() if held is None else remember(held, Memory(), LAYOUT)
    mask = None if memory.trainable is None else random_mask(1, 0.1)
    assert encode_positions(model.trainable, Known(LAYOUT, model.frozen, mask), moves).coding == coding
    frozen = codec.encode(values_at(model.weights, model.frozen), seed=4) if bool(model.frozen.any()) else None
    broadcast = Broadcast(model, 7, codec, seed=5, frozen_values=frozen)
    payload = broadcast.payload(held=mask, moves=moves)
    decoded, t = decode_downlink(payload, memory, LAYOUT, codec)
    return {
        "name": name,
        "direction": "down",
        "codec": codec_name(codec),
        "memory": None if memory.trainable is None else memory.trainable.hex(),
        "message": payload.hex(),
        "round": t,
        "trainable": to_bitmap(decoded.trainable).hex(),
        "frozen": to_bitmap(decoded.frozen).hex(),
        "values": [v.hex() for v in decoded.values.tolist()],
    }


def up(name: str, codec: ValueCodec, *, moves: bool) -> dict[str, Any]:
    """An update of client 3; with `moves` of one that moved its mask."""
    start = model_of(random_mask(1, 0.1), NOTHING, 2)
    trained = start.with_values(start.values + model_of(start.alive, NOTHING, 3).values * 0.1)
    if moves:
        grown = ~trained.alive & random_mask(9, 0.01)
        counts = [min(a, b) for a, b in zip(LAYOUT.per_layer(grown), LAYOUT.per_layer(trained.alive), strict=True)]
        alive = Move(first_of(trained.alive, counts), tuple(counts), 11).apply(LAYOUT, trained.alive, NOTHING)
        trained = trained.with_masks(alive)
    report = Report(123, 1.5, 0.25)
    payload = encode_uplink(trained, start, 3, 7, report, codec, seed=6, moved=moves, statistics=True)
    upload = decode_uplink(payload, start, 3, 7, codec, moved=moves, statistics=True)
    return {
        "name": name,
        "direction": "up",
        "codec": codec_name(codec),
        "base": [v.hex() for v in start.values.tolist()],
        "base_trainable": to_bitmap(start.trainable).hex(),
        "moved": moves,
        "message": payload.hex(),
        "round": 7,
        "client": 3,
        "report": [report.samples, report.loss, report.accuracy],
        "trainable": to_bitmap(upload.trainable).hex(),
        "values": [
            v.hex() for v in [*upload.weights.tolist(), *upload.parameters.tolist(), *upload.statistics.tolist()]
        ],
    }


def first_of(mask: Tensor, counts: list[int]) -> Tensor:
    """The first `counts[l]` True positions of each layer."""
    chosen = torch.zeros_like(mask)
    for layer, count in zip(LAYOUT.layers, counts, strict=True):
        chosen[layer.offset + mask[layer.span].nonzero().flatten()[:count]] = True
    return chosen


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
