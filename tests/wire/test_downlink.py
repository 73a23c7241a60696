"""What a client gets is the server's model, or an error that says what is wrong."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from pffdst.core.model import GlobalModel, Layout
from pffdst.wire.codecs import Codecs
from pffdst.wire.codecs.floats import Float32
from pffdst.wire.downlink import Broadcast, Memory, decode_downlink, digest, remember
from pffdst.wire.frame import BROADCAST, Kind, Section, Tag, WireError, name_of, pack, unpack

MakeModel = Callable[..., GlobalModel]
CODEC = Float32(level=0)
CODECS = Codecs(CODEC, CODEC)
rounds = st.integers(-(2**31), 2**31 - 1)
shares = st.sampled_from([0.0, 0.05, 0.5, 1.0])


def same(one: GlobalModel, two: GlobalModel) -> bool:
    tensors = ((one.values, two.values), (one.alive, two.alive), (one.frozen, two.frozen))
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in tensors)


def sent(model: GlobalModel, t: int = 0, mask: bool = True, frozen: bool = True) -> bytes:
    return broadcast(model, t).payload(mask=mask, frozen=frozen)


def broadcast(model: GlobalModel, t: int = 0) -> Broadcast:
    """The frozen values coded as the server does: when there are any."""
    frozen = CODEC.encode(model.frozen_at.gather(model.weights)) if len(model.frozen_at) else None
    return Broadcast(model, t, CODECS, frozen_values=frozen)


def altered(payload: bytes, changes: dict[int, Section | None]) -> bytes:
    """The message with sections replaced, added or (None) left out, its checksum made anew."""
    message = unpack(payload)
    sections = {tag: s for tag, s in (dict(message.sections) | changes).items() if s is not None}
    return pack(replace(message, sections=sections))


def read(payload: bytes, layout: Layout, memory: Memory | None = None) -> GlobalModel:
    return decode_downlink(payload, memory or Memory(), layout, CODECS).model


@given(seed=st.integers(0, 10**6), alive=shares, frozen=shares, t=rounds, double=st.booleans())
def test_the_model_comes_back_as_it_was(
    layout: Layout, make_model: MakeModel, seed: int, alive: float, frozen: float, t: int, double: bool
) -> None:
    model = make_model(layout, seed, alive, frozen, torch.float64 if double else torch.float32)
    back = decode_downlink(sent(model, t), Memory(), layout, CODECS)
    assert (back.t, back.signals) == (t, {})
    assert same(back.model, model)


@given(seed=st.integers(0, 10**6), alive=shares, frozen=shares)
def test_a_client_that_remembers_needs_the_values_alone(
    layout: Layout, make_model: MakeModel, seed: int, alive: float, frozen: float
) -> None:
    first = make_model(layout, seed, alive, frozen)
    memory = remember(sent(first), Memory(), layout, CODECS)
    at = torch.cat([first.trainable, torch.ones(layout.total - layout.maskable, dtype=torch.bool)])
    later = first.with_values(torch.where(at, first.values + 1, first.values))
    payload = sent(later, 1, mask=False, frozen=False)
    assert set(unpack(payload).sections) == {Tag.HELD, Tag.TRAINABLE_VALUES, Tag.PARAMETERS, Tag.STATISTICS}
    assert same(read(payload, layout, memory), later)
    assert remember(payload, memory, layout, CODECS) == memory


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_only_what_is_lacked_is_sent(layout: Layout, make_model: MakeModel, mask: bool, frozen: bool) -> None:
    tags = set(unpack(sent(make_model(layout, frozen=0.5), mask=mask, frozen=frozen)).sections)
    assert (Tag.TRAINABLE_POSITIONS in tags) == mask
    assert (Tag.FROZEN_POSITIONS in tags) == (Tag.FROZEN_VALUES in tags) == frozen


def test_what_is_not_frozen_yet_is_not_sent_as_frozen(layout: Layout, make_model: MakeModel) -> None:
    assert Tag.FROZEN_POSITIONS not in unpack(sent(make_model(layout))).sections


def test_only_trainable_values_travel_every_round(layout: Layout, make_model: MakeModel) -> None:
    model = make_model(layout, frozen=0.5)
    values = unpack(sent(model)).section(Tag.TRAINABLE_VALUES).body
    assert len(values) == 4 * int(model.trainable.sum())


def test_a_message_to_many_names_no_client(layout: Layout, make_model: MakeModel) -> None:
    message = unpack(sent(make_model(layout)))
    assert (message.kind, message.client) == (Kind.DOWNLINK, BROADCAST)


# ---- what a client must hold ------------------------------------------------------------------------------------


def test_a_client_that_holds_nothing_says_so(layout: Layout, make_model: MakeModel) -> None:
    with pytest.raises(WireError, match="trainable positions"):
        read(sent(make_model(layout), mask=False), layout)
    with pytest.raises(WireError, match="frozen weights"):
        read(sent(make_model(layout, frozen=0.5), frozen=False), layout)


def test_a_client_that_holds_another_mask_says_so(layout: Layout, make_model: MakeModel) -> None:
    memory = remember(sent(make_model(layout, seed=1)), Memory(), layout, CODECS)
    with pytest.raises(WireError, match="trainable positions"):
        read(sent(make_model(layout, seed=2), mask=False), layout, memory)


def test_a_client_that_holds_other_frozen_values_says_so(layout: Layout, make_model: MakeModel) -> None:
    model = make_model(layout, frozen=0.5)
    memory = remember(sent(model), Memory(), layout, CODECS)
    other = model.with_values(torch.where(torch.arange(42) < 32, model.values * 2, model.values))
    with pytest.raises(WireError, match="frozen weights"):
        read(sent(other, frozen=False), layout, memory)


def test_a_client_that_holds_half_of_the_frozen_weights_says_so(layout: Layout, make_model: MakeModel) -> None:
    model = make_model(layout, frozen=0.5)
    payload = sent(model)
    own = unpack(payload).sections
    for left_out in (Tag.FROZEN_VALUES, Tag.FROZEN_POSITIONS):
        half = digest(model.frozen_at, None if left_out is Tag.FROZEN_VALUES else own[Tag.FROZEN_VALUES])
        held = Section(0, bytes(own[Tag.HELD].body[:4]) + struct.pack("<I", half))
        with pytest.raises(WireError, match="frozen weights"):
            read(altered(payload, {left_out: None, Tag.HELD: held}), layout)


def test_a_new_mask_takes_the_old_ones_place(layout: Layout, make_model: MakeModel) -> None:
    one, two = make_model(layout, seed=1), make_model(layout, seed=2)
    memory = remember(sent(two), remember(sent(one), Memory(), layout, CODECS), layout, CODECS)
    assert same(read(sent(two, mask=False), layout, memory), two)


# ---- what is refused --------------------------------------------------------------------------------------------


def test_another_model_or_direction_is_refused(layout: Layout, make_model: MakeModel) -> None:
    payload = sent(make_model(layout))
    other = Layout((replace(layout.entries[0], name="z"), *layout.entries[1:]))
    with pytest.raises(WireError, match="model"):
        read(payload, other)
    with pytest.raises(WireError, match="model"):
        read(pack(replace(unpack(payload), kind=Kind.UPLINK)), layout)


@pytest.mark.parametrize("tag", [Tag.HELD, Tag.TRAINABLE_VALUES, Tag.PARAMETERS, Tag.STATISTICS])
def test_a_missing_section_is_named(layout: Layout, make_model: MakeModel, tag: Tag) -> None:
    with pytest.raises(WireError, match=tag.name):
        read(altered(sent(make_model(layout)), {tag: None}), layout)


@pytest.mark.parametrize("tag", [Tag.REPORT, 64, 70])
def test_a_section_too_many_is_refused(layout: Layout, make_model: MakeModel, tag: int) -> None:
    with pytest.raises(WireError, match=f"sections: {name_of(tag)} is not expected"):
        read(altered(sent(make_model(layout)), {tag: Section(0, b"")}), layout)


@pytest.mark.parametrize("tag", [Tag.TRAINABLE_VALUES, Tag.PARAMETERS, Tag.STATISTICS])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(layout: Layout, make_model: MakeModel, tag: Tag, value: float) -> None:
    payload = sent(make_model(layout))
    count = len(unpack(payload).section(tag).body) // 4
    section = CODEC.encode(torch.full((count,), value))
    with pytest.raises(WireError, match=f"{tag.name}: a value is not finite"):
        read(altered(payload, {tag: section}), layout)


def test_a_message_of_two_precisions_is_refused(layout: Layout, make_model: MakeModel) -> None:
    section = CODEC.encode(torch.zeros(7, dtype=torch.float64))
    with pytest.raises(WireError, match="one precision"):
        read(altered(sent(make_model(layout)), {Tag.PARAMETERS: section}), layout)


def test_a_position_cannot_be_trainable_and_frozen(layout: Layout, make_model: MakeModel) -> None:
    model = make_model(layout)
    overlapping = model.freezing(model.alive_at)
    both = unpack(sent(overlapping)).sections
    own = unpack(sent(model)).sections
    held = Section(0, bytes(own[Tag.HELD].body[:4]) + bytes(both[Tag.HELD].body[4:]))
    changes = {tag: both[tag] for tag in (Tag.FROZEN_POSITIONS, Tag.FROZEN_VALUES)} | {Tag.HELD: held}
    with pytest.raises(WireError, match="both trainable and frozen"):
        read(altered(sent(model), changes), layout)  # type: ignore[arg-type]


def test_checksums_are_over_positions_as_words(layout: Layout, make_model: MakeModel) -> None:
    """As documented: 32 bits of xxh3 of increasing u32; with the coding it seeds that of frozen values."""
    model = make_model(layout, frozen=0.5)
    own = unpack(sent(model)).sections
    held, values = own[Tag.HELD].body, own[Tag.FROZEN_VALUES]
    words = [b"".join(struct.pack("<I", j) for j in at.index.tolist()) for at in (model.trainable_at, model.frozen_at)]
    trainable, frozen = (xxhash.xxh3_64_intdigest(w) & 0xFFFFFFFF for w in words)
    frozen = xxhash.xxh3_64_intdigest(values.body, seed=(frozen << 8) + values.coding) & 0xFFFFFFFF
    assert held == struct.pack("<II", trainable, frozen)
    assert unpack(sent(make_model(layout))).section(Tag.HELD).body[4:] == bytes(4)


def test_no_damage_to_a_real_payload_goes_unseen(real_round: Any, damages: Callable[[bytes], Iterator[bytes]]) -> None:
    payload = max((task.payload for task in real_round.tasks), key=len)
    layout = real_round.planned.layout
    assert same(read(payload, layout), real_round.planned)
    for damaged in damages(payload):
        with pytest.raises(WireError):
            read(damaged, layout)
