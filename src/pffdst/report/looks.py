"""One hue per method, on every page and in every picture, whatever else it is compared with."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

__all__ = ["HUES", "PART_HUES", "hues_of"]

# As distinguishable for the colour-blind as twelve hues can be; page/state.js has matching ones for a dark page.
HUES = (
    "#c2410c",
    "#0a63a8",
    "#007a5a",
    "#9c3587",
    "#8a6500",
    "#4a5568",
    "#0b7f96",
    "#8f1d3f",
    "#5b4bc4",
    "#4d7c0f",
    "#7c4a2d",
    "#c02679",
)
# Of the parts of a message, on a light and on a dark page.
PART_HUES = {
    "values": ("#2f6fa7", "#6aa9de"),
    "mask": ("#d98200", "#f0b040"),
    "frozen": ("#3f8f77", "#58b99b"),
    "catch_up": ("#a84a86", "#d987bb"),
    "dense": ("#8d8d86", "#9a9a94"),
    "signals": ("#b3412f", "#e8806f"),
    "state": ("#7a5bb5", "#a58be0"),
    "header": ("#30343b", "#e6e6e2"),
}
_KNOWN = ("pffdst", "feddst", "fedavg", "random_mask", "fedprox", "static")
_RELATIVES = {"pffdst_lean": 11, "pffdst_paper": 7, "feddst_prox": 8, "fedavgm": 9}


def hues_of(methods: Iterable[str]) -> dict[str, int]:
    """An index into HUES by method name.

    The package's methods have fixed indices. Any other method gets one from its name, or the next free one if that is
    taken; beyond twelve methods indices are shared.
    """
    found = {name: i for i, name in enumerate(_KNOWN)} | _RELATIVES
    present = sorted(set(methods))
    taken = {found[name] for name in present if name in found}
    for name in present:
        if name not in found:
            wished = zlib.crc32(name.encode()) % len(HUES)
            places = [(wished + step) % len(HUES) for step in range(len(HUES))]
            found[name] = next((place for place in places if place not in taken), wished)
            taken.add(found[name])
    return {name: found[name] for name in present}
