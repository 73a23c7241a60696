"""Converts between a torch module and the flat vector: the layout, reading, writing, initialisation.

The module may hold its weights in any memory format; the flat vector is always in the tensors' logical (NCHW) order.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from pffdst.core.inputs import Inputs
from pffdst.core.model import Buffer, Entry, Kind, Layout
from pffdst.core.seeding import seeded_global_state
from pffdst.core.trace import Trace

__all__ = ["Coverage", "FlatModule", "coverage", "described", "initialise", "layout_of", "to_memory_format_"]

_CONVOLUTIONS = (nn.modules.conv._ConvNd,)
_NORMALISATION = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
# The weights of torch's own layers, by the beginning of their names.
_WEIGHTS: tuple[tuple[tuple[type[nn.Module], ...], tuple[str, ...]], ...] = (
    ((*_CONVOLUTIONS, nn.Linear), ("weight",)),
    ((nn.RNNBase, nn.RNNCellBase), ("weight_",)),
    ((nn.MultiheadAttention,), ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")),
)


# ---- construction ---------------------------------------------------------------------------------------------------


def initialise(make: Callable[[], nn.Module], seed: int, shape: Inputs | Sequence[int] | None = None) -> nn.Module:
    """Builds a model on the draw named "init": a run constructs it once, and everything else uses copies.

    Lazy layers get their sizes from samples of the given inputs or `shape`.
    """
    with seeded_global_state(seed, "init"):
        network = make()
        if shape is not None and _is_lazy(network):
            _materialise(network, shape)
        return network


def _is_lazy(network: nn.Module) -> bool:
    return any(
        isinstance(t, UninitializedParameter | UninitializedBuffer) for t in (*network.parameters(), *network.buffers())
    )


@torch.no_grad()
def _materialise(network: nn.Module, shape: Inputs | Sequence[int]) -> None:
    """Gives lazy layers their sizes: in evaluation mode, which keeps the statistics, else in training mode."""
    was_training = network.training
    one = shape.full(torch.float32) if isinstance(shape, Inputs) else torch.empty(1, *shape)
    samples = torch.zeros_like(one).repeat(2, *[1] * (one.dim() - 1))  # which draws nothing
    for training in (False, True):
        if _is_lazy(network):
            network.train(training)(samples)
    network.train(was_training)


@torch.no_grad()
def to_memory_format_(network: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    """Converts the four-dimensional tensors to `memory_format`; channels_last applies to no others."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=memory_format)
    return network


def described(network: nn.Module) -> dict[str, str]:
    """Type and shape of every parameter and buffer in words: `{"fc.weight": "float32 [10, 64]"}`."""
    named = (*network.named_parameters(), *network.named_buffers())
    return {name: f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for name, t in named}


# ---- layout ---------------------------------------------------------------------------------------------------------


