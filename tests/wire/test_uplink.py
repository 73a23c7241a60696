"""What a client says comes to the server as it was, and nothing that does not fit the round is believed."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pffdst.core.model import GlobalModel, Layout
from pffdst.core.positions import Positions
from pffdst.wire.codecs import Codecs
from pffdst.wire.codecs.floats import Float32
from pffdst.wire.frame import Kind, Section, Tag, WireError, pack, unpack
from pffdst.wire.positions import Known, encode_positions
from pffdst.wire.uplink import Report, UplinkForm, Upload, decode_uplink, encode_uplink

MakeModel = Callable[..., GlobalModel]
CODEC = Float32(level=0)
REPORT = Report(17, 0.25, 0.5)
shares = st.sampled_from([0.0, 0.05, 0.5, 1.0])


def answered(
    model: GlobalModel,
    moved: bool = False,
    statistics: bool = True,
    report: Report = REPORT,
    start: GlobalModel | None = None,
) -> bytes:
    """The update of a client that was sent `start`, or the model it answers with."""
    return encode_uplink(model, start or model, 3, 7, report, form(moved, statistics))[0]


def form(moved: bool | Literal["any"] = False, statistics: bool = True) -> UplinkForm:
    """What updates hold; with `moved` masks of the clients' own."""
    own: Any = {False: None, True: "layers", "any": "any"}[moved]
    return UplinkForm(Codecs(CODEC, CODEC), own_masks=own, statistics=statistics)


def read(payload: bytes, sent: GlobalModel, moved: bool | Literal["any"] = False, statistics: bool = True) -> Upload:
    return decode_uplink(payload, sent, 3, 7, form(moved, statistics))


def altered(payload: bytes, changes: dict[int, Section | None]) -> bytes:
    message = unpack(payload)
    sections = {tag: s for tag, s in (dict(message.sections) | changes).items() if s is not None}
    return pack(replace(message, sections=sections))


def moved_from(sent: GlobalModel) -> GlobalModel:
    """As many trainable weights per layer at other places, none of them frozen."""
    trainable = sent.trainable.clone()
    for layer in sent.layout.layers:
        on, off = (m[layer.span].nonzero()[0, 0] + layer.offset for m in (trainable, ~sent.alive))
        trainable[on], trainable[off] = False, True
    return sent.with_masks(trainable | sent.frozen)


@given(
    seed=st.integers(0, 10**6), alive=shares, frozen=shares, statistics=st.booleans(), double=st.booleans(),
    report=st.builds(Report, st.integers(1, 2**32 - 1), st.floats(-1e300, 1e300), st.floats(0, 1)),
)  # fmt: skip
def test_an_update_comes_back_as_it_was(
    layout: Layout, make_model: MakeModel, seed: int, alive: float, frozen: float, statistics: bool,
    double: bool, report: Report,
) -> None:  # fmt: skip
    model = make_model(layout, seed, alive, frozen, torch.float64 if double else torch.float32)
    upload = read(answered(model, statistics=statistics, report=report), model, statistics=statistics)
    assert (upload.client, upload.report) == (3, report)
    assert upload.at == model.trainable_at
    assert upload.weights is not None
    assert upload.parameters is not None
    assert torch.equal(upload.weights, model.trained)
    assert torch.equal(upload.parameters, model.values[32:39])
    assert (upload.statistics is not None) == statistics
    if upload.statistics is not None:
        assert torch.equal(upload.statistics, model.values[39:])


def test_a_mask_that_moved_comes_with_its_positions(layout: Layout, make_model: MakeModel) -> None:
    sent = make_model(layout, frozen=0.3)
    moved = moved_from(sent)
    upload = read(answered(moved, moved=True, start=sent), sent, moved=True)
    assert upload.at == moved.trainable_at
    assert upload.at != sent.trainable_at
    assert torch.equal(upload.weights, moved.trained)


def test_a_mask_that_did_not_move_is_not_sent(layout: Layout, make_model: MakeModel) -> None:
    sections = unpack(answered(make_model(layout, frozen=0.3))).sections
    assert set(sections) == {Tag.TRAINABLE_VALUES, Tag.PARAMETERS, Tag.STATISTICS, Tag.REPORT}
    assert not any(tag in sections for tag in (Tag.FROZEN_POSITIONS, Tag.FROZEN_VALUES))


# ---- who, when, of which model, with which parts ----------------------------------------------------------------


@pytest.mark.parametrize("change", [{"t": 8}, {"client": 4}, {"model": 0}, {"kind": Kind.DOWNLINK}])
def test_another_round_client_model_or_direction_is_refused(
    layout: Layout, make_model: MakeModel, change: dict[str, Any]
) -> None:
    model = make_model(layout)
    payload = pack(replace(unpack(answered(model)), **change))
    with pytest.raises(WireError, match=r"model:|client: expected client 3 in round 8"):
        read(payload, model)


@pytest.mark.parametrize("tag", [Tag.TRAINABLE_VALUES, Tag.PARAMETERS, Tag.STATISTICS, Tag.REPORT])
def test_a_section_too_few_is_refused(layout: Layout, make_model: MakeModel, tag: Tag) -> None:
    model = make_model(layout)
    with pytest.raises(WireError, match="sections: expected"):
        read(altered(answered(model), {tag: None}), model)


