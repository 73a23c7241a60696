"""Values as bytes: exact where that is promised, else right on average and within a step; as many as due, finite."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard
from hydra.utils import instantiate
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from pffdst.wire.codecs import base as codecs_base
from pffdst.wire.codecs.base import COMPRESSED, DIFFERENCE, ValueCodec, blocks
from pffdst.wire.codecs.floats import BFloat16, Float16, Float32
from pffdst.wire.codecs.integers import Int4, Int8
from pffdst.wire.frame import Section, WireError

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "codec"
CODECS = [pytest.param(instantiate(OmegaConf.load(path)), id=path.stem) for path in sorted(CONFIGS.glob("*.yaml"))]
LOSSY = [p for p in CODECS if not p.values[0].exact]  # type: ignore[attr-defined]
DTYPES = {torch.float32: (32, torch.int32), torch.float64: (64, torch.int64)}


@st.composite
def vectors(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from(list(DTYPES)))
    number = st.floats(width=DTYPES[dtype][0], allow_nan=False, allow_infinity=False)  # type: ignore[arg-type]
    return torch.tensor(draw(st.lists(number, max_size=40)), dtype=dtype)


def normal(count: int, seed: int = 0, scale: float = 0.05) -> Tensor:
    return scale * torch.randn(count, generator=torch.Generator().manual_seed(seed))


# ---- exact ------------------------------------------------------------------------------------------------------


@given(vectors(), vectors(), st.sampled_from([0, 1, 3, 19]))
def test_exact_values_come_back_to_the_bit(values: Tensor, other: Tensor, level: int) -> None:
    """Alone, and as a difference to any other values."""
    codec, bits = Float32(level), DTYPES[values.dtype][1]
    for base in (None, torch.zeros_like(values).copy_(_fitted(other, values))):
        section = codec.encode(values, base=base)
        back = codec.decode(section, values.numel(), "X", base=base)
        assert back.dtype == values.dtype
        assert torch.equal(back.view(bits), values.view(bits))
        assert len(section.body) <= values.numel() * values.element_size()


def _fitted(other: Tensor, values: Tensor) -> Tensor:
    tiled = torch.cat([other.to(values.dtype), torch.zeros(values.numel(), dtype=values.dtype)])
    return torch.nan_to_num(tiled[: values.numel()], posinf=1.0, neginf=-1.0)


def planes(values: bytes, width: int) -> bytes:
    """The first bytes of all values, then their second bytes, and so on."""
    return b"".join(values[i::width] for i in range(width))


def test_the_bytes_are_little_endian_singles_in_planes() -> None:
    body = planes(struct.pack("<2f", 1.5, -2.0), 4)
    assert Float32(level=0).encode(torch.tensor([1.5, -2.0])) == Section(1, body)


def test_planes_are_compressed_each_where_that_pays() -> None:
    """A u32 before each: the length of its frame, or 0 where it stands as it is."""
    values = normal(4000)
    section, raw = Float32().encode(values), values.numpy().tobytes()
    at, kept = 0, []
    for i in range(4):
        (size,) = struct.unpack_from("<I", section.body, at)
        part = section.body[at + 4 : at + 4 + (size or 4000)]
        at += 4 + len(part)
        kept.append(size == 0)
        assert (zstandard.decompress(part) if size else part) == raw[i::4]
    assert at == len(section.body)
    assert section.coding == 1 | COMPRESSED
    assert kept == [True, True, True, False], "only sign and exponent of random numbers compress"


@pytest.mark.parametrize("scale", [1e-4, 1e-3, 1e-2, 1.0])
@pytest.mark.parametrize("count", [70_000, 800_000])
def test_what_pieces_of_a_plane_tell_costs_less_than_half_a_percent(
    count: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large planes are tried by pieces: noise is not compressed in vain, and what pays is, nearly always."""
    base = normal(count)
    values = base + normal(count, 1, scale)
    quick = Float32().encode(values, base=base)
    monkeypatch.setattr(codecs_base, "_LARGE", 1 << 40)
    whole = Float32().encode(values, base=base)
    assert len(whole.body) <= len(quick.body) < 1.005 * len(whole.body)
    assert torch.equal(Float32().decode(quick, count, "values", base=base), values)


