"""How values are encoded: one file for each kind of codec, and the pair of codecs that a run uses."""

from __future__ import annotations

from typing import NamedTuple

from pffdst.wire.codecs.base import ValueCodec

__all__ = ["Codecs", "ValueCodec"]


class Codecs(NamedTuple):
    """The codecs of a run: `values` is the configured one, for trained and frozen weights; `exact` is for the rest.

    Biases, normalisation parameters and statistics are few, and stay exact.
    """

    values: ValueCodec
    exact: ValueCodec
