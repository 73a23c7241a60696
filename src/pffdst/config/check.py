"""Reports every problem of a configuration in one message, before any work is done."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, final

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pffdst.config.choices import Choices
from pffdst.config.constructors import (
    TargetError,
    accepted_keys,
    components_in,
    key_problems,
    locate,
    located,
    own_keys,
)
from pffdst.config.figures import figures_of
from pffdst.config.label import label_of
from pffdst.config.ranges import range_problems
from pffdst.config.schema import Group, groups
from pffdst.config.training import local_training
from pffdst.core.errors import UserError
from pffdst.core.facts import Checked, Facts
from pffdst.core.program import deployed
from pffdst.core.words import counted, one_line
from pffdst.data.clients.given import ByColumn
from pffdst.methods.allocation import Dense
from pffdst.methods.time import Untimed

__all__ = ["ConfigError", "check", "data_problems", "problems_of", "tidy"]

Targets = dict[str, Callable[..., Any]]


@final
class ConfigError(UserError):
    """A configuration that cannot be run; `problems` has one line for each reason."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(list(problems))
        self.problems = list(problems)

    def told(self) -> str:
        """The number of problems, then a line for each."""
        head = f"{counted(len(self.problems), 'problem')} in the configuration:"
        return "\n".join([head, *(f"  - {line}" for line in self.problems)])


def check(cfg: DictConfig) -> None:
    """Refuses a configuration that cannot run.

    Raises:
        ConfigError: with every problem found, each naming the key, the value, the requirement and what to write.
    """
    found = problems_of(cfg, Choices.current())
    if found:
        raise ConfigError(found)


def tidy(cfg: DictConfig, choices: Choices) -> DictConfig:
    """The configuration as it runs: with its label, without keys set for an option that was not chosen in the end.

    `experiment=lenet_cifar10 partition=iid` leaves the experiment's `partition.alpha` with an option that has no alpha.
    Only a key that another option of the group has is dropped, so misspelt keys are still found, and never one that
    the command line names.
    """
    strays = {path: found for path, node in _components(cfg) if (found := _strays(path, node, choices))}
    kept = copy.deepcopy(cfg)
    for path, keys in strays.items():
        node = OmegaConf.select(kept, path)
        with open_dict(node):
            for key in keys:
                del node[key]
    if OmegaConf.select(kept, "label", throw_on_resolution_failure=False) == "":
        with suppress(OmegaConfBaseException):  # what cannot be resolved is told by its key
            kept.label = label_of(kept, choices)
    return kept


def problems_of(cfg: DictConfig, choices: Choices) -> list[str]:
    """All problem lines of a configuration, in the order a reader would fix them."""
    missing, unresolved = _missing_and_unresolved(cfg)
    lines = [f"{key} is missing; write {key}=..." for key in missing] + range_problems(cfg)
    if unresolved:
        return lines + [f"{key}: {reason}; write {key}=..." for key, reason in unresolved.items()]
    targets, found = _targets(cfg)
    made, refused = _made(cfg, targets, choices)
    images = cfg.get("dataset") if "dataset" in targets else None
    size = _known(images, "resize") or _known(images, "size")
    facts = _facts(cfg, made, Facts(size=size))
    dataset = choices.called("dataset", cfg.get("dataset"))
    lines += [
        *found,
        *_size_problem(cfg, targets, choices, size, dataset),
        *_kind_problem(cfg, targets, choices, dataset),
        *refused,
        *_component_problems(made, facts),
        *_joint_problems(cfg, made, choices),
    ]
    return list(dict.fromkeys(lines))


def data_problems(
    cfg: DictConfig, *, samples: int, size: int | None, dataset: str, owners: int | None = None
) -> list[str]:
    """Problems of a checked configuration that show only once its data are read.

    `samples` counts the training images, `owners` the clients that the data name; `size` is the side of an image,
    None for other data; `dataset` is the name of the data.
    """
    targets, _ = _targets(cfg)
    choices = Choices.current()
    made, _ = _made(cfg, targets, choices)
    facts = _facts(cfg, made, Facts(samples=samples, owners=owners, size=size))
    return [*_size_problem(cfg, targets, choices, size, dataset), *_component_problems(made, facts)]


