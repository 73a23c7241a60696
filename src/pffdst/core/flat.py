"""Between a torch module and the flat vector: the layout, reading, writing, initialisation.

The module may hold its weights in any memory format; the flat vector is always in the tensors' logical (NCHW) order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from pffdst.core.model import Entry, Layout
from pffdst.core.seeding import seeded_global_state

__all__ = ["FlatModule", "initialise", "layout_of"]

_MASKABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMALISATION = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)


def initialise(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Builds a model with torch's default initialisation on the draw named "init"."""
    with seeded_global_state(seed, "init"):
        return make()


def _describe(module: nn.Module) -> tuple[set[str], set[str]]:
    """Names of the maskable weights and of the tensors of normalisation layers."""
    maskable, normalisation = set(), set()
    for prefix, child in module.named_modules():
        dot = f"{prefix}." if prefix else ""
        if isinstance(child, _MASKABLE):
            maskable.add(f"{dot}weight")
        if isinstance(child, _NORMALISATION):
            normalisation |= {dot + name for name, _ in (*child.named_parameters(), *child.named_buffers())}
    return maskable, normalisation


def _tensors(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters, and the floating-point buffers (counters such as num_batches_tracked are of no effect here)."""
    buffers = {name: b for name, b in module.named_buffers() if b.is_floating_point()}
    return dict(module.named_parameters()), buffers


def layout_of(module: nn.Module) -> Layout:
    """The order of `module`'s tensors in a flat vector: maskable weights, other parameters, statistics.

    Raises ValueError where the model has no maskable weight.
    """
    maskable, normalisation = _describe(module)
    parameters, buffers = _tensors(module)
    weights = [(n, p, "maskable") for n, p in parameters.items() if n in maskable]
    others = [(n, p, "parameter") for n, p in parameters.items() if n not in maskable]
    statistics = [(n, b, "statistic") for n, b in buffers.items()]
    if not weights:
        raise ValueError("Expected a model with at least one convolution or linear layer, but it has none to mask")
    entries, offset = [], 0
    for name, tensor, kind in (*weights, *others, *statistics):
        entries.append(Entry(name, tuple(tensor.shape), offset, kind, name in normalisation))  # type: ignore[arg-type]
        offset += tensor.numel()
    return Layout(tuple(entries))


@final
class FlatModule:
    """A module seen as a flat vector. The tensors are the module's own: writing changes the module.

    `masks_like` builds per-layer tensors in the weights' own memory format, so that masking a gradient is one pass
    over contiguous memory.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.layout = layout_of(module)
        parameters, buffers = _tensors(module)
        self.tensors = [(parameters | buffers)[e.name] for e in self.layout.entries]
        self.weights = self.tensors[: len(self.layout.layers)]
        self.parameters = [parameters[e.name] for e in self.layout.entries if e.kind != "statistic"]
        self.statistics = self.tensors[len(self.parameters) :]

    @torch.no_grad()
    def write_(self, values: Tensor) -> None:
        """Loads a flat vector [N] into the module."""
        for entry, tensor in zip(self.layout.entries, self.tensors, strict=True):
            tensor.copy_(values[entry.span].view(entry.shape))

    @torch.no_grad()
    def read(self, out: Tensor | None = None) -> Tensor:
        """The module's values as a flat vector [N] on the CPU, into `out` where one is given."""
        flat = torch.empty(self.layout.total, dtype=self.tensors[0].dtype) if out is None else out
        for entry, tensor in zip(self.layout.entries, self.tensors, strict=True):
            flat[entry.span].view(entry.shape).copy_(tensor)
        return flat

    @torch.no_grad()
    def maskable(self) -> Tensor:
        """The maskable weights, flat [W], on the module's own device."""
        return torch.cat([weight.detach().reshape(-1) for weight in self.weights])

    @torch.no_grad()
    def gradient(self) -> Tensor:
        """The gradient of the maskable weights, flat [W], on the module's own device; one that has none counts as 0."""
        return torch.cat([(torch.zeros_like(w) if w.grad is None else w.grad).reshape(-1) for w in self.weights])

    @torch.no_grad()
    def masks_like(self, mask: Tensor) -> list[Tensor]:
        """A flat bool mask [W] as one 0/1 tensor per layer, each with its weight's dtype, device and memory format."""
        return [
            torch.empty_like(weight).copy_(mask[entry.span].view(entry.shape))
            for entry, weight in zip(self.layout.layers, self.weights, strict=True)
        ]
