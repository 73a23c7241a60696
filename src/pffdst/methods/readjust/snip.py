"""SNIP (Lee et al., ICLR 2019) before federated training, and SSFL (TMLR 2026), which is SNIP with other settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from pffdst.core.model import Stage
from pffdst.methods.readjust.scored import Scored
from pffdst.methods.rule import ClientTurn

__all__ = ["Snip"]


@final
@dataclass
class Snip(Scored):
    """Connection sensitivity: the score of a weight is |dL/dw w|, L the mean loss of one batch, without any step.

    `score_mode`: normalisation layers in inference mode (`eval`) or as in training (`train`); running statistics are
    not changed.
    """

    score_mode: Literal["eval", "train"] = "eval"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score_mode not in ("eval", "train"):
            raise ValueError(f"Expected `readjust.score_mode` to be eval or train, but got {self.score_mode!r}")

    def probes(self, stage: Stage, t: int) -> int:
        """One dense batch in round -1."""
        return int(t == -1)

    def score(self, turn: ClientTurn) -> Tensor:
        """|g w|."""
        return (turn.gradient("score", training=self.score_mode == "train") * turn.values()).abs()
