"""Text from elsewhere (a run's folder, its settings, its errors) as a terminal may show it."""

from __future__ import annotations

import unicodedata

from rich.text import Text

__all__ = ["foreign"]

# Of Unicode's categories: control characters, marks that turn the direction of a line, lone surrogates, unassigned
# ones, separators of lines.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def foreign(value: object) -> Text:
    """The text as it is, never markup; what would steer the terminal is written out, as `\\x1b`.

    `.plain` is the same as a str, for what is not printed with rich.
    """
    return Text("".join(_shown(letter) for letter in str(value)))


def _shown(letter: str) -> str:
    if unicodedata.category(letter) not in _HIDDEN:
        return letter
    return letter.encode("unicode_escape").decode()
