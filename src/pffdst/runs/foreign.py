"""Text from elsewhere (a run's folder, its settings, its errors) as a terminal may show it."""

from __future__ import annotations

from rich.text import Text

from pffdst.core.words import shown

__all__ = ["foreign"]


def foreign(value: object) -> Text:
    """The text unchanged, never as markup; terminal control characters are escaped, as `\\x1b`.

    `.plain` is the same as a str, for output without rich.
    """
    return Text(shown(str(value)))
