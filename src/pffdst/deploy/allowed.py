"""What a server's configuration may have a node build: classes that the node trusts, from plain values.

The configuration is data from another machine. A name says little about what it stands for: modules import other
modules, classes have methods, text may hold an interpolation. So a class must live where its name says it does, and
text stays text.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf
from torch import nn

from pffdst.config.constructors import TargetError, locate
from pffdst.core.errors import UserError
from pffdst.deploy.records import BadRecord

__all__ = ["ALLOWED", "checked"]

ALLOWED: Final[Mapping[str, type]] = {
    "pffdst.methods": object,
    "pffdst.models": nn.Module,
    "pffdst.wire.codecs": object,
    "torch.nn": nn.Module,
    "torch.optim": object,
    "torchvision.models": nn.Module,
    "torchvision.transforms": object,
}
"""Modules whose classes any node builds, and what these must derive from."""
_DOWNLOADS: Final = ("weights", "weights_backbone", "pretrained", "pretrained_backbone")


def checked(config: Any, allowed: Sequence[str]) -> DictConfig:
    """The configuration; UserError if it names something that this node must not build.

    `allowed` are the packages, modules and classes that the node's operator trusts besides `ALLOWED`.
    """
    if not isinstance(config, Mapping):  # OmegaConf would read text as yaml
        raise BadRecord("setup: expected a configuration")
    for where, node in _nodes("config", config):
        if isinstance(node, str) and "${" in node:
            raise UserError(f"setup: {where} is an interpolation, {node!r:.80}: a node reads only plain values")
        if isinstance(node, Mapping):
            _check_keys(where, node)
        if isinstance(node, Mapping) and "_target_" in node:
            _check_target(where, node, allowed)
    cfg = OmegaConf.create(dict(config))
    assert isinstance(cfg, DictConfig)
    return cfg


def _nodes(where: str, node: Any) -> Iterator[tuple[str, Any]]:
    """Every mapping, list and value of a configuration, outermost first, with its dotted path."""
    yield where, node
    if isinstance(node, Mapping):
        for key, child in node.items():
            yield from _nodes(f"{where}.{key}", child)
    elif isinstance(node, list):
        for i, child in enumerate(node):
            yield from _nodes(f"{where}[{i}]", child)


def _check_keys(where: str, node: Mapping[str, Any]) -> None:
    """UserError for keys with which Hydra calls something other than a class with its named arguments."""
    for key in node:
        if "${" in key or (key.startswith("_") and key.endswith("_") and key != "_target_"):
            raise UserError(f"setup: {where} has the key {key!r:.80}: of Hydra's own keys, a node takes only _target_")


def _check_target(where: str, node: Mapping[str, Any], allowed: Sequence[str]) -> None:
    """UserError unless the node's operator or `ALLOWED` trusts what it names, and what that really is."""
    name = node["_target_"]
    if not isinstance(name, str):
        raise UserError(f"setup: {where}._target_: expected a name, but got {name!r:.80}")
    if not _is_in(name, (*ALLOWED, *allowed)):  # before anything is imported
        raise _not_allowed(name, name)
    try:
        found = locate(name)
    except TargetError as error:
        raise UserError(f"setup: {error}; install on this node what the server has") from error
    if not _is_defined(found):
        raise UserError(
            f"setup: the server asks for {name}, which this node does not allow: no module defines such a class"
        )
    home = f"{found.__module__}.{found.__qualname__}"
    if _is_in(home, allowed):
        return
    kind = next((kind for place, kind in ALLOWED.items() if _is_in(home, (place,))), None)
    if kind is None:
        raise _not_allowed(name, home)
    if _is_torchvision(found):
        _check_no_download(where, node, found)
    elif not (inspect.isclass(found) and issubclass(found, kind)):
        what = "a class" if kind is object else "a class of torch modules"
        raise UserError(f"setup: the server asks for {name}, which this node does not allow: it is not {what}")


def _is_in(name: str, places: Sequence[str]) -> bool:
    """Whether a dotted name is one of the places or inside one; a place may end with a dot."""
    return any(f"{name}.".startswith(f"{place.rstrip('.')}.") for place in places)


def _is_defined(found: Any) -> bool:
    """Whether it is a class or function at the top of the module that it says it is from."""
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        return False
    return getattr(sys.modules.get(found.__module__), found.__qualname__, None) is found


def _not_allowed(name: str, home: str) -> UserError:
    said = f"setup: the server asks for {name}{f' ({home})' if home != name else ''}, which this node does not allow"
    module = home.rpartition(".")[0]
    if not module or module.partition(".")[0] in sys.stdlib_module_names:
        return UserError(said)  # nothing that a model needs
    return UserError(f"{said}; its operator can allow it with --node-config 'allow=\"{module}.\"'")


def _is_torchvision(found: Callable[..., Any]) -> bool:
    """Whether it is a function that torchvision lists as one of its models."""
    if not found.__module__.startswith("torchvision.models."):
        return False
    from torchvision.models import get_model_builder, list_models

    return any(get_model_builder(name) is found for name in list_models())


def _check_no_download(where: str, node: Mapping[str, Any], builder: Callable[..., Any]) -> None:
    """UserError if torchvision would download weights; some models do unless told otherwise."""
    taken = inspect.signature(builder).parameters
    for key in _DOWNLOADS:
        default = taken[key].default if key in taken else None
        if node.get(key, default) not in (None, False):
            raise UserError(f"setup: {where}.{key}: a node downloads no weights; write {key}: null")
