import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pffdst.metrics.units import format_bytes, format_flops, format_percent, format_seconds

SCALE = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (12_345, "12.3 kB"), (999_949, "1.00 MB"), (35.73e9, "35.7 GB")],
)
def test_bytes_are_decimal(count, text):
    assert format_bytes(count) == text


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**18))
def test_bytes_read_back_to_three_digits(count):
    number, unit = format_bytes(count).split()
    assert float(number) * SCALE[unit] == pytest.approx(count, rel=0.0051)
    assert float(number) < 1000 or unit == "PB"


def test_flops():
    assert format_flops(0) == "0 FLOP"
    assert format_flops(1.2e15) == "1.20 PFLOP"
    assert format_flops(555.4e6) == "555 MFLOP"


def test_percent():
    assert format_percent(0.912349) == "91.23 %"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (4.25, "4.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1:00"),
        (3599.7, "1:00:00"),
        (7384, "2:03:04"),
    ],
)
def test_seconds(seconds, text):
    assert format_seconds(seconds) == text
