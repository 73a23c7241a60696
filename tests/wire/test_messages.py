"""The frame: what was packed comes out, and no other bytes do."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from pffdst.core.model import Layout
from pffdst.wire.frame import (
    FIRST_SIGNAL,
    MAGIC,
    VERSION,
    Kind,
    Message,
    Section,
    Tag,
    WireError,
    layout_digest,
    pack,
    unpack,
)

TAGS = [*map(int, Tag), *range(FIRST_SIGNAL, FIRST_SIGNAL + 64)]
sections = st.dictionaries(
    st.sampled_from(TAGS), st.builds(Section, st.integers(0, 255), st.binary(max_size=50)), max_size=len(Tag)
)
u32, rounds = st.integers(0, 2**32 - 1), st.integers(-(2**31), 2**31 - 1)
messages = st.builds(Message, st.sampled_from(list(Kind)), rounds, u32, u32, sections)
MESSAGE = Message(Kind.UPLINK, 7, 3, 99, {Tag.REPORT: Section(0, b"abc"), Tag.PARAMETERS: Section(1, b"defgh")})


def framed(
    magic: bytes = MAGIC, version: int = VERSION, kind: int = 2, count: int | None = None, tail: bytes = b""
) -> bytes:
    """A frame of one section with a right checksum, whatever else is wrong with it."""
    head = struct.pack("<4sBBHiII", magic, version, kind, 1 if count is None else count, 7, 3, 99)
    rest = struct.pack("<BBHI", Tag.REPORT, 0, 0, 3) + b"abc" if count is None else b""
    return checksummed(head, rest + tail)


def checksummed(head: bytes, rest: bytes) -> bytes:
    checksum = xxhash.xxh3_64_intdigest(rest, seed=xxhash.xxh3_64_intdigest(head))
    return head + struct.pack("<Q", checksum) + rest


def with_sections(*heads: tuple[int, int, int, int], body: bytes) -> bytes:
    head = struct.pack("<4sBBHiII", MAGIC, VERSION, 2, len(heads), 7, 3, 99)
    return checksummed(head, b"".join(struct.pack("<BBHI", *h) for h in heads) + body)


@given(messages)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    back = unpack(pack(message))
    assert back == message
    assert list(back.sections) == list(message.sections)


@given(messages)
def test_a_message_is_as_long_as_its_header_and_bodies(message: Message) -> None:
    bodies = sum(len(s.body) for s in message.sections.values())
    assert len(pack(message)) == 28 + 8 * len(message.sections) + bodies


def test_the_frame_is_as_documented() -> None:
    assert pack(replace(MESSAGE, sections={Tag.REPORT: Section(0, b"abc")})) == framed()
    assert unpack(framed()).section(Tag.REPORT).body == b"abc"


@pytest.mark.parametrize("t", [-(2**31), -7, -1, 0, 2**31 - 1])
def test_a_round_before_the_first_has_a_negative_number(t: int) -> None:
    payload = pack(replace(MESSAGE, t=t))
    assert payload[8:12] == t.to_bytes(4, "little", signed=True)
    assert unpack(payload).t == t


@given(messages, st.data())
def test_a_message_cut_short_is_an_error(message: Message, data: st.DataObject) -> None:
    payload = pack(message)
    with pytest.raises(WireError):
        unpack(payload[: data.draw(st.integers(0, len(payload) - 1))])


@given(messages, st.binary(min_size=1, max_size=9))
def test_bytes_too_many_are_an_error(message: Message, more: bytes) -> None:
    with pytest.raises(WireError):
        unpack(pack(message) + more)


def test_every_byte_of_a_message_counts() -> None:
    payload = pack(MESSAGE)
    for at in range(len(payload)):
        for other in range(256):
            damaged = payload[:at] + bytes((other,)) + payload[at + 1 :]
            if damaged != payload:
                with pytest.raises(WireError):
                    unpack(damaged)


@given(st.binary(max_size=100))
def test_no_random_bytes_are_a_message(noise: bytes) -> None:
    for payload in (noise, MAGIC + noise, pack(MESSAGE)[:28] + noise):
        with pytest.raises(WireError):
            unpack(payload)


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (b"", "header"),
        (framed(magic=b"PKL\x80"), "magic"),
        (framed(version=2), "version: expected 3, but got 2"),
        (framed(kind=0), "kind"),
        (framed(kind=3), "kind"),
        (framed(count=1), "sections: 1"),
        (framed(count=65535), "sections: 65535"),
        (framed(tail=b"x"), "length: 1 bytes follow"),
        (with_sections((0, 0, 0, 0), body=b""), "tag 0"),
        (with_sections((13, 0, 0, 0), body=b""), "tag 13 "),
        (with_sections((63, 0, 0, 0), body=b""), "tag 63"),
        (with_sections((128, 0, 0, 0), body=b""), "tag 128"),
        (with_sections((66, 0, 0, 4), body=b"abc"), "SIGNAL 2: length 4 runs past"),
        (with_sections((Tag.REPORT, 0, 1, 0), body=b""), "badly padded"),
        (with_sections((Tag.REPORT, 0, 0, 1), (Tag.REPORT, 0, 0, 1), body=b"ab"), "repeated"),
        (with_sections((Tag.REPORT, 0, 0, 4), body=b"abc"), "REPORT: length 4 runs past"),
        (with_sections((Tag.REPORT, 0, 0, 2**32 - 1), body=b"abc"), "runs past"),
    ],
)
def test_what_is_wrong_is_named_though_the_checksum_is_right(payload: bytes, field: str) -> None:
    with pytest.raises(WireError, match=field):
        unpack(payload)


def test_a_section_that_is_not_there_is_named() -> None:
    with pytest.raises(WireError, match="STATISTICS"):
        MESSAGE.section(Tag.STATISTICS)
    with pytest.raises(WireError, match="SIGNAL 3"):
        MESSAGE.section(FIRST_SIGNAL + 3)


def test_models_that_differ_in_a_name_a_kind_or_a_shape_have_other_digests(layout: Layout) -> None:
    first = layout.entries[0]
    others = [replace(first, name="z"), replace(first, shape=(5, 4)), replace(first, kind="parameter")]
    digests = {layout_digest(Layout((other, *layout.entries[1:]))) for other in (first, *others)}
    assert len(digests) == 4
