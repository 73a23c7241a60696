"""The typed root of a configuration in one place: one line per setting and per group of options.

A setting's line has its default, its meaning (printed by `--help`), its allowed values, and whether it is neutral:
neutral keys change no result, so runs that differ only in them are the same run. To add a setting or a group, add one
line here and nothing else in this folder. Only the standard library is imported, since the report reads this too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, final

__all__ = [
    "NEUTRAL",
    "NEUTRAL_DATASET",
    "NEUTRAL_PARTITION",
    "OPTIONAL",
    "Allowed",
    "Group",
    "RootConfig",
    "allowed",
    "groups",
]

MISSING: Any = "???"
Holds = Callable[[Any], bool]


@final
@dataclass(frozen=True)
class Allowed:
    """The values a setting may have. In `expected`, their description, {key} stands for the setting's name."""

    holds: Holds
    expected: str
    example: str


@final
@dataclass(frozen=True)
class Group:
    """A group of options. Its node is one component (a mapping with a `_target_`) or `several`, each under a key.

    An `optional` group may be null. Components that are not `made` during the check of a configuration cost time or
    open files: their keys are checked, but their constructors are not called.
    """

    several: bool = False
    optional: bool = False
    made: bool = True


def at_least(low: int, example: str) -> Allowed:
    """Numbers of at least `low`."""
    return Allowed(_number(lambda v: v >= low), f"{{key}} >= {low}", example)


def below_one(example: str) -> Allowed:
    """0 <= value < 1."""
    return Allowed(_number(lambda v: 0 <= v < 1), "0 <= {key} < 1", example)


def positive(example: str) -> Allowed:
    """Numbers above 0."""
    return Allowed(_number(lambda v: v > 0), "{key} > 0", example)


def setting(default: Any, help: str, allowed: Allowed | None = None, *, neutral: bool = False) -> Any:
    """A value at the root."""
    return field(default=default, metadata={"help": help, "allowed": allowed, "neutral": neutral})


def component(*, optional: bool = False, made: bool = True, neutral: bool = False) -> Any:
    """A group from which one option is chosen; null means none if it is `optional`."""
    kind = Group(optional=optional, made=made)
    return field(default=None if optional else MISSING, metadata={"group": kind, "neutral": neutral})


def components(*, made: bool = True, neutral: bool = False) -> Any:
    """A group from which any number of options are chosen: `group=[a,b]`, or null for none."""
    kind = Group(several=True, optional=True, made=made)
    return field(default_factory=dict, metadata={"group": kind, "neutral": neutral})


def _number(holds: Holds) -> Holds:
    return lambda v: isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) and holds(v)


def _of_a_folder(name: str) -> bool:
    return bool(name.strip()) and name.isprintable() and not set(name) & set('/\\:*?"<>|')


_DATASET_NAME = "${oc.select:dataset.name,run}"
_SEED = Allowed(_number(lambda v: 0 <= v < 2**63), "0 <= seed < 2**63", "0")
_NAME = Allowed(_of_a_folder, "text allowed in a folder name", "digits")
_TAGS = Allowed(
    lambda v: isinstance(v, Sequence) and all(isinstance(tag, str) and 0 < len(tag.strip()) <= 64 for tag in v),
    "words of 1 to 64 characters",
    "[mine,first]",
)
_RESUME = Allowed(
    lambda v: isinstance(v, bool | str) and v != "", "a run's folder or a checkpoint", "logs/runs/DATE/RUN"
)
_SPARSE_INIT = Allowed(lambda v: isinstance(v, bool) or v == "auto", "true, false or auto", "auto")
_PROFILE = Allowed(lambda v: isinstance(v, bool) or v == "trace", "true, false or trace", "true")