def test_a_plane_of_noise_is_not_compressed_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    compressor = codecs_base._compressor

    class Watched:
        def __init__(self, *how: Any) -> None:
            self.how = how

        def compress(self, data: Any) -> bytes:
            tried.append(len(data))
            return compressor(*self.how).compress(data)  # type: ignore[no-any-return]

    monkeypatch.setattr(codecs_base, "_compressor", Watched)
    Float32().encode(normal(100_000))
    assert tried.count(100_000) == 1, "the plane of signs and exponents"
    assert max(set(tried) - {100_000}) <= 8192


def test_a_small_change_takes_fewer_bytes_than_the_values() -> None:
    base = normal(20_000)
    values = base + normal(20_000, 1, 1e-3)
    alone, changed, raw = (len(c.encode(values, base=b).body) for c, b in
                           ((Float32(), None), (Float32(), base), (Float32(level=0), base)))  # fmt: skip
    assert changed < 0.85 * alone < alone < raw == 80_000


# ---- lossy ------------------------------------------------------------------------------------------------------

STEPS = {BFloat16: 2.0**-7, Float16: 2.0**-10}


@pytest.mark.parametrize("codec", LOSSY)
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e20])
def test_an_error_is_at_most_a_step(codec: ValueCodec, scale: float) -> None:
    values = normal(3001, scale=scale)
    error = (codec.decode(codec.encode(values, seed=5), 3001, "X") - values).abs()
    assert bool((error <= steps_of(codec, values)).all())


def steps_of(codec: ValueCodec, values: Tensor) -> Tensor:
    """The distance of the two neighbours between which each value is rounded, or a little more."""
    if isinstance(codec, Int4 | Int8):
        blocks = torch.nn.functional.pad(values.abs(), (0, -len(values) % codec.block)).view(-1, codec.block)
        steps = (blocks.amax(1) / codec.most).repeat_interleave(codec.block)[: len(values)] * 1.008
        return steps + 2.0**-126  # below it scales have no bits left
    least = 2.0**-133  # of bf16's subnormal numbers
    return values.abs() * STEPS[type(codec)] * 1.0001 + values.abs().max() * 2.0**-25 + least


@pytest.mark.parametrize("codec", LOSSY)
def test_the_error_is_zero_on_average(codec: ValueCodec) -> None:
    values, draws = normal(500), 400
    decoded = torch.stack([codec.decode(codec.encode(values, seed=s), 500, "X") for s in range(draws)])
    assert float((decoded.std(dim=0) > 0).float().mean()) > 0.9, "it rounds at random"
    error = (decoded.mean(dim=0) - values) / (steps_of(codec, values) / 2 / draws**0.5)
    assert float(error.abs().max()) < 5
    assert abs(float(error.mean())) < 5 / 500**0.5


@pytest.mark.parametrize("codec", LOSSY)
def test_rounding_is_named_by_its_seed(codec: ValueCodec) -> None:
    values = normal(100)
    assert codec.encode(values, seed=1) == codec.encode(values, seed=1)
    assert codec.encode(values, seed=1) != codec.encode(values, seed=2)


@pytest.mark.parametrize("codec", LOSSY)
def test_a_difference_is_rounded_in_steps_of_the_change(codec: ValueCodec) -> None:
    base = normal(4000)
    values = base + normal(4000, 1, 1e-4)
    errors = [
        float((codec.decode(codec.encode(values, seed=3, base=b), 4000, "X", base=b) - values).abs().mean())
        for b in (None, base)
    ]
    assert errors[1] < errors[0] / 20


