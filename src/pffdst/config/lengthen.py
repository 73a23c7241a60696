"""`resume=RUN rounds=MORE`: whether a run may be extended, and what to write if it may not be as it stands.

An extended run must equal one started with that many rounds: nothing in the finished rounds may depend on the length,
or the settings that do must be written so that the result is the same.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, final

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from pffdst.config.identity import ABSENT, changed
from pffdst.core.model import Stage
from pffdst.methods.freeze.base import FreezeSchedule
from pffdst.methods.local.lr_schedule import LearningRateSchedule
from pffdst.methods.method import stage_of
from pffdst.methods.rule import Rule

__all__ = ["lengthening"]

_FREE = ("rounds", "freeze.", "readjust.schedule.", "lr_schedule.")
_COUNTS = (10**6,)  # weights of one layer; a stage's weight count does not depend on the rounds


@final
@dataclass(frozen=True)
class _Course:
    """The parts of a run that depend on its length."""

    rounds: int
    lr: float
    lr_schedule: LearningRateSchedule
    freeze: FreezeSchedule
    readjust: Rule
    updates: Rule

    @staticmethod
    def of(cfg: DictConfig) -> _Course:
        made = (instantiate(cfg[name]) for name in ("lr_schedule", "freeze", "readjust", "updates"))
        return _Course(cfg.rounds, cfg.lr, *made)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.freeze.stages(self.rounds, _COUNTS)

    def lr_at(self, t: int) -> float:
        return self.lr_schedule.at(self.lr, t, self.rounds)

    def moves_at(self, t: int) -> tuple[Any, ...]:
        """Whether the mask moves in round t, how much of it, and whether it is fixed by then."""
        stage, schedule = stage_of(self.stages, t), getattr(self.readjust, "schedule", None)
        course = () if schedule is None else (schedule.due(stage, t), schedule.decay(stage, t))
        return (*course, t < self.readjust.exploration_end(stage))


def lengthening(saved: Mapping[str, Any], cfg: DictConfig) -> list[str] | None:
    """Why the run of the resolved configuration `saved` cannot continue as the longer run of `cfg`.

    None if the two differ in more than the length: they are different runs. From `saved`, which comes from the run's
    folder, only numbers are used.
    """
    now: Any = OmegaConf.to_container(cfg, resolve=True)
    differing = changed(saved, now)
    before = differing.get("rounds", (None, None))[0]
    if type(before) is not int or not 0 < before < cfg.rounds:
        return None
    if not all(key.startswith(_FREE) and _is_plain(old) for key, (old, _) in differing.items()):
        return None
    shorter = copy.deepcopy(cfg)
    with open_dict(shorter):
        for key, (old, _) in differing.items():
            path, _, name = key.rpartition(".")
            node = OmegaConf.select(shorter, path) if path else shorter
            if old is ABSENT:
                del node[name]
            else:
                node[name] = old
    return list(_problems(_Course.of(shorter), _Course.of(cfg)))


def _is_plain(value: Any) -> bool:
    return value is None or value is ABSENT or type(value) in (int, float)


def _problems(old: _Course, new: _Course) -> Iterator[str]:
    """The problems: one that cannot be solved, or all that can, each with what to write."""
    for group in ("readjust", "updates"):
        if not getattr(new, group).any_length:
            yield f"{group}: what it does in a round depends on the length of the run: start a new run"
            return
    lines, hopeless = [], "; start a new run"
    begun = [stage.start for stage in new.stages if stage.start < old.rounds]
    wanted = [stage.start for stage in old.stages]
    if begun != wanted:
        starts, at = _listed([stage.start for stage in new.stages]), _at(new, wanted)
        moved = None if at is None else replace(new, freeze=_beginning(new.freeze, at))
        fits = moved is not None and [stage.start for stage in moved.stages if stage.start < old.rounds] == wanted
        told = f"stages would have started in round {starts}, not {_listed(wanted)}"
        if moved is None or not fits:
            yield f"{told}{hopeless}"
            return
        lines, new = [f"{told}: write freeze.at={at:.10g}"], moved
    played = range(old.rounds)
    if (other := next((t for t in played if old.lr_at(t) != new.lr_at(t)), None)) is not None:
        told = (
            f"lr_schedule: the learning rate of round {other + 1} was {old.lr_at(other):.4g} and would have been "
            f"{new.lr_at(other):.4g}: only a schedule that does not end with the run can be extended"
        )
        if not hasattr(old.lr_schedule, "horizon"):
            yield told
            return
        lines.append(f"{told}: write lr_schedule.horizon={old.rounds}")
    if (other := next((t for t in played if old.moves_at(t) != new.moves_at(t)), None)) is not None:
        told = (
            f"readjust.schedule: from round {other + 1} on, the mask would have moved differently, since the schedule "
            "is a share of the stage"
        )
        ends = {float(old.readjust.schedule.end(stage)) for stage in old.stages}  # type: ignore[attr-defined]
        if len(ends) != 1:
            yield f"{told}{hopeless}"
            return
        lines.append(f"{told}: write readjust.schedule.rounds={ends.pop():.10g}")
    yield from lines


def _beginning(freeze: FreezeSchedule, at: float) -> FreezeSchedule:
    """The schedule with another `at`."""
    other = copy.copy(freeze)
    object.__setattr__(other, "at", at)  # it may be frozen
    return other


def _listed(starts: list[int]) -> str:
    return ", ".join(str(start + 1) for start in starts)


def _at(new: _Course, wanted: list[int]) -> float | None:
    """The `freeze.at` with which stage 2 starts where it did."""
    if not hasattr(new.freeze, "at") or len(wanted) != 2:
        return None
    return math.ceil(Fraction(wanted[1], new.rounds) * 10**6) / 10**6
