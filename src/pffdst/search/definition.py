"""What `search=NAME` asks for: read from its yaml, with everything that is wrong with it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler

from pffdst.config.check import ConfigError, problems_of
from pffdst.config.compose import Composed, Session
from pffdst.config.constructors import TargetError, did_you_mean, key_problems, locate, own_keys
from pffdst.config.figures import figures_of, instead_of, tells_of_tests
from pffdst.config.flags import key_of
from pffdst.config.identity import essence
from pffdst.config.overrides import sweep_problems
from pffdst.config.resume import as_value
from pffdst.core.words import one_line, typed
from pffdst.search.trials import OBJECTIVES, Direction, Value

__all__ = ["SPACE", "Search", "assigned", "read_search", "sampler_for", "written"]

SPACE = "search.space"
_KEYS = ("trials", "folder", "sampler", "objectives", "fixed", "space")
_NEEDED = ("trials", "folder", "sampler", "objectives", "space")
_INTERVAL = ("low", "high", "log", "step")
_MAPPINGS = ("objectives", "space", "sampler", "fixed")
_EMPTY = "no key is given; write e.g. lr: {low: 0.01, high: 0.1, log: true}"
_ALL_SET = "nothing is left to search: the command line sets every key"
_EXAMPLE = "a list of choices, such as [0.8, 0.9], or an interval, such as {low: 0.01, high: 0.1, log: true}"


@final
@dataclass(frozen=True)
class Search:
    """A search that can be run. `overrides` apply to every trial, besides its own values for the keys of `space`.

    `spec` is what must not change between two starts, in plain values.
    """

    name: str
    trials: int
    folder: Path
    sampler: DictConfig
    objectives: Mapping[str, Direction]
    overrides: tuple[str, ...]
    space: Mapping[str, BaseDistribution]
    spec: Mapping[str, Any]


def read_search(opened: Session, given: Sequence[str]) -> Search:
    """The search that a command line asks for; `given` are its overrides, including `search=NAME`.

    Raises:
        ConfigError: with every problem of the search's yaml, each with what to write.
    """
    composed = opened.compose(given)
    cfg, name = composed.cfg, str(composed.choices.chosen.get("search"))
    problems = list(_shape_problems(cfg.search))
    if not _readable(cfg.search):
        raise ConfigError(problems)
    own = tuple(line for line in given if key_of(line) != "search" and not key_of(line).startswith("search."))
    given_keys = {key_of(line).lstrip("+") for line in own}
    fixed = {str(key): value for key, value in (cfg.search.get("fixed") or {}).items() if key not in given_keys}
    overrides = (*(written(key, value) for key, value in fixed.items()), *own)
    nodes = {str(key): node for key, node in cfg.search.space.items() if key not in given_keys}
    base = opened.compose(overrides).cfg
    space, wrong = _space(nodes, base)
    if not nodes:
        wrong.append(f"{SPACE}: {_ALL_SET if cfg.search.space else _EMPTY}")
    problems += [*wrong, *_contents(cfg.search, name, set(fixed) & set(nodes), base)]
    problems += _value_problems(opened, overrides, space)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    plain = OmegaConf.to_container(cfg.search, resolve=True)
    assert isinstance(plain, dict)
    kept = {key: plain["space"][key] for key in space}
    spec = essence(base) | {OBJECTIVES: plain["objectives"], SPACE: kept}
    folder = Path(str(cfg.search.folder))
    return Search(name, cfg.search.trials, folder, cfg.search.sampler, plain["objectives"], overrides, space, spec)


def written(key: str, value: Value) -> str:
    """An override as it is typed: `lr=0.1`, `resume=false`, `name='two words'`."""
    if value is None or isinstance(value, bool):
        return f"{key}={typed(value)}"
    return f"{key}={as_value(str(value))}"


def assigned(key: str, value: Value) -> str:
    """The override that gives a trial its value; a component's key need not appear in its yaml."""
    return written(f"++{key}" if "." in key else key, value)


def _shape_problems(node: Any) -> Iterator[str]:
    """Problems with parts that are missing or of the wrong kind."""
    for key in own_keys(node):
        if key not in _KEYS:
            yield f"search.{key}: a search has no such key; {did_you_mean(key, _KEYS) or 'it has ' + ', '.join(_KEYS)}"
    for key in _NEEDED:
        if node.get(key) is None:
            yield f"search.{key} is missing; configs/search/*.yaml show how to write it"
    for key in _MAPPINGS:
        if node.get(key) is not None and not isinstance(node[key], DictConfig):
            yield f"search.{key}={node[key]}: expected a mapping, as in configs/search/*.yaml"
    trials = node.get("trials")
    if trials is not None and (isinstance(trials, bool) or not isinstance(trials, int) or trials < 1):
        yield f"search.trials={trials}: expected a whole number >= 1; write e.g. search.trials=20"


def _readable(node: Any) -> bool:
    """Whether every part that the rest is read from is a mapping; only `fixed` may be left out."""
    return all(isinstance(node.get(key), DictConfig) or (key == "fixed" and node.get(key) is None) for key in _MAPPINGS)


def _contents(node: DictConfig, name: str, twice: set[str], base: DictConfig) -> list[str]:
    lines = [f"search.fixed.{key}: {key} is also searched; leave it out of fixed or of space" for key in sorted(twice)]
    known = figures_of(base)
    lines += [line for key, value in node.objectives.items() for line in _objective(str(key), value, known)]
    if not node.objectives:
        lines.append("search.objectives is empty; write e.g. val/ema_acc_global: maximize")
    chosen = sorted(key for key in map(str, node.objectives) if tells_of_tests(key, known))
    if chosen and not base.validation_share and "on_test" not in name:
        lines.append(
            f"search={name} would choose by {' and '.join(chosen)} on the test set; write validation_share=0.2 to "
            f"evaluate on a share of the training set instead, or say so in its name, search={name}_on_test"
        )
    return lines + _sampler_problems(node.sampler)