@pytest.mark.parametrize(("codec", "most"), [(BFloat16(), 2.0), (Float16(), 2.0), (Int8(), 1.0), (Int4(block=64), 0.5)])
def test_a_value_takes_no_more_than_its_bits(codec: ValueCodec, most: float) -> None:
    values = normal(10_000)
    for level in (0, 3):
        codec.level = level
        assert len(codec.encode(values).body) <= most * 10_000 + 2 + 2 * (10_000 // 64 + 1)


@pytest.mark.parametrize("codec", LOSSY)
def test_zeros_stay_zeros(codec: ValueCodec) -> None:
    values = torch.zeros(300)
    assert torch.equal(codec.decode(codec.encode(values, seed=1), 300, "X"), values)


def test_what_is_representable_is_not_changed() -> None:
    values = torch.arange(-127.0, 128.0)
    assert torch.equal(Int8(block=255).decode(Int8(block=255).encode(values, seed=3), 255, "X"), values)
    halves = torch.tensor([1.5, -2.0, 0.0, 96.0])
    for codec in (BFloat16(), Float16()):
        assert torch.equal(codec.decode(codec.encode(halves, seed=3), 4, "X"), halves)


def test_a_block_has_a_scale_of_its_own() -> None:
    values = torch.cat([normal(64, scale=100.0), normal(64, scale=1e-6)])
    codec = Int8(block=64)
    error = (codec.decode(codec.encode(values), 128, "X") - values).abs()
    assert error[64:].max() < 1e-6 * 4 / 127 * 1.02


def test_the_integers_are_laid_out_as_documented() -> None:
    four, eight = Int4(block=4, level=0), Int8(block=2, level=0)
    body = b"\x04\x00" + struct.pack("<H", 0x3F80) + bytes([0x71, 0x8F])
    assert four.encode(torch.tensor([1.0, 7.0, -1.0])) == Section(6, body)
    scales = planes(struct.pack("<2H", 0x3F80, 0x4000), 2)
    assert eight.encode(torch.tensor([127.0, -3.0, 254.0])) == Section(5, b"\x02\x00" + scales + bytes([127, 253, 127]))


@pytest.mark.parametrize("kind", [Int4, Int8])
@pytest.mark.parametrize("block", [0, -1, 65536])
def test_a_block_length_out_of_range_is_refused(kind: type[Int8], block: int) -> None:
    with pytest.raises(ValueError, match=r"codec\.block"):
        kind(block)


@pytest.mark.parametrize("level", [-1, 20])
def test_a_compression_level_out_of_range_is_refused(level: int) -> None:
    with pytest.raises(ValueError, match=r"codec\.level"):
        Float32(level)


# ---- all --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("formats", [None, (), (0,), (10, 16)])
def test_a_codec_without_formats_that_fit_is_refused(formats: tuple[int, ...] | None) -> None:
    methods = dict.fromkeys(("write", "planes", "read"))
    own = type("Own", (ValueCodec,), methods if formats is None else {**methods, "formats": formats})
    with pytest.raises(ValueError, match=r"Own: name its formats, e.g. formats = \(10,\)"):
        own()


@pytest.mark.parametrize("codec", CODECS)
def test_a_view_with_gaps_is_sent_as_what_it_shows(codec: ValueCodec) -> None:
    values = torch.arange(-7.0, 7.0)[::7]
    assert torch.allclose(codec.decode(codec.encode(values), 2, "X"), values, atol=1.1)


@pytest.mark.parametrize("codec", CODECS)
def test_what_comes_back_can_be_written_to(codec: ValueCodec) -> None:
    section = codec.encode(torch.ones(3))
    first = codec.decode(section, 3, "X").clone()
    codec.decode(section, 3, "X").zero_()
    assert torch.equal(codec.decode(section, 3, "X"), first)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused(codec: ValueCodec, value: float) -> None:
    values = torch.tensor([1.0, value, 2.0])
    for base in (None, torch.ones(3)):
        with pytest.raises(WireError, match="PLACE: a value is not finite"):
            codec.decode(codec.encode(values, base=base), 3, "PLACE", base=base)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("count", [0, 1, 7, 300])
def test_another_number_of_values_is_refused(codec: ValueCodec, count: int) -> None:
    section = codec.encode(normal(count))
    for due in (count - 1, count + 1, 10 * count + 9):
        if due >= 0:
            with pytest.raises(WireError, match="PLACE: "):
                codec.decode(section, due, "PLACE")


@pytest.mark.parametrize("codec", CODECS)
def test_a_difference_needs_what_it_is_added_to(codec: ValueCodec) -> None:
    section = codec.encode(normal(20), base=normal(20, 1))
    assert section.coding & DIFFERENCE
    with pytest.raises(WireError, match="PLACE: a difference was sent"):
        codec.decode(section, 20, "PLACE")


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("other", CODECS)
def test_the_codec_of_another_run_is_refused(codec: ValueCodec, other: ValueCodec) -> None:
    if codec is not other:
        with pytest.raises(WireError, match="PLACE: value coding"):
            codec.decode(other.encode(normal(20)), 20, "PLACE")


@pytest.mark.parametrize("codec", CODECS)
def test_a_frame_that_promises_too_much_is_refused_before_it_is_opened(codec: ValueCodec) -> None:
    """A bomb of a few hundred bytes that would decompress to a gigabyte."""
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 30))
    assert len(bomb) < 1 << 17
    form = codec.formats[0]
    head = b"\x40\x00"[: codec.head_bytes(form)]
    body = head + struct.pack("<I", len(bomb)) + bomb
    with pytest.raises(WireError, match="PLACE: a frame of 1073741824 bytes"):
        codec.decode(Section(form | COMPRESSED, body), 1000, "PLACE")


