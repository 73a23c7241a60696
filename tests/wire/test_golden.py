"""Messages written down once are read the same for ever: what another implementation can be held to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pffdst.core.model import Entry, GlobalModel, Layout
from pffdst.core.positions import Positions
from pffdst.core.signals import Chosen, Signal
from pffdst.wire import ans
from pffdst.wire.codecs import Codecs
from pffdst.wire.codecs.floats import BFloat16, Float16, Float32
from pffdst.wire.codecs.integers import Int4, Int8
from pffdst.wire.downlink import Memory, decode_downlink
from pffdst.wire.frame import FIRST_SIGNAL, VERSION, WireError, name_of, unpack
from pffdst.wire.positions import positions_of
from pffdst.wire.uplink import UplinkForm, decode_uplink

FOLDER = Path(__file__).parent / "golden"
CONTENT = json.loads((FOLDER / f"version{VERSION}.json").read_text())
CODECS = {"fp32": Float32(), "fp16": Float16(), "bf16": BFloat16(), "int8": Int8(), "int4": Int4()}


def layout() -> Layout:
    entries, offset = [], 0
    for name, shape, kind in CONTENT["layout"]:
        entries.append(Entry(name, tuple(shape), offset, kind, normalisation=kind == "statistic"))
        offset += entries[-1].size
    return Layout(tuple(entries))


LAYOUT = layout()


def mask(text: str) -> Positions:
    return positions_of(bytes.fromhex(text), LAYOUT, "golden")


def values(texts: list[str]) -> Tensor:
    return torch.tensor([float.fromhex(text) for text in texts])


@pytest.fixture(params=[True, False], ids=["package", "plain"])
def coder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(ans, "constriction", None)


@pytest.mark.usefixtures("coder")
@pytest.mark.parametrize("case", CONTENT["cases"], ids=lambda c: c["name"])
def test_a_message_says_what_it_said_when_it_was_written(case: dict[str, Any]) -> None:
    payload, codecs = bytes.fromhex(case["message"]), Codecs(CODECS[case["codec"]], Float32())
    declared = tuple(Signal(**signal) for signal in case["declared"])
    if case["direction"] == "down":
        memory = Memory(None if case["memory"] is None else mask(case["memory"]))
        model, t, signals, _ = decode_downlink(payload, memory, LAYOUT, codecs, declared)
        assert t == case["round"]
        assert model.trainable_at == mask(case["trainable"])
        assert model.frozen_at == mask(case["frozen"])
        assert torch.equal(model.values, values(case["values"]))
        check_signals(signals, case["signals"])
        return
    sent = GlobalModel(LAYOUT, values(case["base"]), mask(case["base_trainable"]).bits, Positions.none(LAYOUT).bits)
    form = UplinkForm(codecs, not case["only_signals"], case["own_masks"], signals=declared)
    upload = decode_uplink(payload, sent, case["client"], case["round"], form)
    assert [upload.report.samples, upload.report.loss, upload.report.accuracy] == case["report"]
    assert upload.at == mask(case["trainable"])
    parts = [part for part in (upload.weights, upload.parameters, upload.statistics) if part is not None]
    assert len(parts) == (0 if case["only_signals"] else 3)
    assert torch.equal(torch.cat([torch.empty(0), *parts]), values(case["values"]))
    check_signals(upload.signals, case["signals"])


def check_signals(found: Any, expected: dict[str, Any]) -> None:
    assert set(found) == set(expected)
    for name, signal in found.items():
        at = signal.at if isinstance(signal, Chosen) else signal if isinstance(signal, Positions) else None
        own = signal.values if isinstance(signal, Chosen) else signal if isinstance(signal, Tensor) else None
        assert (at is None) == (expected[name]["at"] is None)
        assert (own is None) == (expected[name]["values"] is None)
        assert at is None or at == mask(expected[name]["at"])
        assert own is None or torch.equal(own, values(expected[name]["values"]))


def test_every_coding_is_among_them() -> None:
    positions, formats, forms = set[int](), set[int](), set[str]()
    for case in CONTENT["cases"]:
        for tag, section in unpack(bytes.fromhex(case["message"])).sections.items():
            if name_of(tag).endswith("POSITIONS"):
                positions.add(section.coding)
            elif name_of(tag).endswith("VALUES"):
                formats.add(section.coding)
            elif tag >= FIRST_SIGNAL:
                forms.add(case["declared"][tag - FIRST_SIGNAL]["form"])
    assert positions == {0, 1, 2, 3, 4}
    assert {coding & 0x0F for coding in formats} == {1, 3, 4, 5, 6}
    assert forms == {"values", "positions", "chosen"}
    assert {coding & 0x30 for coding in formats} == {0x00, 0x10, 0x20, 0x30}


def messages_of(version: int) -> list[bytes]:
    """What was written down in an earlier version: one message, or a file like the present one."""
    if (FOLDER / f"version{version}.bin").exists():
        return [(FOLDER / f"version{version}.bin").read_bytes()]
    cases = json.loads((FOLDER / f"version{version}.json").read_text())["cases"]
    return [bytes.fromhex(case["message"]) for case in cases]


@pytest.mark.parametrize("version", range(1, VERSION))
def test_an_earlier_version_is_refused_by_its_number(version: int) -> None:
    for message in messages_of(version):
        with pytest.raises(WireError, match=f"version: expected {VERSION}, but got {version}"):
            unpack(message)
