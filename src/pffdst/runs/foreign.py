"""Text from elsewhere (a run's folder, its settings, its errors) as a terminal may show it."""

from __future__ import annotations

from rich.text import Text

from pffdst.core.words import shown

__all__ = ["foreign"]


def foreign(value: object) -> Text:
    """The text as it is, never markup; what would steer the terminal is written out, as `\\x1b`.

    `.plain` is the same as a str, for what is not printed with rich.
    """
    return Text(shown(str(value)))
