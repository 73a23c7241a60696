"""What is known about a run when its parts are asked for problems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

__all__ = ["NOTHING_KNOWN", "Checked", "Facts"]


@final
@dataclass(frozen=True)
class Facts:
    """The numbers of a run that a part may object to; None for those not known yet.

    `rounds` is R, `stage_lengths` the rounds of each stage, `clients` is C; `samples` counts the training images,
    `owners` the clients that the data themselves name (0 if they name none) and `size` is the images' side, known
    once the data are read (`size` earlier, if the dataset declares it); `device` is the engine's setting.
    `cohort` is K, `timed` whether there is a time model, `simulated` whether the engine simulates the clients;
    `figures` are the names in a row.
    """

    rounds: int | None = None
    stage_lengths: tuple[int, ...] | None = None
    samples: int | None = None
    owners: int | None = None
    clients: int | None = None
    size: int | None = None
    device: str | None = None
    cohort: int | None = None
    timed: bool | None = None
    simulated: bool | None = None
    figures: tuple[str, ...] | None = None

    @property
    def has_stages(self) -> bool:
        """Whether the run is known to have more than one stage."""
        return self.stage_lengths is not None and len(self.stage_lengths) > 1


NOTHING_KNOWN = Facts()


@runtime_checkable
class Checked(Protocol):
    """A part of a run that can report problems. It is asked before and after the data are read."""

    def problems(self, facts: Facts) -> list[str]:
        """Problems of a run with these facts, one sentence each, with what to write instead.

        A fact that is None is not known: nothing is reported about it.
        """
        ...