@pytest.mark.parametrize("tag", [Tag.TRAINABLE_POSITIONS, Tag.FROZEN_POSITIONS, Tag.FROZEN_VALUES, Tag.HELD])
def test_a_section_too_many_is_refused(layout: Layout, make_model: MakeModel, tag: Tag) -> None:
    model = make_model(layout)
    with pytest.raises(WireError, match="sections: expected"):
        read(altered(answered(model), {tag: Section(0, b"")}), model)


@pytest.mark.parametrize("due", [True, False])
def test_a_mask_or_statistics_are_sent_when_due_and_only_then(layout: Layout, make_model: MakeModel, due: bool) -> None:
    model = make_model(layout)
    with pytest.raises(WireError, match="sections: expected"):
        read(answered(model, moved=not due), model, moved=due)
    with pytest.raises(WireError, match="sections: expected"):
        read(answered(model, statistics=not due), model, statistics=due)


# ---- masks that are not allowed ---------------------------------------------------------------------------------


def test_a_claim_on_a_frozen_position_is_refused(layout: Layout, make_model: MakeModel) -> None:
    sent = make_model(layout, alive=0.6, frozen=0.4)
    claimed = sent.trainable.clone()
    claimed[sent.trainable[:20].nonzero()[0]] = False
    claimed[sent.frozen[:20].nonzero()[0]] = True
    section = encode_positions(Positions(layout, bits=claimed), Known(Positions.none(layout)))
    payload = altered(answered(sent, moved=True), {Tag.TRAINABLE_POSITIONS: section})
    assert layout.per_layer(claimed) == layout.per_layer(sent.trainable)
    for moved in (True, "any"):
        with pytest.raises(WireError, match="both trainable and frozen"):
            read(payload, sent, moved=moved)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["more", "fewer", "from one layer to the other"])
def test_other_counts_per_layer_are_refused(layout: Layout, make_model: MakeModel, how: str) -> None:
    sent = make_model(layout)
    claimed = sent.trainable.clone()
    if how != "fewer":
        claimed[(~claimed[:20]).nonzero()[0]] = True
    if how != "more":
        claimed[20 + claimed[20:].nonzero()[0]] = False
    payload = answered(sent.with_masks(claimed), moved=True, start=sent)
    with pytest.raises(WireError, match="number of weights"):
        read(payload, sent, moved=True)
    assert torch.equal(read(payload, sent, moved="any").at.bits, claimed), "where any number is allowed"


# ---- values and reports that are not allowed --------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 33, 37, 41])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(layout: Layout, make_model: MakeModel, at: int, value: float) -> None:
    model = make_model(layout, alive=1.0)
    values = model.values.clone()
    values[at] = value
    with pytest.raises(WireError, match="not finite"):
        read(answered(model.with_values(values), start=model), model)


@pytest.mark.parametrize("tag", [Tag.TRAINABLE_VALUES, Tag.PARAMETERS, Tag.STATISTICS])
def test_values_of_another_precision_are_refused(layout: Layout, make_model: MakeModel, tag: Tag) -> None:
    model = make_model(layout)
    count = len(unpack(answered(model)).section(tag).body) // 4
    section = CODEC.encode(torch.full((count,), 1e300, dtype=torch.float64))
    with pytest.raises(WireError, match=rf"{tag.name}: expected torch.float32"):
        read(altered(answered(model), {tag: section}), model)


@pytest.mark.parametrize("report", [(0, 0.1, 0.1), (1, float("nan"), 0.1), (1, 0.1, float("inf"))])
def test_a_report_without_samples_or_of_no_number_is_refused(
    layout: Layout, make_model: MakeModel, report: tuple[int, float, float]
) -> None:
    model = make_model(layout)
    section = Section(0, struct.pack("<Idd", *report))
    with pytest.raises(WireError, match="REPORT"):
        read(altered(answered(model), {Tag.REPORT: section}), model)


def test_a_report_of_another_length_is_refused(layout: Layout, make_model: MakeModel) -> None:
    model = make_model(layout)
    with pytest.raises(WireError, match="REPORT: expected 20 bytes"):
        read(altered(answered(model), {Tag.REPORT: Section(0, b"\0" * 19)}), model)


@given(noise=st.binary(max_size=64), tag=st.sampled_from([Tag.TRAINABLE_POSITIONS, Tag.TRAINABLE_VALUES, Tag.REPORT]),
       coding=st.integers(0, 64))  # fmt: skip
def test_no_section_of_noise_is_anything_but_a_wire_error_or_well_formed(
    layout: Layout, make_model: MakeModel, noise: bytes, tag: Tag, coding: int
) -> None:
    sent = make_model(layout, frozen=0.3)
    payload = altered(answered(sent, moved=True), {tag: Section(coding, noise)})
    try:
        upload = read(payload, sent, moved=True)
    except WireError:
        return
    assert upload.report.samples >= 1
    assert bool(torch.isfinite(upload.weights).all())
    assert not bool(upload.at.inside(sent.frozen_at).any())


def test_no_damage_to_a_real_payload_goes_unseen(real_round: Any, damages: Callable[[bytes], Iterator[bytes]]) -> None:
    update, t = real_round.updates[0], real_round.t

    def received(payload: bytes) -> Upload:
        codecs = Codecs(Float32(), Float32())
        return decode_uplink(payload, real_round.sent, update.client, t, UplinkForm(codecs))

    assert received(update.payload).report.samples > 0
    for damaged in damages(update.payload):
        with pytest.raises(WireError):
            received(damaged)
