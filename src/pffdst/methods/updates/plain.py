"""Nothing besides training: a client sends what it trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from pffdst.methods.rule import Rule

__all__ = ["Plain"]


@final
@dataclass(frozen=True)
class Plain(Rule):
    """Every hook does nothing."""

    any_length: ClassVar[bool] = True
