"""Constants and buffers on the way: sent to who lacks them, sent back where they changed, and not a byte else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pffdst.core.model import Buffer, Entry, GlobalModel, Layout
from pffdst.core.positions import Positions
from pffdst.wire.codecs import Codecs
from pffdst.wire.codecs.floats import Float32
from pffdst.wire.downlink import Broadcast, Memory, decode_downlink, remember
from pffdst.wire.frame import Message, Section, Tag, WireError, pack, unpack
from pffdst.wire.state import decode_state, encode_state
from pffdst.wire.uplink import Report, UplinkForm, decode_uplink, encode_uplink

CODECS = Codecs(Float32(), Float32())
WEIGHTS = (Entry("a.weight", (6, 4), 0, "maskable"), Entry("a.bias", (6,), 24, "parameter"))
BUFFERS = (
    Buffer("steps", (), "int64"),
    Buffer("order", (50,), "int32"),
    Buffer("met", (11,), "bool"),
    Buffer("phase", (3,), "complex64"),
    Buffer("none", (0,), "uint8"),
)
PLAIN = Layout(WEIGHTS)
LAYOUT = Layout((*WEIGHTS, Entry("fixed", (5, 2), 30, "constant")), BUFFERS)


def model(layout: Layout = LAYOUT, dtype: torch.dtype = torch.float32) -> GlobalModel:
    values = torch.arange(layout.total).to(dtype) / 8
    return GlobalModel(layout, values, Positions.all(layout).bits, Positions.none(layout).bits)


def buffers(steps: int = 3) -> list[Tensor]:
    phase = torch.polar(torch.ones(3), torch.arange(3.0))
    met = torch.arange(11) % 3 == 0
    return [torch.tensor(steps), torch.randperm(50, dtype=torch.int32), met, phase, torch.empty(0, dtype=torch.uint8)]


def same(a: list[Tensor] | tuple[Tensor, ...], b: list[Tensor] | tuple[Tensor, ...]) -> bool:
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [0, 3])
def test_pieces_come_back_to_the_bit(dtype: torch.dtype, level: int) -> None:
    pieces = [torch.arange(10).to(dtype) / 7, *buffers()]
    found = decode_state(encode_state(pieces, dtype, level), LAYOUT)
    assert same([p for p in found if p is not None], pieces)
    some = [None, pieces[1], None, pieces[3], None, None]
    assert [p is not None for p in decode_state(encode_state(some, dtype, level), LAYOUT)] == [
        p is not None for p in some
    ]


def test_whole_numbers_of_few_bytes_are_small_when_compressed() -> None:
    layout = Layout(WEIGHTS, (Buffer("order", (4000,), "int64"),))
    section = encode_state([torch.arange(4000)], torch.float32, 1)
    assert len(section.body) < 2.2 * 4000
    found = decode_state(section, layout)[0]
    assert found is not None
    assert torch.equal(found, torch.arange(4000))


def test_a_client_is_sent_what_it_lacks_and_once() -> None:
    first = Broadcast(model(), 0, CODECS, buffers=buffers(steps=3))
    memory = remember(first.payload(), Memory(), LAYOUT, CODECS)
    again = decode_downlink(first.payload(mask=False, state=()), memory, LAYOUT, CODECS)
    assert same(again.buffers, buffers(steps=3)[:1] + list(again.buffers[1:]))
    assert torch.equal(again.model.values, model().values)
    assert Tag.STATE not in unpack(first.payload(mask=False, state=())).sections

    now = [torch.tensor(4), *again.buffers[1:]]
    payload = Broadcast(model(), 1, CODECS, buffers=now).payload(mask=False, state=(1,))
    assert len(unpack(payload).section(Tag.STATE).body) == 1 + 8
    received = decode_downlink(payload, memory, LAYOUT, CODECS)
    assert same(received.buffers, now)
    with pytest.raises(WireError, match="does not hold the constants and buffers"):
        decode_downlink(
            Broadcast(model(), 1, CODECS, buffers=now).payload(mask=False, state=()), memory, LAYOUT, CODECS
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constants_are_those_of_the_model_in_its_precision(dtype: torch.dtype) -> None:
    sent = model(dtype=dtype)
    received = decode_downlink(Broadcast(sent, 0, CODECS, buffers=buffers()).payload(), Memory(), LAYOUT, CODECS)
    assert received.model.dtype == dtype
    assert torch.equal(received.model.values, sent.values)


def uplink(changed: list[Tensor | None], form: UplinkForm) -> bytes:
    return encode_uplink(model(), model(), 7, 0, Report(4, 0.5, 0.5), form, buffers=changed)[0]


def test_a_client_sends_back_what_it_changed_and_never_constants() -> None:
    form, nothing = UplinkForm(CODECS), [None] * len(BUFFERS)
    assert Tag.STATE not in unpack(uplink(nothing, form)).sections
    changed = [torch.tensor(9), None, ~buffers()[2], None, None]
    upload = decode_uplink(uplink(changed, form), model(), 7, 0, form)
    assert [b is not None for b in upload.buffers] == [b is not None for b in changed]
    assert upload.buffers[0] == 9
    assert upload.buffers[2] is not None
    assert torch.equal(upload.buffers[2], ~buffers()[2])
    assert decode_uplink(uplink(nothing, form), model(), 7, 0, form).buffers == tuple(nothing)
    silent = UplinkForm(CODECS, statistics=False)
    assert Tag.STATE not in unpack(uplink(changed, silent)).sections
    with pytest.raises(WireError, match="STATE"):
        decode_uplink(uplink(changed, form), model(), 7, 0, silent)

    message = unpack(uplink(nothing, form))
    lie = encode_state([torch.ones(10), *nothing], torch.float32, 0)
    forged = pack(Message(message.kind, 0, 7, message.model, {**message.sections, Tag.STATE: lie}))
    with pytest.raises(WireError, match="a client sent constants"):
        decode_uplink(forged, model(), 7, 0, form)


def test_a_model_without_state_has_no_such_section() -> None:
    payload = Broadcast(model(PLAIN), 0, CODECS).payload()
    assert Tag.STATE not in unpack(payload).sections
    assert len(unpack(payload).section(Tag.HELD).body) == 8
    message = unpack(payload)
    more = {**message.sections, Tag.STATE: Section(1, b"\0")}
    with pytest.raises(WireError, match="STATE is not expected"):
        decode_downlink(pack(Message(message.kind, 0, message.client, message.model, more)), Memory(), PLAIN, CODECS)


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda s: Section(3, s.body), "coding 3"),
        (lambda s: Section(0x21, s.body), "coding 33"),
        (lambda s: Section(s.coding, s.body[:-1]), "at least"),
        (lambda s: Section(s.coding, bytes(s.body) + b"\0"), "expected"),
        (lambda s: Section(s.coding, b"\xff" + bytes(s.body[1:])), "6 bits"),
        (lambda s: Section(s.coding, b""), "6 bits"),
        (lambda s: Section(s.coding | 0x10, s.body), "STATE"),
    ],
)
def test_what_is_malformed_is_refused(spoil: Callable[[Section], Section], what: str) -> None:
    section = encode_state([torch.arange(10.0), *buffers()], torch.float32, 0)
    with pytest.raises(WireError, match=what):
        decode_state(spoil(section), LAYOUT)


def test_values_that_are_not_finite_and_bits_too_many_are_refused() -> None:
    phase = torch.full((3,), complex(0, float("inf")), dtype=torch.complex64)
    with pytest.raises(WireError, match="not finite"):
        decode_state(encode_state([None, None, None, None, phase, None], torch.float32, 0), LAYOUT)
    section = encode_state([None, None, None, torch.ones(11, dtype=torch.bool), None, None], torch.float32, 0)
    with pytest.raises(WireError, match="unused bits"):
        decode_state(Section(section.coding, bytes(section.body[:-1]) + b"\xff"), LAYOUT)
