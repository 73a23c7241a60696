"""No readjustment: the mask drawn at a stage's start is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from pffdst.methods.rule import Rule

__all__ = ["Static"]


@final
@dataclass(frozen=True)
class Static(Rule):
    """`random_mask` without freezing, FedAvg with a dense allocation."""

    any_length: ClassVar[bool] = True
