"""The plain attributes of a network's layers, reset so that every client starts with the same ones."""

from __future__ import annotations

import copy
import types
from typing import Any, Final, final

import torch
from torch import Tensor, nn

__all__ = ["Attributes"]

_SIMPLE: Final = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.ModuleType,
    torch.dtype,
    torch.device,
    torch.Size,
)
_OF_EVERY_MODULE: Final = frozenset(vars(nn.Module()))


@final
class Attributes:
    """The current attributes that are not parameters, buffers or layers: a counter, a list, a generator.

    torch's own layers, and those of TorchScript and torch.compile, change none. What a hook computes from parameters
    (such as weight_norm's `weight`) is recomputed by itself. Which parameters train is included.
    """

    def __init__(self, network: nn.Module) -> None:
        own = [vars(m) for m in network.modules() if not type(m).__module__.startswith("torch.")]
        # what copies share with the network: layers and tensors
        self._network = {id(part): part for part in (*network.modules(), *network.parameters(), *network.buffers())}
        self._made = [{name for name, value in live.items() if _is_made(value)} | _OF_EVERY_MODULE for live in own]
        self._live, self._simple, others = own, list[dict[str, Any]](), list[dict[str, Any]]()
        for live, left in zip(own, self._made, strict=True):
            self._simple.append({name: v for name, v in live.items() if name not in left and _is_simple(v)})
            others.append({name: v for name, v in live.items() if name not in left and not _is_simple(v)})
        self._others = self._copied(others)
        self._train = [(p, p.requires_grad) for p in network.parameters()]

    def restore_(self) -> None:
        """Restores these attributes in the layers and removes those they did not have."""
        others = self._copied(self._others) if any(self._others) else self._others
        for live, left, simple, kept in zip(self._live, self._made, self._simple, others, strict=True):
            for name in [n for n in live if n not in left and n not in simple and n not in kept]:
                del live[name]
            live |= simple
            live |= kept
        for parameter, trains in self._train:
            if parameter.requires_grad != trains:
                parameter.requires_grad_(trains)

    def changed(self) -> bool:
        """Whether a layer's attributes differ now, as far as their values can be compared."""
        for live, left, simple, kept in zip(self._live, self._made, self._simple, self._others, strict=True):
            if live.keys() - left != simple.keys() | kept.keys():
                return True
            if any(live[name] is not value and live[name] != value for name, value in simple.items()):
                return True
        return any(self._others) or any(p.requires_grad != trains for p, trains in self._train)

    def _copied(self, attributes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Deep copies, except of the network's own tensors and layers."""
        return copy.deepcopy(attributes, dict(self._network))


def _is_made(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_leaf


def _is_simple(value: Any) -> bool:
    """Whether a value is immutable."""
    return isinstance(value, _SIMPLE) or (isinstance(value, tuple | frozenset) and all(map(_is_simple, value)))
