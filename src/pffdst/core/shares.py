"""The whole part of a share of a count."""

from __future__ import annotations

import math
from fractions import Fraction

__all__ = ["whole_share"]


def whole_share(share: float, count: int) -> int:
    """floor(share * count), exact for the share as written: 0.29 of 100 is 29, which in floating point is 28."""
    return math.floor(Fraction(str(share)) * count)
