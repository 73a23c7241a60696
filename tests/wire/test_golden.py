"""Messages written down once are read the same for ever: what another implementation can be held to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pffdst.wire.values import BFloat16, Float16, Float32, Int4, Int8
from torch import Tensor

from pffdst.core.model import Entry, GlobalModel, Layout
from pffdst.wire import ans
from pffdst.wire.downlink import Memory, decode_downlink
from pffdst.wire.frame import VERSION, WireError, unpack
from pffdst.wire.positions import from_bitmap
from pffdst.wire.uplink import decode_uplink

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


def mask(text: str) -> Tensor:
    return from_bitmap(bytes.fromhex(text), LAYOUT.maskable, "golden")


def values(texts: list[str]) -> Tensor:
    return torch.tensor([float.fromhex(text) for text in texts])


@pytest.fixture(params=[True, False], ids=["package", "plain"])
def coder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(ans, "constriction", None)


@pytest.mark.usefixtures("coder")
@pytest.mark.parametrize("case", CONTENT["cases"], ids=lambda c: c["name"])
def test_a_message_says_what_it_said_when_it_was_written(case: dict[str, Any]) -> None:
    payload, codec = bytes.fromhex(case["message"]), CODECS[case["codec"]]
    if case["direction"] == "down":
        memory = Memory(None if case["memory"] is None else bytes.fromhex(case["memory"]))
        model, t = decode_downlink(payload, memory, LAYOUT, codec)
        assert t == case["round"]
        assert torch.equal(model.trainable, mask(case["trainable"]))
        assert torch.equal(model.frozen, mask(case["frozen"]))
        assert torch.equal(model.values, values(case["values"]))
        return
    nothing = torch.zeros(LAYOUT.maskable, dtype=torch.bool)
    sent = GlobalModel(LAYOUT, values(case["base"]), mask(case["base_trainable"]), nothing)
    upload = decode_uplink(payload, sent, case["client"], case["round"], codec, moved=case["moved"], statistics=True)
    assert [upload.report.samples, upload.report.loss, upload.report.accuracy] == case["report"]
    assert torch.equal(upload.trainable, mask(case["trainable"]))
    assert upload.statistics is not None
    assert torch.equal(torch.cat([upload.weights, upload.parameters, upload.statistics]), values(case["values"]))


def test_every_coding_is_among_them() -> None:
    positions, formats = set[int](), set[int]()
    for case in CONTENT["cases"]:
        for tag, section in unpack(bytes.fromhex(case["message"])).sections.items():
            if tag.name.endswith("POSITIONS"):
                positions.add(section.coding)
            elif tag.name.endswith("VALUES"):
                formats.add(section.coding)
    assert positions == {0, 1, 2, 3, 4}
    assert {coding & 0x0F for coding in formats} == {1, 3, 4, 5, 6}
    assert {coding & 0x30 for coding in formats} == {0x00, 0x10, 0x20, 0x30}


@pytest.mark.parametrize("version", range(1, VERSION))
def test_an_earlier_version_is_refused_by_its_number(version: int) -> None:
    with pytest.raises(WireError, match=f"version: expected {VERSION}, but got {version}"):
        unpack((FOLDER / f"version{version}.bin").read_bytes())
