"""What a group's `_target_` accepts: its keys and the types of their values, read from its constructor."""

from __future__ import annotations

import difflib
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from omegaconf import DictConfig, OmegaConf

from pffdst.core.errors import UserError
from pffdst.core.words import one_line, typed
from pffdst.measure.memory import is_out_of_memory

__all__ = [
    "TargetError",
    "accepted_keys",
    "components_in",
    "did_you_mean",
    "expected_type",
    "key_problems",
    "locate",
    "located",
    "of_kind",
    "own_keys",
    "takes_key",
]

_Kind = TypeVar("_Kind")
_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    type(None): "null",
}


# Keys that belong to the run, whatever the constructor takes: layers of the model that stay dense.
_OF_THE_RUN = ("model.dense",)


class TargetError(Exception):
    """A `_target_` that cannot be imported or called; the message is one line."""


def locate(target: str) -> Callable[..., Any]:
    """The class or function a `_target_` names.

    Raises:
        TargetError: the module cannot be imported, or has no such name.
    """
    try:
        found = _imported(target)
    except Exception as error:
        if is_out_of_memory(error):
            raise  # the configuration is not to blame
        top = target.partition(".")[0]
        absent = isinstance(error, ModuleNotFoundError) and error.name == top
        hint = f"; name the folder that contains {top}: PYTHONPATH=FOLDER" if absent else ""
        raise TargetError(f"_target_ {target} cannot be imported: {_one_line(error)}{hint}") from error
    if not callable(found):
        raise TargetError(f"_target_ {target} is a {type(found).__name__}: expected a class or a function")
    return typing.cast("Callable[..., Any]", found)


def _imported(name: str) -> Any:
    """The object a dotted name stands for; errors of importing the innermost existing module pass through."""
    parts = name.split(".")
    found: Any = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], start=2):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join(parts[:i]))
            except ModuleNotFoundError as error:
                if error.name == ".".join(parts[:i]):
                    raise AttributeError(f"{'.'.join(parts[: i - 1])} has no {part}") from error
                raise
        found = getattr(found, part)
    return found


def of_kind(part: Any, kind: type[_Kind], key: str) -> _Kind:
    """The part that the configuration's `key` built. UserError if it does not derive from `kind`."""
    if isinstance(part, kind):
        return part
    name, base = (f"{one.__module__}.{one.__qualname__}" for one in (type(part), kind))
    raise UserError(f"{key}: {name} is not a {kind.__name__}; derive the class from {base}")


def located(node: DictConfig) -> Callable[..., Any] | None:
    """What a node's `_target_` names; None if there is none or it cannot be imported, which is reported elsewhere."""
    try:
        return locate(str(node["_target_"])) if "_target_" in node else None
    except TargetError:
        return None


def own_keys(node: DictConfig) -> list[str]:
    """A node's keys without Hydra's own (`_target_`, `_partial_`, ...)."""
    return [str(key) for key in node if not (str(key).startswith("_") and str(key).endswith("_"))]