@dataclass
class RootConfig:
    """Everything a configuration may contain. A group's node is the mapping of the chosen option."""

    sparsity: float = setting(0.8, "s: share of dead weights at the end of the run, 0 <= s < 1", below_one("0.95"))
    rounds: int = setting(120, "R: rounds of communication", at_least(1, "100"))
    clients: int = setting(20, "C: clients among which the training set is split", at_least(1, "20"))
    cohort: int = setting(10, "K: clients taking part in a round", at_least(1, "10"))
    local_epochs: int = setting(MISSING, "E: passes over a client's data per round", at_least(1, "2"))
    batch_size: int = setting(16, "images per client step", at_least(1, "32"))
    lr: float = setting(0.1, "learning rate of the clients, per step", positive("0.05"))
    momentum: float = setting(0.9, "of the clients' steps", below_one("0.9"))
    weight_decay: float = setting(0.001, "of the clients' steps", at_least(0, "0.001"))
    prox_mu: float = setting(0.0, "mu: weight of FedProx's proximal term; 0 = none", at_least(0, "0.0"))
    sparse_init: Any = setting(
        "auto", "true: scale initial weights to layer density; auto: only without normalisation layers", _SPARSE_INIT
    )
    clip_norm: float = setting(0.0, "maximum 2-norm of a local step's gradient; 0 = none", at_least(0, "0.0"))
    server_ema: float = setting(0.9, "decay of the server average, which is evaluated too; 0 = none", below_one("0.9"))
    server_ema_warm_up: bool = setting(True, "the average forgets its first rounds faster")
    clients_keep: bool = setting(True, "false: clients keep nothing, so masks and frozen weights are sent every time")
    validation_share: float = setting(
        0.0, "share of the training set evaluated instead of the test set; 0 = none", below_one("0.2")
    )
    eval_every: int = setting(5, "rounds between evaluations", at_least(1, "2"))
    eval_every_bytes: int = setting(0, "paper_bytes between evaluations instead; 0 = by rounds", at_least(0, "0"))
    checkpoint_every: int = setting(10, "rounds between checkpoints", at_least(1, "10"), neutral=True)
    seed: int = setting(0, "of every random draw", _SEED)
    profile: Any = setting(
        False, "true: log where a round's time goes; trace: of single operations too", _PROFILE, neutral=True
    )
    print_config: bool = setting(False, "true shows the whole configuration before the run", neutral=True)
    resume: Any = setting(False, "a run's folder, or a checkpoint in it, to resume", _RESUME, neutral=True)
    name: str = setting(_DATASET_NAME, "of the run, in its folder's name and the logs", _NAME, neutral=True)
    tags: list[str] = field(
        default_factory=list, metadata={"help": "of the run, in the logs", "allowed": _TAGS, "neutral": True}
    )
    label: str = setting("", "the label of its method; empty = the method and what is changed in it", neutral=True)
    method_name: str = field(default=MISSING, metadata={"allowed": _NAME})

    dataset: Any = component()
    partition: Any = component()
    model: Any = component(made=False)
    allocation: Any = component()
    readjust: Any = component()
    freeze: Any = component()
    updates: Any = component()
    aggregation: Any = component()
    server_optimizer: Any = component()
    objective: Any = component()
    optimizer: Any = component()
    lr_schedule: Any = component()
    augmentation: Any = component()
    codec: Any = component()
    engine: Any = component(neutral=True)
    participation: Any = component()
    time: Any = component(optional=True)
    faults: Any = component(optional=True)
    logger: dict[str, Any] = components(neutral=True)
    metrics: dict[str, Any] = components(made=False, neutral=True)
    callbacks: dict[str, Any] = components()
    observers: dict[str, Any] = components()
    paths: Any = field(default=MISSING, metadata={"neutral": True})
    search: Any = field(default=None, metadata={"neutral": True})


_FIELDS = dataclasses.fields(RootConfig)


def groups() -> dict[str, Group]:
    """The groups of components, by name."""
    return {f.name: f.metadata["group"] for f in _FIELDS if "group" in f.metadata}


NEUTRAL = frozenset({"hydra", *(f.name for f in _FIELDS if f.metadata.get("neutral"))})
"""Keys at the root that change no result."""
OPTIONAL = frozenset(name for name, kind in groups().items() if kind.optional and not kind.several)
"""Groups that may have no option chosen."""
NEUTRAL_DATASET = frozenset({"cache", "download"})
"""Keys of `dataset` that change no result."""
NEUTRAL_PARTITION = frozenset({"save"})
"""Keys of `partition` that change no result."""


def allowed() -> dict[str, Allowed]:
    """The settings that do not allow every value of their type."""
    return {f.name: f.metadata["allowed"] for f in _FIELDS if f.metadata.get("allowed") is not None}
