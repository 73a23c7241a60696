"""The label of a run's method: the preset's name and what makes it an ablation."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from pffdst.config.choices import Choices, options_of
from pffdst.config.schema import groups
from pffdst.core.words import typed

__all__ = ["label_of"]


def label_of(cfg: DictConfig, choices: Choices) -> str:
    """`pffdst`, `pffdst freeze=none`, `pffdst readjust.schedule.interval=5`.

    Every group for which some method chooses an option belongs to the methods. If the option in force is not the one
    this method chooses (or, if it chooses none, the main yaml's), it is named, whether the command line or an
    experiment set it. So is a key of such a group that the command line sets to a value other than the option's.
    """
    name = "" if OmegaConf.is_missing(cfg, "method_name") else str(cfg.method_name)
    preset = choices.written("method", choices.chosen.get("method"))
    usual = choices.defaults() | options_of(preset)
    words = [name]
    several = {name for name, kind in groups().items() if kind.several}
    for group in choices.chosen_by("method"):
        if group in several:
            continue
        option = choices.chosen.get(group)
        if option != usual.get(group):
            words.append(f"{group}={typed(option)}")
        given = OmegaConf.merge(choices.written(group, option), preset.get(group) or {})
        words += _keys(group, cfg, given, choices)
    return " ".join(words)


def _keys(group: str, cfg: DictConfig, given: Any, choices: Choices) -> list[str]:
    found = []
    for key in sorted(key for key in choices.typed if key.startswith(f"{group}.")):
        value = OmegaConf.select(cfg, key)
        if value != OmegaConf.select(given, key.removeprefix(f"{group}.")):
            found.append(f"{key}={typed(value)}")
    return found
