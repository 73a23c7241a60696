"""What a network computes with its parameters: the products of one training step, counted as they are dispatched.

Products are what torch.utils.flop_counter counts (matrices, convolutions, attention), by its formulas. Each belongs to
the parameter that was its operand, also through views, transposes, copies and shared use; its backward products belong
to the same parameter, found through the autograd node that made it.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import conv_flop_count, flop_registry

from pffdst.core.inputs import Inputs, random_inputs
from pffdst.core.model import Layout
from pffdst.core.seeding import seeded_global_state

__all__ = ["PARTS", "SAMPLES", "Part", "Trace", "copy_of", "logits_in", "remarks", "trace"]

Part = Literal["forward", "input_gradient", "weight_gradient"]
PARTS: tuple[Part, ...] = ("forward", "input_gradient", "weight_gradient")  # of a step, in this order
SAMPLES = 2  # the smallest batch with which batch normalisation trains
_DRAWS = 8  # steps tried until every parameter has had a gradient: layers may be skipped at random
_aten = torch.ops.aten
# The index of a product's operands among its arguments, if not first: a bias comes before.
_OPERANDS = {_aten.addmm: slice(1, 3), _aten.baddbmm: slice(1, 3)}
# What gives 0 wherever its first argument is 0, element by element or moved elsewhere. Views share their memory.
_KEEPS_ZEROS = frozenset({
    "clone", "_to_copy", "_unsafe_view", "constant_pad_nd", "flip", "roll", "repeat", "neg", "abs", "sign", "tanh",
    "relu", "div", "native_dropout", "_weight_norm_interface",
})  # fmt: skip
_JOINS = frozenset(("cat", "stack"))


@final
@dataclass(frozen=True)
class Trace:
    """One training step of a network on random samples, forward and backward.

    `flops`: of all `samples` together, by the parameter whose zeros save them (None: no zeros do) and the part of
    the step. `operands`: parameters that entered a product with their zeros; `mixed`: those that entered one through
    something that does not keep zeros (such as W + A B), whose products are counted dense; `reached`: those with a
    gradient; `idle`: trainable ones that got none; `blocked`: how many weights of an operand the network itself
    multiplies by 0, so that they never train.
    """

    samples: int
    flops: Mapping[tuple[str | None, Part], int]
    operands: frozenset[str]
    mixed: frozenset[str]
    reached: frozenset[str]
    idle: frozenset[str]
    blocked: Mapping[str, int]


@final
@dataclass(frozen=True)
class _Origin:
    """The parameters a tensor was computed from, with their numbers of values; whether their zeros are zeros in it.

    `size`: values the tensor had when it was created. One with more is repeated, e.g. for each sample.
    """

    shares: Mapping[str, int]
    size: int
    keeps_zeros: bool = True


@final
@dataclass(frozen=True)
class _Record:
    """A product of the forward pass: its weight, and the origins of its operands (None: data)."""

    weight: _Origin | None
    origins: list[_Origin | None]


@dataclass
class _Tally:
    flops: Counter[tuple[str | None, Part]] = field(default_factory=Counter)
    operands: set[str] = field(default_factory=set)
    mixed: set[str] = field(default_factory=set)
    reached: set[str] = field(default_factory=set)
    opened: dict[str, Tensor] = field(default_factory=dict)

    def add(self, origin: _Origin | None, part: Part, flops: int) -> None:
        """Counts a product for the parameters of an operand, in proportion to their sizes, or for none."""
        shares = {None: 1} if origin is None or not origin.keeps_zeros else origin.shares
        left, total = flops, sum(shares.values())
        for i, (name, size) in enumerate(shares.items(), start=1):
            own = left if i == len(shares) else flops * size // total
            self.flops[name, part] += own
            left -= own

    def note(self, weight: _Origin | None) -> None:
        """Notes the weight of a product of the forward pass."""
        if weight is not None:
            (self.operands if weight.keeps_zeros else self.mixed).update(weight.shares)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows parameters and data through the operations of a step and counts its products."""

    def __init__(self, network: nn.Module, tally: _Tally) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tally = tally
        self._kept: list[Any] = []  # memory that is not freed while its address identifies a tensor
        self._origins: dict[int, _Origin] = {}
        self._data: set[int] = set()
        self._made: dict[int, _Record] = {}
        self.derived: list[Tensor] = []  # weights of products that the network computes from its parameters
        for name, parameter in network.named_parameters():
            self._know(parameter, _Origin({name: parameter.numel()}, parameter.numel()))
        self._parameters = frozenset(self._origins)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False; otherwise torch loads its compiler, which takes seconds."""
        return False

    def feed(self, data: Tensor) -> None:
        """Marks `data`, and what is computed from it, as data."""
        self._know(data, None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        number = torch._C._autograd._get_sequence_nr() - 1  # read first: torch.compile may make nodes in what follows
        packet = getattr(func, "_overloadpacket", func)
        if packet not in flop_registry and packet is not func:
            with self:
                made = func.decompose(*args, **kwargs)
            if made is not NotImplemented:
                return made
        out = func(*args, **kwargs)
        node = None if torch.is_grad_enabled() else torch._C._current_autograd_node()
        if packet in flop_registry:
            self._product(packet, args, kwargs, out, node, number)
        if node is None:
            self._follow(func, args, kwargs, out)
        return out

    # ---- products ------------------------------------------------------------------------------------------------

    def _product(self, packet: Any, args: Any, kwargs: Any, out: Any, node: Any, number: int) -> None:
        """Counts a product: of the forward pass, where its autograd node has this `number`, or of `node`, backward."""
        if packet is _aten.convolution_backward:
            self._convolution_backward(args)
            return
        flops = int(flop_registry[packet](*args, **kwargs, out_val=out))
        operands = list(args[_OPERANDS.get(packet, slice(0, 3 if "attention" in str(packet) else 2))])
        if node is None:
            origins = [self._origin_of(t) for t in operands]
            weight = self._weight(operands)
            self._made[number] = _Record(weight, origins)
            self._tally.note(weight)
            if weight is not None and weight.keeps_zeros:
                self.derived += [t for t in operands if t.requires_grad and self._is_derived(t, weight)]
            self._tally.add(weight, "forward", flops)
        else:
            self._gradient(operands, flops, self._made.get(node._sequence_nr()))

    def _gradient(self, operands: Sequence[Tensor], flops: int, record: _Record | None) -> None:
        """A product of the backward pass: with a weight it gives a gradient of data, otherwise the weight's own.

        If the forward product was one of two parameters, it gives the gradient of the one that it does not use.
        """
        used = self._weight(operands)
        of = None if record is None else record.weight
        if record is not None and used is not None:
            of = next((o for o in record.origins if o is not None and o is not used), None)
        if of is not None:
            self._tally.add(of, "weight_gradient", flops)
        else:
            self._tally.add(used, "input_gradient", flops)

    def _convolution_backward(self, args: Any) -> None:
        """Each gradient costs as much as the forward pass, also with groups (torch counts `groups` times that)."""
        grad, x, weight, transposed, wanted = args[0], args[1], args[2], args[7], args[10]
        flops = conv_flop_count(list(x.shape), list(weight.shape), list(grad.shape), transposed=transposed)
        origin = self._weight([x, weight])
        for part, due in zip(PARTS[1:], wanted[:2], strict=True):
            if due:
                self._tally.add(origin, part, flops)

    # ---- where tensors come from ---------------------------------------------------------------------------------

    def _origin_of(self, tensor: Any) -> _Origin | None:
        """The parameters a tensor is made of."""
        memory = _memory(tensor)
        return None if memory is None else self._origins.get(memory)

    def _weight(self, operands: Sequence[Tensor]) -> _Origin | None:
        """The operand that is the product's weight; of two, the one not repeated, or else the second, as in x W."""
        found = [(t.numel() <= o.size, i, o) for i, t in enumerate(operands) if (o := self._origin_of(t)) is not None]
        return max(found, key=lambda f: f[:2])[2] if found else None

    def _is_derived(self, tensor: Tensor, weight: _Origin) -> bool:
        """Whether a tensor is computed from a weight's parameters and is not a view of one."""
        memory = _memory(tensor)
        return memory is not None and memory not in self._parameters and self._origins.get(memory) is weight

    def _know(self, tensor: Tensor, origin: _Origin | None) -> None:
        """Notes what a tensor's memory contains from now on: `origin`, or data."""
        memory = _memory(tensor)
        if memory is None:
            return
        self._kept.append(tensor.untyped_storage())
        self._origins.pop(memory, None)
        self._data.discard(memory)
        if origin is None:
            self._data.add(memory)
        else:
            self._origins[memory] = origin

    def _follow(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """An operation's result is data if any input was, otherwise it is computed from its parameters."""
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        memories = {memory for t in inputs if (memory := _memory(t)) is not None}
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if memories & self._data:
            for tensor in outputs:
                self._know(tensor, None)
        elif memories & self._origins.keys():
            in_place = _writes(func)
            for tensor in outputs:
                memory = _memory(tensor)
                if memory not in self._parameters and (in_place or memory not in memories):  # a view is what it was
                    self._know(tensor, self._made_of(_name(func), inputs, tensor.numel()))

    def _made_of(self, name: str, inputs: Sequence[Tensor], size: int) -> _Origin | None:
        """The origin of the result of an operation without data; None if a parameter is repeated: it acts as data."""
        known = [(t, self._origin_of(t)) for t in inputs]
        found = [o for _, o in known if o is not None]
        shares: Counter[str] = Counter()
        for origin in found:
            shares.update(origin.shares)
        if name in _JOINS:
            return _Origin(shares, size, len(found) == len(known) and all(o.keeps_zeros for o in found))
        if name in _KEEPS_ZEROS and known[0][1] is not None:
            return known[0][1]
        if name == "copy" and known[-1][1] is not None and known[0][0].shape == known[-1][0].shape:
            return known[-1][1]
        zeros = [(t.numel(), i) for i, (t, o) in enumerate(known) if o is not None and o.keeps_zeros]
        if name == "mul" and zeros:
            return known[max(zeros)[1]][1]
        if any(o is not None and t.numel() > o.size for t, o in known):
            return None
        return _Origin(shares, size, keeps_zeros=False)


def _name(func: Any) -> str:
    """An operation's name; in-place operations have the name of the other form."""
    name = str(getattr(func, "_overloadpacket", func)).rpartition(".")[2]
    return name.removesuffix("_") if _writes(func) else name


def _writes(func: Any) -> bool:
    """Whether an operation writes into its first argument."""
    schema = getattr(func, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _memory(tensor: Any) -> int | None:
    """The address of a tensor's memory, which its views share; None if it has none."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (AttributeError, NotImplementedError, RuntimeError):
        return None


def copy_of(network: nn.Module) -> nn.Module:
    """A copy with buffers and plain attributes; what hooks compute from parameters (weight_norm, prune) is recomputed.

    copy.deepcopy alone fails on such networks and breaks those of TorchScript. Its error passes through if an
    attribute cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in network.modules():
        for value in (*vars(module).values(), *module._buffers.values()):
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    copied = copy.deepcopy(network, memo)
    for own, parameter in zip(network.parameters(), copied.parameters(), strict=True):
        if not parameter.is_leaf:  # TorchScript copies a parameter into the result of an operation
            parameter.detach_().requires_grad_()
        for hook in (own._backward_hooks or {}).values():  # a copied tensor lacks them
            parameter.register_hook(hook)  # type: ignore[no-untyped-call]
    return copied


def logits_in(output: Any) -> Tensor:
    """The first floating-point tensor in a network's output."""
    return next(t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point())


@contextlib.contextmanager
def _decomposed() -> Iterator[None]:
    """Runs recurrent layers as products: oneDNN would run them as one operation that is not counted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a device that torch asks for and does not find
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def trace(network: nn.Module, shape: Inputs | Sequence[int]) -> Trace:
    """Traces a copy of `network` in training on the CPU, on `SAMPLES` random samples of these inputs, or of a `shape`;
    `network` itself does not change.

    If trainable parameters got no gradient, further steps on other draws follow, up to 8, since a layer may be skipped
    at random. FLOPs are those of all steps. The network's own errors pass through.
    """
    watched = copy_of(network).cpu().train()
    tally, samples = _Tally(), 0
    parameters = {name: p for name, p in watched.named_parameters() if p.requires_grad}
    for draw in range(_DRAWS):
        with seeded_global_state(0, "trace", draw), _decomposed():
            _step(watched, shape, parameters, tally)
        samples += SAMPLES
        if tally.reached >= parameters.keys() and all(bool(seen.all()) for seen in tally.opened.values()):
            break
    blocked = {name: int((~seen).sum()) for name, seen in tally.opened.items()}
    return Trace(
        samples,
        dict(tally.flops),
        frozenset(tally.operands),
        frozenset(tally.mixed),
        frozenset(tally.reached),
        frozenset(parameters.keys() - tally.reached),
        {name: count for name, count in blocked.items() if count > 0},
    )


def _step(network: nn.Module, shape: Inputs | Sequence[int], parameters: Mapping[str, Tensor], tally: _Tally) -> None:
    """One training step, forward and backward."""
    dtype = next(p.dtype for p in network.parameters() if p.is_floating_point())
    images = random_inputs(shape, SAMPLES, dtype)
    recorder = _Recorder(network, tally)
    recorder.feed(images)
    with recorder:
        loss = logits_in(network(images)).float().sum()
    _open(recorder.derived, parameters, tally)
    with recorder:
        loss.backward()  # type: ignore[no-untyped-call]
    tally.reached.update(name for name, p in parameters.items() if p.grad is not None)


def _open(derived: Sequence[Tensor], parameters: Mapping[str, Tensor], tally: _Tally) -> None:
    """Notes which values of a parameter can change the weights computed from it."""
    names = [name for name in parameters if name in tally.operands]
    for weight in derived:
        given = torch.autograd.grad(
            weight, [parameters[n] for n in names], torch.rand_like(weight), retain_graph=True, allow_unused=True
        )
        for name, gradient in zip(names, given, strict=True):
            if gradient is not None and gradient.numel() == weight.numel():
                before = tally.opened.get(name, torch.tensor(False))
                tally.opened[name] = (gradient != 0) | before


def remarks(seen: Trace, layout: Layout) -> list[str]:
    """What may be unexpected about a network, one line each, for the start of a run."""
    masked = [e.name for e in layout.layers]
    lines = []
    mixed = [name for name in masked if name in seen.mixed]
    if mixed:
        lines.append(f"counted as dense, since their zeros do not reach the product: {', '.join(mixed)}")
    if seen.idle:
        lines.append(f"left dense, since no training step gave them a gradient: {', '.join(sorted(seen.idle))}")
    return lines + [
        f"{e.name}: the model itself multiplies {seen.blocked[e.name]:,} of its {e.size:,} weights by 0, so these "
        "weights never train even when alive (after torch's pruning write prune.remove(layer, 'weight'))"
        for e in layout.layers
        if e.name in seen.blocked
    ]
