"""Every problem of a configuration in one message, before any work is done."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, final

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pffdst.config.choices import Origin
from pffdst.config.ranges import range_problems
from pffdst.config.constructors import TargetError, accepted_keys, key_problems, locate, own_keys, targets_in
from pffdst.core.errors import UserError

__all__ = ["GROUPS", "ConfigError", "check", "problems_of", "tidy"]

GROUPS = (
    "dataset",
    "partition",
    "model",
    "allocation",
    "readjust",
    "freeze",
    "aggregation",
    "codec",
    "engine",
    "participation",
)
"""The groups whose node is one `_target_` with its keys."""

# A model costs time to make and a logger opens files: only their keys are looked at.
_MADE = ("dataset", "partition", "allocation", "readjust", "freeze", "aggregation", "codec", "engine", "participation")


@final
class ConfigError(UserError):
    """A configuration that cannot be run; `problems` has one line for each reason."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(list(problems))
        self.problems = list(problems)

    def __str__(self) -> str:
        count = len(self.problems)
        head = f"{count} problem{'s' if count != 1 else ''} in the configuration:"
        return "\n".join([head, *(f"  - {line}" for line in self.problems)])


def check(cfg: DictConfig) -> None:
    """Refuses a configuration that cannot run.

    Raises:
        ConfigError: with every problem found, each naming the key, the value, the requirement and what to write.
    """
    found = problems_of(cfg, Origin.current())
    if found:
        raise ConfigError(found)


def tidy(cfg: DictConfig, origin: Origin) -> DictConfig:
    """The configuration without keys that a preset set for an option that was then not chosen.

    `experiment=lenet_cifar10 partition=iid` leaves the experiment's `partition.alpha` beside an option that has none.
    Only a key that another option of the group is written with is left out, so a misspelt one still comes to light,
    and never one that the command line names.
    """
    strays = {group: found for group in GROUPS if (found := _strays(group, cfg, origin))}
    kept = copy.deepcopy(cfg) if strays else cfg
    for group, keys in strays.items():
        with open_dict(kept[group]):
            for key in keys:
                del kept[group][key]
    return kept


def problems_of(cfg: DictConfig, origin: Origin) -> list[str]:
    """All problem lines of a configuration, in the order a reader would fix them."""
    missing, unresolved = _open_ends(cfg)
    lines = [f"{key} is missing; write {key}=..." for key in missing] + range_problems(cfg)
    if unresolved:
        return lines + [f"{key}: {reason}; write {key}=..." for key, reason in unresolved.items()]
    targets, found = _targets(cfg)
    return list(dict.fromkeys([*lines, *found, *_fit(cfg, targets, origin), *_hooks(cfg, targets, origin)]))


def _strays(group: str, cfg: DictConfig, origin: Origin) -> list[str]:
    node = None if OmegaConf.is_missing(cfg, group) else cfg.get(group)
    accepted = _accepted(node)
    if node is None or accepted is None:
        return []
    refused = [key for key in own_keys(node) if key not in accepted and f"{group}.{key}" not in origin.given]
    if not refused:
        return []  # reading the other options takes time, and there is seldom a reason to
    options = origin.options(group)
    own = own_keys(options.pop(str(origin.choices.get(group)), OmegaConf.create({})))
    written = {key for option in options.values() for key in own_keys(option)}.difference(own)
    return [key for key in refused if key in written]


def _accepted(node: Any) -> Iterable[str] | None:
    if not isinstance(node, DictConfig) or "_target_" not in node or OmegaConf.is_missing(node, "_target_"):
        return None
    try:
        return accepted_keys(locate(str(node["_target_"])))
    except TargetError:
        return None


def _open_ends(cfg: DictConfig) -> tuple[list[str], dict[str, str]]:
    """The dotted keys without a value, and those whose interpolation leads nowhere, with the reason."""
    missing: list[str] = []
    unresolved: dict[str, str] = {}
    pending: list[tuple[str, Any]] = [("", cfg)]
    while pending:
        path, node = pending.pop()
        for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
            name = f"{path}.{key}" if path else str(key)
            if OmegaConf.is_missing(node, key):
                missing.append(name)
                continue
            try:
                value = node[key]
            except OmegaConfBaseException as error:
                unresolved[name] = str(error).splitlines()[0]
                continue
            if OmegaConf.is_config(value):
                pending.append((name, value))
    return sorted(missing), unresolved