def _components(cfg: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """Every component of the groups, nested ones too, with its dotted path."""
    for group in groups():
        if group in cfg and not OmegaConf.is_missing(cfg, group):
            yield from components_in(group, cfg[group])


def _strays(path: str, node: DictConfig, choices: Choices) -> list[str]:
    group, _, inside = path.partition(".")
    chosen = choices.chosen.get(group)
    own = _keys_at(choices.written(group, chosen), inside)
    added = [key for key in own_keys(node) if key not in own and f"{path}.{key}" not in choices.typed]
    target = located(node) if added and choices.folders else None
    accepted = None if target is None else accepted_keys(target)
    refused = [] if accepted is None else [key for key in added if key not in accepted]
    if not refused:
        return []  # reading the other options takes time and is seldom needed
    others = (option for name, option in choices.options(group).items() if name != chosen)
    written = {key for option in others for key in _keys_at(option, inside)}
    return [key for key in refused if key in written]


def _keys_at(option: DictConfig, path: str) -> list[str]:
    node = OmegaConf.select(option, path, throw_on_resolution_failure=False) if path else option
    return own_keys(node) if isinstance(node, DictConfig) else []


def _missing_and_unresolved(cfg: DictConfig) -> tuple[list[str], dict[str, str]]:
    """The dotted keys without a value, and those whose interpolation cannot be resolved, with the reason."""
    missing: list[str] = []
    unresolved: dict[str, str] = {}
    pending: list[tuple[str, Any]] = [("", cfg)]
    while pending:
        path, node = pending.pop()
        keyed = isinstance(node, DictConfig)
        for key in list(node) if keyed else range(len(node)):
            name = f"{path}.{key}".removeprefix(".") if keyed else path  # a list is written as a whole
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
    return sorted(set(missing)), unresolved


def _targets(cfg: DictConfig) -> tuple[Targets, list[str]]:
    """The located classes whose keys are valid, by path, and the problem lines of all others."""
    found: Targets = {}
    lines = [line for group, kind in groups().items() for line in _shape_problems(group, cfg, kind)]
    for path, node in _components(cfg):
        try:
            target = locate(str(node["_target_"]))
        except TargetError as error:
            lines.append(f"{path}: {error}")
            continue
        problems = key_problems(path, node, target)
        lines += problems
        if not problems:
            found[path] = target
    return found, lines


def _shape_problems(group: str, cfg: DictConfig, kind: Group) -> Iterator[str]:
    """A node of a group that should be a component but is not."""
    if group not in cfg or OmegaConf.is_missing(cfg, group) or cfg[group] is None:
        return  # a null that is not allowed is reported as missing
    node = cfg[group]
    if kind.optional and node == {}:
        return
    for key, part in node.items() if kind.several else [(None, node)]:
        if part is not None and not (isinstance(part, DictConfig) and "_target_" in part):
            name = group if key is None else f"{group}.{key}"
            yield f"{name}: expected a mapping with a _target_, got {part}; choose an option of {group}"


def _size_problem(cfg: DictConfig, targets: Targets, choices: Choices, size: int | None, dataset: str) -> list[str]:
    """Whether images of this side are large enough for the model, by its class's `min_size`."""
    needed = getattr(targets.get("model"), "min_size", None)
    if not isinstance(needed, int) or not isinstance(size, int) or size >= needed:
        return []
    others = [f"model={name}" for name, node in _of_kind(choices, ("channels", "size")).items() if _takes(node, size)]
    instead = f": use {' or '.join(others)}" if others else ": choose a model for small images"
    model = choices.called("model", cfg.model)
    return [f"{model} needs images of at least {needed}x{needed}, but {dataset} has {size}x{size}{instead}"]


def _kind_problem(cfg: DictConfig, targets: Targets, choices: Choices, dataset: str) -> list[str]:
    """A model that asks for something the data do not have, such as an image model on texts."""
    gives = getattr(targets.get("dataset"), "gives", None)
    asks = _required_keys(cfg.model) if "model" in targets else set()
    if gives is None or not (wanting := sorted(asks - {*gives, "classes"})):
        return []
    fitting = _of_kind(choices, gives)
    instead = f"use {' or '.join(f'model={name}' for name in fitting)}" if fitting else "choose a model for such data"
    return [
        f"{choices.called('model', cfg.model)} needs {', '.join(wanting)}, but {dataset} provides {', '.join(gives)} "
        f"and classes: they do not match; {instead}"
    ]


def _of_kind(choices: Choices, gives: Sequence[str]) -> dict[str, DictConfig]:
    """The options of `model` that need nothing beyond what the data provide (`gives`) and the classes."""
    provided = {*gives, "classes"}
    return {name: node for name, node in choices.options("model").items() if _required_keys(node) <= provided}


def _required_keys(node: DictConfig) -> set[str]:
    """The constructor's required parameters that the component's node does not set."""
    target = located(node)
    accepted = {} if target is None else accepted_keys(target) or {}
    needed = (name for name, p in accepted.items() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL)
    return set(needed) - set(own_keys(node))


def _known(node: Any, key: str) -> Any:
    return None if node is None or OmegaConf.is_missing(node, key) else node.get(key)


def _takes(node: DictConfig, size: int) -> bool:
    target = located(node)
    needed = getattr(target, "min_size", 1)
    return target is not None and isinstance(needed, int) and needed <= size


def _made(cfg: DictConfig, targets: Targets, choices: Choices) -> tuple[dict[str, Any], list[str]]:
    """The components that can be built from their keys alone, by path, and the errors of constructors."""
    made: dict[str, Any] = {}
    lines: dict[str, str] = {}
    kinds = groups()
    for path in sorted(targets, key=lambda path: -path.count(".")):  # nested ones first: their messages are clearest
        node = OmegaConf.select(cfg, path)
        inside = [other for other, _ in components_in(path, node)]
        sound = all(other in targets and other not in lines for other in inside)
        if not kinds[path.partition(".")[0]].made or not sound or not _complete(node, targets[path]):
            continue
        try:
            made[path] = instantiate(node)
        except Exception as error:
            # Hydra wraps what a constructor raises; show the constructor's own message.
            cause = error.__cause__ or error
            name = path if "." in path else choices.called(path, node)
            lines[path] = f"{name}: {one_line(cause) or type(cause).__name__}"
    order = list(targets)
    return {path: made[path] for path in order if path in made}, [lines[path] for path in order if path in lines]


def _complete(node: DictConfig, target: Callable[..., Any]) -> bool:
    """Whether the keys alone suffice to build the object: some constructors also take what is known only later."""
    if OmegaConf.missing_keys(node):
        return False
    try:
        inspect.signature(target).bind(**{key: node[key] for key in own_keys(node)})
    except (TypeError, ValueError):
        return False
    return True


def _facts(cfg: DictConfig, made: dict[str, Any], of_data: Facts) -> Facts:
    """What is known about the data and the run."""
    rounds, freeze = _known(cfg, "rounds"), made.get("freeze")
    if not isinstance(rounds, int) or rounds < 1:
        rounds = None
    device = _known(_known(cfg, "engine"), "device")
    time = made.get("time")
    facts = replace(
        of_data,
        rounds=rounds,
        clients=_known(cfg, "clients"),
        device=device,
        cohort=_known(cfg, "cohort"),
        timed=None if "time" not in cfg else not (time is None or isinstance(time, Untimed)),
        simulated=_simulates(made),
        figures=figures_of(cfg) if "validation_share" in cfg else None,
    )
    if rounds is None or (isinstance(freeze, Checked) and freeze.problems(facts)):
        return facts
    stages = getattr(freeze, "stage_lengths", None)
    lengths = stages(rounds) if callable(stages) else [rounds]
    return replace(facts, stage_lengths=tuple(lengths))


def _simulates(made: dict[str, Any]) -> bool | None:
    """Whether the engine trains the clients itself; None without an engine."""
    return None if made.get("engine") is None else bool(getattr(made["engine"], "simulates", True))


def _component_problems(made: dict[str, Any], facts: Facts) -> list[str]:
    """The problem lines of every component with a `problems` method (`Checked`)."""
    return [str(line) for part in made.values() if isinstance(part, Checked) for line in part.problems(facts)]


_RULES = ("readjust", "updates")
_TRAINING = ("objective", "optimizer", "lr_schedule", "augmentation")


def _joint_problems(cfg: DictConfig, made: dict[str, Any], choices: Choices) -> list[str]:
    """Problems of parts that do not fit each other: rules and training, rules among themselves, data without tests."""
    lines = [] if _known(cfg, "validation_share") != 0 else _hook_problems(made.get("dataset"), "test_problems")
    lines += [*_remote_data_problems(cfg, made, choices), *_deployment_problems(cfg, made, choices)]
    lines += _hook_problems(made.get("aggregation"), "problems_among", made)
    if any(made.get(group) is None for group in (*_RULES, *_TRAINING)):
        return lines
    try:
        training = local_training(cfg)
    except OmegaConfBaseException:  # a number is missing, which is reported elsewhere
        return lines
    sends = [group for group in _RULES if getattr(made[group], "sends_changes", False)]
    if sends and not isinstance(made.get("allocation"), Dense):
        sender = choices.called(sends[0], cfg[sends[0]])
        lines.append(f"{sender} sends the changes of a dense model: write allocation=dense")
    lines += _hook_problems(made["optimizer"], "problems_beside", training)
    for one, other in (_RULES, reversed(_RULES)):
        lines += _hook_problems(made[one], "problems_beside", training, made[other])
    return lines


def _remote_data_problems(cfg: DictConfig, made: dict[str, Any], choices: Choices) -> list[str]:
    """Problems of a dataset whose training samples are on the clients, not on this machine."""
    if not getattr(made.get("dataset"), "elsewhere", False):
        return []
    lines, dataset = [], choices.called("dataset", cfg.dataset)
    if _simulates(made) is not False:
        lines.append(f"{dataset} has no training samples here: write engine=flower, or another dataset")
    if "partition" in made and not isinstance(made["partition"], ByColumn):
        lines.append(f"{dataset} defines each client's samples itself: write partition=column partition.column=client")
    if _known(cfg, "validation_share"):
        lines.append(f"validation_share: {dataset} has no training samples here to hold out; write validation_share=0")
    return lines


def _deployment_problems(cfg: DictConfig, made: dict[str, Any], choices: Choices) -> list[str]:
    """The problem of a deployed run whose engine would simulate its clients."""
    if not deployed() or not _simulates(made):
        return []
    engine = choices.called("engine", cfg.engine)
    return [f"{engine} simulates the clients on this machine: leave it out to train on the nodes, or use pffdst train"]


def _hook_problems(part: Any, hook: str, *given: Any) -> list[str]:
    """The problem lines that a component's method `hook` returns; none if it has no such method."""
    method = getattr(part, hook, None)
    return [str(line) for line in method(*given)] if callable(method) else []