def _objective(figure: str, direction: Any, known: Sequence[str]) -> Iterator[str]:
    if figure not in known:
        yield f"search.objectives: no run has the figure {figure}; {instead_of(figure, known)}"
    if direction not in ("maximize", "minimize"):
        yield f"search.objectives: {figure}: {direction}: expected maximize or minimize"


def _sampler_problems(node: DictConfig) -> list[str]:
    name = str(node.get("_target_"))
    try:
        target = locate(name)
    except TargetError as error:
        return [f"search.sampler: {error}; write e.g. _target_: optuna.samplers.TPESampler"]
    if not (isinstance(target, type) and issubclass(target, BaseSampler)):
        return [f"search.sampler: {name} is not a sampler; write e.g. _target_: optuna.samplers.TPESampler"]
    if "seed" in node:
        return ["search.sampler.seed: leave it out: the run's seed, seed=..., and the trial's number seed the sampler"]
    return key_problems("search.sampler", node, target)


def _space(nodes: Mapping[str, Any], base: DictConfig) -> tuple[dict[str, BaseDistribution], list[str]]:
    found: dict[str, BaseDistribution] = {}
    lines = []
    for key, node in nodes.items():
        reason = _choices_problem(node) if OmegaConf.is_list(node) else _interval_problem(node)
        if reason is not None:
            lines.append(f"{SPACE}.{key}: {reason}")
            continue
        try:
            found[key] = _distribution(node, OmegaConf.select(base, key))
        except ValueError as error:
            lines.append(f"{SPACE}.{key}: {one_line(error)}")
    return found, lines


def _choices_problem(node: Any) -> str | None:
    values = list(node)
    if not values:
        return f"no choice is given; write {_EXAMPLE}"
    odd = [value for value in values if OmegaConf.is_config(value)]
    return f"{odd[0]} is not a single value; write {_EXAMPLE}" if odd else None


def _interval_problem(node: Any) -> str | None:
    if not isinstance(node, DictConfig):
        return f"expected {_EXAMPLE}, got {node}"
    unknown = [key for key in map(str, node) if key not in _INTERVAL]
    if unknown:
        return f"{unknown[0]}: no such key; {did_you_mean(unknown[0], _INTERVAL) or f'expected {_EXAMPLE}'}"
    for key in ("low", "high", "step"):
        value = node.get(key)
        if value is None and key != "step":
            return f"{key} is missing; expected {_EXAMPLE}"
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            return f"{key}: {value}: expected a number"
    if node.low > node.high:
        return f"low: {node.low} is above high: {node.high}; write them the other way round"
    log = node.get("log", False)
    if not isinstance(log, bool):
        return f"log: {log}: expected true or false"
    return "log and step cannot be combined; leave one out" if log and node.get("step") is not None else None


def _distribution(node: Any, default: Any) -> BaseDistribution:
    """Integer bounds for a key whose value is an integer give integers; all others give real numbers."""
    if OmegaConf.is_list(node):
        return CategoricalDistribution(list(node))
    step, log = node.get("step"), node.get("log", False)
    numbers = [node.low, node.high, *([] if step is None else [step]), default]
    if all(isinstance(number, int) for number in numbers):
        return IntDistribution(node.low, node.high, log=log, step=1 if step is None else step)
    return FloatDistribution(float(node.low), float(node.high), log=log, step=step)


def _ends(found: BaseDistribution) -> list[Value]:
    """The choices, or both ends, with the type that trials get: integers or real numbers."""
    if isinstance(found, CategoricalDistribution):
        return list(found.choices)
    assert isinstance(found, IntDistribution | FloatDistribution)
    return [found.low, found.high]


def _value_problems(opened: Session, overrides: Sequence[str], space: Mapping[str, BaseDistribution]) -> Iterator[str]:
    """Problems with the keys, with the options in every combination, then with each single value."""
    tried = {key: _ends(found) for key, found in space.items()}
    swept = [f"{key}={','.join(written('', value)[1:] for value in values)}" for key, values in tried.items()]
    lines = sweep_problems(opened, [*overrides, *swept])
    yield from lines
    if lines:
        return
    first = {key: values[0] for key, values in tried.items()}
    base, groups = _composed(opened, overrides, first), opened.groups()
    for key, value in ((key, value) for key, values in tried.items() for value in values):
        composed, cfg = base, copy.deepcopy(base.cfg)
        if key in groups:
            composed = _composed(opened, overrides, first | {key: value})
            cfg = composed.cfg
        else:
            OmegaConf.update(cfg, key, value, force_add=True)  # same as composing again, in a tenth of the time
        for line in problems_of(cfg, composed.choices):
            yield f"{SPACE}, at {key}={value}: {line}"


def _composed(opened: Session, overrides: Sequence[str], values: Mapping[str, Value]) -> Composed:
    return opened.compose([*overrides, *(assigned(key, value) for key, value in values.items())])


def sampler_for(node: DictConfig, seed: Callable[[int], int]) -> Callable[[int], BaseSampler]:
    """Makes the sampler of a trial: a fresh one, seeded by the trial's number, so that resuming changes nothing."""
    target = locate(str(node["_target_"]))
    settings = {key: node[key] for key in own_keys(node)}

    def make(number: int) -> BaseSampler:
        sampler: BaseSampler = target(seed=seed(number), **settings)
        return sampler

    return make
