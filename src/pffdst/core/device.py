"""A client's link and device, and how long work takes on them: the only formula for modelled time."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["USUAL", "Device"]


class Device(NamedTuple):
    """A client's link in Mbit/s (10^6 bits), `up` and `down`, and its device in GFLOP/s (10^9)."""

    up: float
    down: float
    flops: float

    def seconds(self, *, down: float = 0, flops: float = 0, up: float = 0) -> float:
        """The time for the given bytes down, operations and bytes up, one after the other."""
        return 8 * down / (1e6 * self.down) + flops / (1e9 * self.flops) + 8 * up / (1e6 * self.up)


USUAL: Final = Device(up=1.0, down=10.0, flops=10.0)
"""The device used for modelled time if none is set: the defaults of `time=links`."""