def _names(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """All names of each parameter, by its main name: tied parameters have several."""
    first = {id(p): name for name, p in module.named_parameters()}
    names: dict[str, tuple[str, ...]] = dict.fromkeys(first.values(), ())
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names[first[id(parameter)]] += (name,)
    return names


def _tensors_of(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> set[str]:
    """Names of all parameters and buffers inside layers of some kinds."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, child in module.named_modules()
        if isinstance(child, kinds)
        for name, _ in (*child.named_parameters(remove_duplicate=False), *child.named_buffers(remove_duplicate=False))
    }


def _own_weights(module: nn.Module) -> set[str]:
    """Names of the weights of torch's own layers."""
    found = set()
    for prefix, child in module.named_modules():
        starts = tuple(start for kinds, names in _WEIGHTS if isinstance(child, kinds) for start in names)
        if not starts:
            continue
        dot = f"{prefix}." if prefix else ""
        for name, _ in child.named_parameters(recurse=False, remove_duplicate=False):
            if name.startswith(starts):
                found.add(dot + name)
    return found


def _maskable(module: nn.Module, trace: Trace | None, dense: Sequence[str]) -> set[str]:
    """Names of the parameters that get masks."""
    never = _tensors_of(module, (*_NORMALISATION, *_EMBEDDINGS))
    names, own = _names(module), _own_weights(module)
    found = {
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and parameter.dim() >= 2 and not never.intersection(names[name])
        if (name in trace.operands & trace.reached if trace is not None else own.intersection(names[name]))
    }
    return found - _left_out({name: names[name] for name in names if name in found}, _patterns(module, dense))


def _patterns(module: nn.Module, dense: Sequence[str]) -> list[str]:
    """The patterns of `dense` and of the class attribute `dense`; anything else of that name is the model's own."""
    own = getattr(type(module), "dense", ())
    return [*dense, *(own if isinstance(own, tuple | list) and all(isinstance(p, str) for p in own) else ())]


def _left_out(found: dict[str, tuple[str, ...]], patterns: Sequence[str]) -> set[str]:
    """The weights that match the patterns, by their own or their layers' names. ValueError for one without a match."""
    out = set()
    for pattern in patterns:
        hit = {
            name
            for name, all_names in found.items()
            if any(fnmatch.fnmatchcase(n, p) for n in all_names for p in (pattern, f"{pattern}.*"))
        }
        if not hit:
            raise ValueError(
                f"Expected `model.dense` to name layers, but {pattern!r} matches none of {', '.join(found)}"
            )
        out |= hit
    return out


def _acting_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Buffers, except the counters of normalisation layers with a fixed momentum, which nothing reads."""
    idle = {
        f"{prefix}.num_batches_tracked" if prefix else "num_batches_tracked"
        for prefix, child in module.named_modules()
        if isinstance(child, nn.modules.batchnorm._NormBase) and child.momentum is not None
    }
    return {name: b for name, b in module.named_buffers() if name not in idle}


def _sorted(module: nn.Module, maskable: set[str]) -> Iterator[tuple[str, Tensor, Kind]]:
    """The tensors of the flat vector, in its order."""
    parameters = {n: p for n, p in module.named_parameters() if p.is_floating_point()}
    yield from ((n, p, "maskable") for n, p in parameters.items() if n in maskable)
    yield from ((n, p, "parameter") for n, p in parameters.items() if n not in maskable and p.requires_grad)
    yield from ((n, b, "statistic") for n, b in _acting_buffers(module).items() if b.is_floating_point())
    yield from ((n, p, "constant") for n, p in parameters.items() if not p.requires_grad)


def _beside(module: nn.Module) -> dict[str, Tensor]:
    """Tensors that the flat vector cannot hold because they are not floating point."""
    tensors = {**dict(module.named_parameters()), **_acting_buffers(module)}
    return {name: t for name, t in tensors.items() if not t.is_floating_point()}


def layout_of(module: nn.Module, trace: Trace | None = None, dense: Sequence[str] = ()) -> Layout:
    """The order of `module`'s tensors: maskable weights, other parameters, statistics, constants; buffers separately.

    Maskable are the parameters of two or more dimensions that `trace` saw as operands of products and that got a
    gradient, but never embeddings or normalisation. Without a trace they are the weights of torch's convolutions,
    linear and recurrent layers and attention. `dense`, and a class attribute `dense` of the model, exclude layers by
    patterns such as `fc2` or `head.*`.

    Raises ValueError if the model has no maskable weight, or a pattern matches none.
    """
    if _is_lazy(module):
        raise ValueError("Expected a model whose layers have sizes, but some are lazy: run it once on a sample first")
    maskable = _maskable(module, trace, dense)
    if not maskable:
        raise ValueError("Expected a model with at least one convolution or linear layer, but it has nothing to mask")
    normalisation = _tensors_of(module, _NORMALISATION)
    entries, offset = [], 0
    for name, tensor, kind in _sorted(module, maskable):
        entries.append(Entry(name, tuple(tensor.shape), offset, kind, name in normalisation))
        offset += tensor.numel()
    beside = _beside(module).items()
    return Layout(
        tuple(entries), tuple(Buffer(n, tuple(b.shape), str(b.dtype).removeprefix("torch.")) for n, b in beside)
    )


class Coverage(NamedTuple):
    """How much of a model has masks: `maskable` (W) of its `parameters`, and the matrices that have none."""

    maskable: int
    parameters: int
    dense: tuple[Entry, ...]

    @property
    def share(self) -> float:
        """W over all parameters."""
        return self.maskable / self.parameters

    def __str__(self) -> str:
        words = f"{self.maskable:,} of {self.parameters:,} parameters have masks ({self.share:.1%})"
        named = sorted(self.dense, key=lambda e: -e.size)
        left = ", ".join(f"{e.name} {'x'.join(map(str, e.shape))} ({e.size / self.parameters:.1%})" for e in named)
        return f"{words}; dense: {left}" if left else words


def coverage(layout: Layout) -> Coverage:
    """How much a layout masks, and which parameters of two or more dimensions stay dense."""
    own = [e for e in layout.entries if e.kind != "statistic"]
    dense = tuple(e for e in own if e.kind != "maskable" and sum(n > 1 for n in e.shape) >= 2)
    return Coverage(layout.maskable, sum(e.size for e in own), dense)


# ---- the flat vector ------------------------------------------------------------------------------------------------


@final
class FlatModule:
    """A view of a module as a flat vector. The tensors are the module's own: writing changes the module.

    `layout` is that of the network this is a copy of; by default the module's own. `parameters` are those that train.
    `masks_like` builds per-layer tensors in the weights' own memory format, so that masking a gradient is one pass
    over contiguous memory. ValueError if the layout does not match the module.
    """

    def __init__(self, module: nn.Module, layout: Layout | None = None) -> None:
        self.module = module
        self.layout = layout_of(module) if layout is None else layout
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        _check_same(self.layout, tensors)
        self.tensors = [tensors[e.name] for e in self.layout.entries]
        self.buffers = [tensors[b.name] for b in self.layout.buffers]
        self._owned = [(*_owner(module, t.name), tensors[t.name]) for t in self.layout.tensors if not _trains(t)]
        self.weights = self.tensors[: len(self.layout.layers)]
        trained = [e for e in self.layout.entries if e.kind in ("maskable", "parameter")]
        self.parameters = self.tensors[: len(trained)]
        self.statistics = [t for t, e in zip(self.tensors, self.layout.entries, strict=True) if e.kind == "statistic"]

    @torch.no_grad()
    def settle_(self) -> None:
        """Where the module replaced a buffer by another tensor, restores the original tensor with the new values."""
        for owner, name, tensor in self._owned:
            now = getattr(owner, name)
            if now is not tensor:
                tensor.copy_(now)
                setattr(owner, name, tensor)

    @torch.no_grad()
    def write_(self, values: Tensor) -> None:
        """Loads a flat vector [N] into the module."""
        self.settle_()
        for entry, tensor in zip(self.layout.entries, self.tensors, strict=True):
            tensor.copy_(values[entry.span].view(entry.shape))

    @torch.no_grad()
    def read(self, out: Tensor | None = None) -> Tensor:
        """The module's values as a flat vector [N]: a new one on the CPU, or `out`, wherever it is."""
        self.settle_()
        first = self.tensors[0]
        flat = torch.empty(self.layout.total, dtype=first.dtype, device=first.device) if out is None else out
        for entry, tensor in zip(self.layout.entries, self.tensors, strict=True):
            flat[entry.span].view(entry.shape).copy_(tensor)
        return flat.cpu() if out is None else flat  # one copy from a device instead of one per tensor

    @torch.no_grad()
    def write_buffers_(self, values: Sequence[Tensor]) -> None:
        """Loads the layout's buffers, in their order."""
        self.settle_()
        for buffer, value in zip(self.buffers, values, strict=True):
            buffer.copy_(value)

    def read_buffers(self) -> list[Tensor]:
        """Copies of the layout's buffers on the CPU, in their order."""
        self.settle_()
        return [b.detach().to("cpu", copy=True) for b in self.buffers]

    @torch.no_grad()
    def maskable(self) -> Tensor:
        """The maskable weights, flat [W], on the module's own device."""
        return torch.cat([weight.detach().reshape(-1) for weight in self.weights])

    @torch.no_grad()
    def gradient(self) -> Tensor:
        """The gradient of the maskable weights, flat [W], on the module's own device; a missing one counts as 0."""
        return torch.cat([(torch.zeros_like(w) if w.grad is None else w.grad).reshape(-1) for w in self.weights])

    @torch.no_grad()
    def masks_like(self, mask: Tensor) -> list[Tensor]:
        """A flat bool mask [W] as one 0/1 tensor per layer, each with its weight's dtype, device and memory format."""
        return [
            torch.empty_like(weight).copy_(mask[entry.span].view(entry.shape))
            for entry, weight in zip(self.layout.layers, self.weights, strict=True)
        ]


def _trains(tensor: Entry | Buffer) -> bool:
    return isinstance(tensor, Entry) and tensor.kind in ("maskable", "parameter")


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The submodule that owns a tensor, and the tensor's name in it."""
    prefix, _, own = name.rpartition(".")
    return module.get_submodule(prefix), own


def _check_same(layout: Layout, tensors: dict[str, Tensor]) -> None:
    """ValueError that names the first tensor of the layout that is missing or differs in the module."""
    for entry in layout.tensors:
        found = tensors.get(entry.name)
        if found is None or tuple(found.shape) != entry.shape:
            got = "none" if found is None else f"{list(found.shape)}"
            raise ValueError(f"Expected {entry.name} of shape {list(entry.shape)} in the module, but it has {got}")