def accepted_keys(target: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """Constructor parameters by name; None when it takes any keyword or cannot be inspected."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    return {name: p for name, p in parameters.items() if p.kind is not p.POSITIONAL_ONLY}


def components_in(path: str, node: Any) -> Iterator[tuple[str, DictConfig]]:
    """Every mapping with a `_target_` in a node, itself and nested ones, with its dotted path."""
    if not isinstance(node, DictConfig) or OmegaConf.is_missing(node, "_target_"):
        return
    if "_target_" in node:
        yield path, node
    for key in own_keys(node):
        if not (OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key)):
            yield from components_in(f"{path}.{key}", node[key])


def takes_key(cfg: DictConfig, key: str, *, any_keyword: bool = False) -> bool:
    """Whether a dotted key that is not in the yaml belongs to the run or is a parameter of its component's constructor.

    With `any_keyword`, also whether the constructor takes any keyword.
    """
    path, _, last = key.rpartition(".")
    node = OmegaConf.select(cfg, path) if path else None
    target = located(node) if isinstance(node, DictConfig) else None
    if target is None or last.startswith("_"):
        return False
    if key in _OF_THE_RUN:
        return True
    accepted = accepted_keys(target)
    return any_keyword if accepted is None else last in accepted


def key_problems(path: str, node: DictConfig, target: Callable[..., Any]) -> list[str]:
    """Keys the target does not accept and values of a type it does not take, as problem lines."""
    accepted = accepted_keys(target)
    if accepted is None:
        return []
    unknown = [key for key in own_keys(node) if key not in accepted and f"{path}.{key}" not in _OF_THE_RUN]
    name = str(node["_target_"]).rpartition(".")[2]
    lines = [f"{path}.{key}: {name} has no such key; {_instead(path, key, accepted)}" for key in unknown]
    hints = _hints(target)
    known = [key for key in own_keys(node) if key in hints and key in accepted and not OmegaConf.is_missing(node, key)]
    return lines + [line for key in known for line in _type_problems(path, key, node[key], hints[key], accepted[key])]


def did_you_mean(word: str, known: Sequence[str], prefix: str = "") -> str:
    """`did you mean ...?` with the closest known words, each after `prefix`, or an empty string."""
    last = [key for key in known if key.rpartition(".")[2] == word]
    close = last or _closest(word, [key for key in known if not word.startswith(f"{key}.")])
    return f"did you mean {' or '.join(f'{prefix}{key}' for key in close)}?" if close else ""


def _closest(word: str, known: Sequence[str]) -> list[str]:
    """The closest word, and those about as close."""
    ratio = {key: difflib.SequenceMatcher(None, word, key).ratio() for key in known}
    best = max(ratio.values(), default=0.0)
    return [key for key in known if ratio[key] >= max(0.6, best - 0.05)][:3]


def _instead(path: str, key: str, accepted: Mapping[str, Any]) -> str:
    close = did_you_mean(key, list(accepted))
    if close:
        return close
    listed = ", ".join(f"{path}.{name}" for name in accepted)
    return f"it has {listed}" if listed else "leave it out: it has no keys"


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of the constructor; empty if they cannot be evaluated (names imported only for typing)."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function)
    except Exception:
        return {}


def _type_problems(path: str, key: str, value: Any, hint: Any, parameter: inspect.Parameter) -> list[str]:
    plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    if _fits(plain, hint):
        return []
    known = parameter.default is not inspect.Parameter.empty and parameter.default is not None
    example = f"; write e.g. {path}.{key}={typed(parameter.default)}" if known else ""
    return [f"{path}.{key}={typed(plain)}: expected {expected_type(hint)}{example}"]


def _fits(value: Any, hint: Any) -> bool:
    """Whether a yaml value fits an annotation; unknown annotations fit everything."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args and not any(isinstance(value, bool) != isinstance(arg, bool) for arg in args)
    if hint in _NAMES:
        return _fits_plain(value, hint)
    container = origin or hint
    if not inspect.isclass(container) or container is object:
        return True
    if issubclass(container, Mapping):
        return isinstance(value, Mapping)
    if issubclass(container, Sequence):
        return isinstance(value, list) and (not args or all(_fits(item, args[0]) for item in value))
    return True


def _fits_plain(value: Any, hint: type) -> bool:
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str) if hint is Path else isinstance(value, hint)


def expected_type(hint: Any) -> str:
    """An annotation in words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(expected_type(arg) for arg in args)
    if origin is Literal:
        return " or ".join(typed(arg) for arg in args)
    if hint in _NAMES:
        return _NAMES[hint]
    container = origin or hint
    listed = inspect.isclass(container) and issubclass(container, Sequence)
    if not listed:
        return "a mapping"
    return f"a list, such as {'[a,b]' if args == (str,) else '[1,2]'}"


def _one_line(error: BaseException) -> str:
    return one_line(error) or type(error).__name__
