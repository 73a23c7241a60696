"""What a rule sends beside the model arrives as it was, at positions it may choose, and malformed bytes are named."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pffdst.core.model import GlobalModel, Layout
from pffdst.core.positions import Positions
from pffdst.core.signals import Chosen, Signal
from pffdst.wire.codecs import Codecs
from pffdst.wire.codecs.floats import Float32
from pffdst.wire.codecs.integers import Int8
from pffdst.wire.downlink import Broadcast, Memory, decode_downlink
from pffdst.wire.frame import FIRST_SIGNAL, Kind, Message, Section, WireError, pack, unpack
from pffdst.wire.sets import encode_set
from pffdst.wire.signals import SignalCoder
from pffdst.wire.uplink import Report, UplinkForm, decode_uplink, encode_uplink

MakeModel = Callable[..., GlobalModel]
CODECS = Codecs(Int8(block=8), Float32())
AMONG: list[Literal["dead", "alive", "all"]] = ["dead", "alive", "all"]
shares = st.sampled_from([0.0, 0.1, 0.6, 1.0])


def three(among: Literal["dead", "alive", "all"], lossy: bool = False) -> tuple[Signal, ...]:
    """A signal of each form."""
    return (
        Signal("scores", "chosen", among=among, lossy=lossy),
        Signal("votes", "positions", among=among),
        Signal("scale", "values", length=5, lossy=lossy),
    )


def made(model: GlobalModel, among: str, seed: int, share: float) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    universe = {"dead": ~model.alive, "alive": model.alive, "all": torch.ones(32, dtype=torch.bool)}[among]
    one, two = (universe & (torch.rand(32, generator=generator) < share) for _ in range(2))
    at = Positions(model.layout, bits=one)
    values = torch.randn(len(at), generator=generator).to(model.dtype)
    scale = torch.randn(5, generator=generator).to(model.dtype)
    return {"scores": Chosen(at, values), "votes": Positions(model.layout, bits=two), "scale": scale}


def check(found: Any, expected: dict[str, Any], lossy: bool) -> None:
    assert set(found) == set(expected)
    assert found["votes"] == expected["votes"]
    assert found["scores"].at == expected["scores"].at
    for one, two in (
        (found["scores"].values, expected["scores"].values),
        (found["scale"], expected["scale"]),
    ):
        assert one.dtype == two.dtype
        assert torch.allclose(one, two, atol=0.05) if lossy else torch.equal(one, two)


@given(
    seed=st.integers(0, 10**6), alive=shares, frozen=shares, share=shares, among=st.sampled_from(AMONG),
    form=st.sampled_from(["single", "double", "lossy"]),
)  # fmt: skip
def test_signals_come_back_as_they_were_both_ways(
    layout: Layout, make_model: MakeModel, seed: int, alive: float, frozen: float, share: float,
    among: Literal["dead", "alive", "all"], form: str,
) -> None:  # fmt: skip
    lossy, exact = form == "lossy", Codecs(Float32(), Float32())
    codecs = CODECS if lossy else exact
    model = make_model(layout, seed, alive, frozen, torch.float64 if form == "double" else torch.float32)
    declared, signals = three(among, lossy), made(model, among, seed, share)
    frozen_values = codecs.values.encode(model.frozen_at.gather(model.weights)) if len(model.frozen_at) else None
    broadcast = Broadcast(model, -2, codecs, frozen_values=frozen_values, declared=declared, signals=signals)
    received = decode_downlink(broadcast.payload(), Memory(), layout, codecs, declared)
    assert received.t == -2
    check(received.signals, signals, lossy)

    for values in (True, False):
        up = UplinkForm(codecs, values=values, signals=declared)
        payload, _ = encode_uplink(broadcast.sent, broadcast.sent, 1, 4, Report(3, 0.1, 0.2), up, signals=signals)
        upload = decode_uplink(payload, broadcast.sent, 1, 4, up)
        assert (upload.weights is None) == (upload.parameters is None) == (not values)
        check(upload.signals, signals, lossy)


def test_signals_are_numbered_from_64_in_the_order_they_are_declared(layout: Layout, make_model: MakeModel) -> None:
    model = make_model(layout)
    coder = SignalCoder(three("dead"), model, CODECS)
    sections = coder.encode(made(model, "dead", 1, 0.5), 0)
    assert list(sections) == [64, 65, 66] == sorted(coder.tags)
    places = encode_set(torch.tensor([0, 3]).numpy(), [e.size for e in layout.layers])
    everywhere = SignalCoder((Signal("v", "positions", among="all"),), model, CODECS)
    assert everywhere.encode({"v": Positions(layout, index=torch.tensor([0, 3]))}, 0) == {64: Section(0, places)}


def test_positions_that_may_not_be_chosen_cost_nothing(layout: Layout, make_model: MakeModel) -> None:
    model = make_model(layout, alive=0.8)
    dead = model.alive_at.complement()
    sections = SignalCoder((Signal("v", "positions"),), model, CODECS).encode({"v": dead}, 0)
    assert len(sections[64].body) == len(layout.layers), "all that may be chosen: a count per layer"


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_signals", "problem"),
    [
        ({}, "the signals"),
        ({"scale": torch.zeros(5), "more": torch.zeros(5)}, "the signals"),
        ({"scale": torch.zeros(4)}, "scale to be values"),
        ({"scale": None}, "scale to be values"),
    ],
)
def test_what_was_not_declared_so_is_not_sent(
    layout: Layout, make_model: MakeModel, given_signals: dict[str, Any], problem: str
) -> None:
    coder = SignalCoder((Signal("scale", "values", length=5),), make_model(layout), CODECS)
    with pytest.raises(ValueError, match=problem):
        coder.encode(given_signals, 0)


@pytest.mark.parametrize("names", [["a", "b", "a"], list(map(str, range(65)))])
def test_a_round_has_at_most_64_signals_of_different_names(
    layout: Layout, make_model: MakeModel, names: list[str]
) -> None:
    with pytest.raises(ValueError, match="at most 64 signals of different names"):
        SignalCoder(tuple(Signal(name, "positions") for name in names), make_model(layout), CODECS)


SCALE = Signal("scale", "values", length=5)
VOTES = Signal("votes", "positions")
SCORES = Signal("scores", "chosen")
MALFORMED = [
    (SCALE, Section(77, b""), "scale: value coding 77"),
    (SCALE, Float32(level=0).encode(torch.zeros(4)), "scale: expected at least 20 bytes"),
    (SCALE, Float32().encode(torch.zeros(5, dtype=torch.float64)), "scale: expected torch.float32"),
    (SCALE, Float32().encode(torch.full((5,), float("nan"))), "scale: a value is not finite"),
    (VOTES, Section(1, b""), "votes: coding 1 is unknown"),
    (VOTES, Section(0, b""), "votes: the body ends"),
    (VOTES, Section(0, b"\x21\x00"), "votes: 33 positions are claimed"),
    (SCORES, Section(1, b""), "scores: coding 1 is unknown"),
    (SCORES, Section(0, b"abc"), "scores: expected 5 bytes before the positions"),
    (SCORES, Section(0, struct.pack("<IB", 9, 1)), "scores: the positions run past the end"),
    (SCORES, Section(0, struct.pack("<IB", 2, 1) + b"\x00\x00" + bytes(4)), "scores: expected 0 bytes"),
]


@pytest.mark.parametrize(("signal", "section", "problem"), MALFORMED)
def test_what_is_malformed_is_named(
    layout: Layout, make_model: MakeModel, signal: Signal, section: Section, problem: str
) -> None:
    coder = SignalCoder((signal,), make_model(layout), Codecs(Float32(level=0), Float32(level=0)))
    with pytest.raises(WireError, match=problem):
        coder.decode(Message(Kind.UPLINK, 0, 0, 0, {FIRST_SIGNAL: section}))


def test_a_signal_is_there_where_it_is_due_and_only_then(layout: Layout, make_model: MakeModel) -> None:
    model = make_model(layout)
    with_it = UplinkForm(CODECS, signals=(SCALE,))
    payload, _ = encode_uplink(model, model, 1, 4, Report(3, 0.1, 0.2), with_it, signals={"scale": torch.zeros(5)})
    with pytest.raises(WireError, match=r"sections: expected .*, but got .*SIGNAL 0"):
        decode_uplink(payload, model, 1, 4, UplinkForm(CODECS))
    sections = dict(unpack(payload).sections)
    del sections[FIRST_SIGNAL]
    with pytest.raises(WireError, match=r"sections: expected .*SIGNAL 0"):
        decode_uplink(pack(replace(unpack(payload), sections=sections)), model, 1, 4, with_it)
    down = Broadcast(model, 0, CODECS).payload()
    with pytest.raises(WireError, match="section SIGNAL 0: expected in a DOWNLINK message"):
        decode_downlink(down, Memory(), layout, CODECS, (SCALE,))


@given(st.sampled_from([SCALE, VOTES, SCORES]), st.integers(0, 64), st.binary(max_size=60))
def test_any_bytes_are_a_signal_or_an_error(
    layout: Layout, make_model: MakeModel, signal: Signal, coding: int, body: bytes
) -> None:
    model = make_model(layout)
    coder = SignalCoder((signal,), model, CODECS)
    try:
        found = coder.decode(Message(Kind.UPLINK, 0, 0, 0, {FIRST_SIGNAL: Section(coding, body)}))[signal.name]
    except WireError:
        return
    at = found.at if isinstance(found, Chosen) else found
    if isinstance(at, Positions):
        assert not bool(at.inside(model.alive_at).any())
    own = found.values if isinstance(found, Chosen) else found
    assert not isinstance(own, torch.Tensor) or bool(torch.isfinite(own).all())
