"""Values and keys as text: as typed on the command line, and dotted."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

__all__ = ["counted", "dotted", "one_line", "shown", "typed"]

# Unicode categories: control characters, marks that change the text direction, lone surrogates, unassigned code
# points, line separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def shown(text: str, keep: str = "") -> str:
    """Text that is safe to show on a terminal: control characters are escaped, as `\\x1b`, except those in `keep`."""
    return "".join(letter if letter in keep else _shown(letter) for letter in text)


def _shown(letter: str) -> str:
    if unicodedata.category(letter) not in _HIDDEN:
        return letter
    return letter.encode("unicode_escape").decode()


def one_line(said: object, most: int | None = None) -> str:
    """The text of an error or a file on one line of at most `most` characters."""
    return " ".join(str(said).split())[:most]


def typed(value: Any) -> str:
    """A value as it is typed after `key=`: null, true, 0.1, [a,b]."""
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(typed, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def counted(number: Any, noun: str) -> str:
    """1 round, 2 rounds."""
    return f"{number} {noun}" if str(number) == "1" else f"{number} {noun}s"


def dotted(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one of dotted keys; an empty mapping inside it is a value."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            flat |= dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