@pytest.mark.parametrize("codec", CODECS)
@given(
    count=st.integers(0, 5), flags=st.sampled_from([0, COMPRESSED, DIFFERENCE, 0x30, 0x80]), body=st.binary(max_size=48)
)
def test_any_bytes_are_values_or_an_error(codec: ValueCodec, count: int, flags: int, body: bytes) -> None:
    for content in (body, zstandard.compress(body)):
        try:
            values = codec.decode(Section(codec.formats[0] | flags, content), count, "X", base=torch.zeros(count))
        except WireError:
            continue
        assert values.shape == (count,)
        assert bool(torch.isfinite(values).all())
        assert np.isfinite(values.numpy()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("over", [-1, 0, 1])
def test_values_of_more_than_a_block_come_back_to_the_bit(dtype: torch.dtype, over: int) -> None:
    count = 2 * next(blocks(10**9)).stop + over
    values = torch.randn(count, generator=torch.Generator().manual_seed(0), dtype=dtype)
    base = values.flip(0)
    codec = Float32()
    for held in (None, base):
        section = codec.encode(values, base=held)
        assert torch.equal(codec.decode(section, count, "values", base=held), values)
        _, _, planes = codec.write(values, held, 0)
        assert [len(plane) for plane in planes] == [count] * values.itemsize
        assert all(plane.flags.c_contiguous for plane in planes)


# ---- the ends of the range --------------------------------------------------------------------------------------

MOST = torch.finfo(torch.float32).max


def _single(value: float) -> float:
    return float(np.float32(value))


def floats() -> st.SearchStrategy[float]:
    """Any finite single, most of them where the range ends."""
    number = st.floats(width=32, allow_nan=False, allow_infinity=False)
    return st.one_of(number, st.floats(MOST * 0.75, MOST).map(_single), st.floats(-MOST, -MOST * 0.45).map(_single))


@pytest.mark.parametrize("codec", CODECS)
@given(
    pairs=st.lists(st.tuples(floats(), floats()), min_size=1, max_size=300), seed=st.integers(0, 99), held=st.booleans()
)
@example([(2.4629950484174434e-39, 0.0)], 0, False)
def test_what_is_finite_decodes_finite_to_the_ends_of_the_range(
    codec: ValueCodec, pairs: list[tuple[float, float]], seed: int, held: bool
) -> None:
    """Alone and as a difference to any finite values, however it is rounded; within half of the range to a step."""
    values, base = (torch.tensor(column) for column in zip(*pairs, strict=True))
    section = codec.encode(values, seed=seed, base=base if held else None)
    back = codec.decode(section, len(values), "X", base=base if held else None)  # which refuses what is not finite
    if not codec.exact and not held:
        near = values.clamp(-MOST / 2, MOST / 2)
        assert bool(((back.double() - near).abs() <= steps_of(codec, near.double())).all())


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("held", [False, True])
def test_what_is_not_finite_is_not_made_so(codec: ValueCodec, value: float, held: bool) -> None:
    """A client that diverged must not come back with the largest of numbers."""
    values, base = torch.tensor([1.0, value, 2.0]), torch.tensor([3.0, -MOST, MOST]) if held else None
    with pytest.raises(WireError, match="not finite"):
        codec.decode(codec.encode(values, base=base), 3, "X", base=base)
