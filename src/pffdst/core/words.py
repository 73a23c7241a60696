"""Values and keys in words: as they are typed on the command line, and dotted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["dotted", "typed"]


def typed(value: Any) -> str:
    """A value as it is typed after `key=`: null, true, 0.1, [a,b]."""
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(typed, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def dotted(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one of dotted keys; an empty mapping inside it is a value."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            flat |= dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