def _targets(cfg: DictConfig) -> tuple[dict[str, Callable[..., Any]], list[str]]:
    """The located classes whose keys are in order, by path, and the problem lines of all others."""
    found: dict[str, Callable[..., Any]] = {}
    lines: list[str] = []
    for group in (*GROUPS, "logger"):
        node = None if OmegaConf.is_missing(cfg, group) else cfg.get(group)
        if group in GROUPS and node is not None and not list(targets_in(group, node)):
            lines.append(f"{group}: expected a mapping with a _target_, got {node}; choose an option of {group}")
        for path, part in targets_in(group, node):
            target, problems = _target(path, part)
            lines += problems
            if target is not None and not problems:
                found[path] = target
    return found, lines


def _target(path: str, node: DictConfig) -> tuple[Callable[..., Any] | None, list[str]]:
    try:
        target = locate(str(node["_target_"]))
    except TargetError as error:
        return None, [f"{path}: {error}"]
    return target, key_problems(path, node, target)


def _fit(cfg: DictConfig, targets: dict[str, Callable[..., Any]], origin: Origin) -> list[str]:
    """Whether the images are large enough for the model."""
    needed = getattr(targets.get("model"), "min_size", None)
    size = _known(cfg.get("dataset"), "size") if "dataset" in targets else None
    if not isinstance(needed, int) or not isinstance(size, int) or size >= needed:
        return []
    model, dataset = origin.label("model", cfg.model), origin.label("dataset", cfg.dataset)
    others = [f"model={name}" for name, node in origin.options("model").items() if _takes(node, size)]
    instead = f": use {' or '.join(others)}" if others else ": choose a model for small images"
    return [f"{model} needs images of at least {needed}x{needed}, but {dataset} has {size}x{size}{instead}"]


def _known(node: Any, key: str) -> Any:
    return None if OmegaConf.is_missing(node, key) else node.get(key)


def _takes(node: DictConfig, size: int) -> bool:
    try:
        needed = getattr(locate(str(node.get("_target_", ""))), "min_size", 1)
    except TargetError:
        return False
    return isinstance(needed, int) and needed <= size


def _hooks(cfg: DictConfig, targets: dict[str, Callable[..., Any]], origin: Origin) -> list[str]:
    """What the chosen classes themselves say: their constructors' refusals, then their `problems` methods."""
    rounds = _known(cfg, "rounds")
    made: dict[str, Any] = {}
    lines: list[str] = []
    for group in _MADE:
        if group in targets and _complete(cfg[group], targets[group]):
            made[group], refusal = _make(origin.label(group, cfg[group]), cfg[group])
            lines += refusal
    if isinstance(rounds, int) and rounds >= 1:
        lines += _schedule_problems(made, rounds)
    for group in ("dataset", "engine"):
        lines += _ask(made.get(group))
    return lines


def _schedule_problems(made: dict[str, Any], rounds: int) -> list[str]:
    freeze = made.get("freeze")
    refused = _ask(freeze, rounds)
    if refused:
        return refused
    stages = getattr(freeze, "stage_lengths", None)
    return _ask(made.get("readjust"), list(stages(rounds)) if callable(stages) else [rounds])


def _ask(thing: Any, *facts: Any) -> list[str]:
    """The object's own `problems(*facts)`, where it has such a method."""
    method = getattr(thing, "problems", None)
    return [str(line) for line in method(*facts)] if callable(method) else []


def _complete(node: DictConfig, target: Callable[..., Any]) -> bool:
    """Whether the keys alone make the object: some constructors also take what is only known later."""
    if OmegaConf.missing_keys(node):
        return False
    try:
        inspect.signature(target).bind(**{key: node[key] for key in own_keys(node)})
    except (TypeError, ValueError):
        return False
    return True


def _make(label: str, node: DictConfig) -> tuple[Any, list[str]]:
    try:
        return instantiate(node), []
    except Exception as error:
        # Hydra wraps what a constructor raises; the constructor's own words are the ones to show.
        cause = error.__cause__ or error
        return None, [f"{label}: {' '.join(str(cause).split()) or type(cause).__name__}"]
