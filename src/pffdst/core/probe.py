"""Reports problems of a network before the run, one line each, from one training step and one evaluation."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils._pytree import tree_leaves

from pffdst.core.attributes import Attributes
from pffdst.core.flat import to_memory_format_
from pffdst.core.inputs import Inputs, random_inputs
from pffdst.core.seeding import seeded_global_state
from pffdst.core.trace import SAMPLES, copy_of, logits_in

__all__ = [
    "least_batch",
    "left_out",
    "moves_in_python",
    "probe",
    "repeat_problems",
    "takes_channels_last",
    "written_in_forward",
]

_LARGE = 100.0
_DTYPES = (torch.float32, torch.float64)


def probe(network: nn.Module, shape: Inputs | Sequence[int], classes: int, *, channels_last: bool = False) -> list[str]:
    """Why a network cannot be trained on such inputs, or on samples of a `shape`, with `classes` classes; a line each.

    A copy is tried in training mode, forward and backward, and in evaluation mode, on `SAMPLES` samples; the network
    itself does not change.
    """
    found = _tensor_problems(network)
    if found:
        return found
    try:
        copied = copy_of(network)
    except Exception as error:
        return [f"model: it cannot be copied, and clients need copies: {_words(error)}"]
    if channels_last:
        to_memory_format_(copied, torch.channels_last)
    with _tried():
        images = random_inputs(shape, SAMPLES, torch.float32, longest=True).to(_device(copied))
        if images.is_floating_point():
            images = images.to(_dtype(copied))
        if channels_last:
            images = images.clone(memory_format=torch.channels_last)  # with its strides for a single channel too
        labels = torch.randint(classes, (SAMPLES,)).to(images.device)
        before = _tensors(copied)
        return (
            _step_problems(copied.train(), images, labels, classes)
            or _held_problems(network)
            or _moved_problems(before, _tensors(copied))
            or _evaluation_problems(copied.eval(), images, classes)
        )


@torch.no_grad()
def repeat_problems(network: nn.Module, again: nn.Module, shape: Inputs | Sequence[int]) -> list[str]:
    """Why a run of a network could not be repeated, one line: built `again` from the same draw, it acts differently.

    The network has passed `probe` and does not change; `again` is consumed. Effects after the first step are not seen.
    """
    found = []
    for one in (copy_of(network), again):
        with _tried():
            found.append(logits_in(one.cpu().train()(random_inputs(shape, SAMPLES, _dtype(one), longest=True))))
    first, second = found
    if first.shape == second.shape and torch.allclose(first, second, 1e-4, 1e-4 * float(first.abs().max())):
        return []
    return [
        "model: built twice with one seed, it gives different results: it uses an unseeded generator "
        "(such as default_rng()), reads a clock, or keeps state outside itself (on its class or in its module): "
        "seed every generator, and keep state on self"
    ]


def takes_channels_last(network: nn.Module, shape: Inputs | Sequence[int], classes: int) -> bool:
    """Whether a network that can be trained on contiguous samples also can on channels_last ones (a `view` may not)."""
    sizes = shape.shape if isinstance(shape, Inputs) else shape
    return len(sizes) == 3 and not probe(network, shape, classes, channels_last=True)


def least_batch(network: nn.Module, shape: Inputs | Sequence[int]) -> int:
    """The smallest batch on which a trainable network can be trained: 1 or 2 samples.

    Batch statistics need two values per channel; after the last pooling, a single sample gives normalisation only one.
    """
    copied = copy_of(network).train()
    with _tried(), torch.no_grad():
        try:
            copied(random_inputs(shape, 1, _dtype(copied), longest=True).to(_device(copied)))
        except Exception:
            return 2
    return 1


def written_in_forward(network: nn.Module, shape: Inputs | Sequence[int]) -> list[str]:
    """Names of the parameters that a forward pass in training mode writes to, tried with weights above any limit."""
    copied = copy_of(network).cpu().train()
    with _tried():
        for p in copied.parameters():
            if p.is_floating_point():
                p.data.mul_(_LARGE)
        before = {name: (p._version, p.detach().clone()) for name, p in copied.named_parameters()}
        try:
            copied(random_inputs(shape, SAMPLES, _dtype(copied)))
        except Exception:
            return []  # an error from the large weights: with its own weights, the network was tried before
    now = dict(copied.named_parameters())
    return [name for name, (v, old) in before.items() if now[name]._version != v or not torch.equal(now[name], old)]


def moves_in_python(network: nn.Module, shape: Inputs | Sequence[int]) -> bool:
    """Whether a training step replaces buffers by other tensors or changes plain attributes, or might.

    A recorded step runs no Python, so it would not change them.
    """
    copied = copy_of(network).cpu().train()
    attributes, buffers = Attributes(copied), dict(copied.named_buffers())
    with _tried():
        logits_in(copied(random_inputs(shape, SAMPLES, _dtype(copied)))).sum().backward()  # type: ignore[no-untyped-call]
    now = dict(copied.named_buffers())
    return attributes.changed() or any(now[name] is not buffer for name, buffer in buffers.items())


@contextmanager
def _tried() -> Iterator[None]:
    """Inside, a network is tried on fixed draws and without warnings, which the run itself will show."""
    with seeded_global_state(0, "probe"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# ---- tensors --------------------------------------------------------------------------------------------------------


def _tensor_problems(network: Any) -> list[str]:
    """Problems that the parameters alone show."""
    if not isinstance(network, nn.Module):
        return [f"model: expected a torch.nn.Module, but its _target_ returns a {type(network).__name__}"]
    named = dict(network.named_parameters())
    lazy = [n for n, t in (*named.items(), *network.named_buffers()) if _is_uninitialised(t)]
    if lazy:
        return [f"model: {', '.join(lazy)} got no size when the network ran once: set the layers' sizes"]
    if not any(p.requires_grad for p in named.values()):
        return ["model: no parameter is trainable: keep requires_grad=True on those that should be trained"]
    return _dtype_problems(network) + _shared_memory(named)


def _is_uninitialised(tensor: Tensor) -> bool:
    return isinstance(tensor, UninitializedParameter | UninitializedBuffer)


def _dtype_problems(network: nn.Module) -> list[str]:
    real = {n: t for n, t in (*network.named_parameters(), *network.named_buffers()) if t.is_floating_point()}
    parameters = dict(network.named_parameters())
    wrong = [n for n, t in parameters.items() if t.requires_grad and t.dtype not in _DTYPES]
    if wrong:
        first = wrong[0]
        kind = str(parameters[first].dtype).removeprefix("torch.")
        if not parameters[first].is_floating_point():
            return [f"model: {first} is {kind}, but weights must be real: keep two real tensors and combine them"]
        return [
            f"model: {first} is {kind}, but weights are kept in float32 (or float64): write .float(); "
            "engine=batched engine.precision=bf16 computes in bfloat16"
        ]
    dtypes = {str(t.dtype).removeprefix("torch.") for t in real.values()}
    if len(dtypes) > 1:
        odd = next(n for n, t in real.items() if t.dtype != _dtype(network))
        return [f"model: its tensors are {' and '.join(sorted(dtypes))} ({odd}): write .float() or .double() for all"]
    return []


def _shared_memory(parameters: Mapping[str, Tensor]) -> list[str]:
    """Two parameters in the same memory, as tying through `.data` creates: they cannot have separate masks."""
    spans = sorted((p.data_ptr(), p.numel() * p.element_size(), n) for n, p in parameters.items() if p.numel() > 0)
    for (start, length, name), (after, _, other) in pairwise(spans):
        if after < start + length:
            return [f"model: {name} and {other} are two parameters that share memory: tie them as one nn.Parameter"]
    return []


def _dtype(network: nn.Module) -> torch.dtype:
    return next(p.dtype for p in network.parameters() if p.is_floating_point())


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


# ---- runs -----------------------------------------------------------------------------------------------------------


def _step_problems(network: nn.Module, images: Tensor, labels: Tensor, classes: int) -> list[str]:
    """One training step."""
    output, problems = _run(network, images, classes, "training")
    if problems:
        return problems
    loss = F.cross_entropy(output, labels)
    if not bool(loss.isfinite()):
        return [f"model: its first loss is {loss.item()} on random samples: expected a finite number"]
    if not loss.requires_grad:
        return ["model: its logits depend on no trainable parameter: remove detach() and no_grad()"]
    try:
        loss.backward()  # type: ignore[no-untyped-call]
    except Exception as error:
        return [f"model: its backward pass fails: {_words(error)}"]
    grads = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    if sparse := [n for n, grad in grads.items() if grad.layout != torch.strided]:
        return [f"model: the gradient of {sparse[0]} is a sparse tensor, but updates are dense: write sparse=False"]
    wild = [n for n, grad in grads.items() if not bool(grad.isfinite().all())]
    return [f"model: the first gradient of {wild[0]} is not finite on random samples"] if wild else []


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _held_problems(network: nn.Module) -> list[str]:
    """Functions that hold the network they were created in, as closures do: copies would use the original's parts.

    They are found by what they hold, or by the gradients that a copy's step left in the network.
    """
    held = [name for name, p in network.named_parameters() if p.grad is not None]
    network.zero_grad(set_to_none=True)
    own = {id(part) for part in (*network.modules(), *network.parameters(), *network.buffers())}
    for prefix, module in network.named_modules():
        attributes = vars(module).items()
        functions = [
            (name, v) for name, value in attributes for v in (value.values() if isinstance(value, dict) else [value])
        ]
        for name, function in functions:
            cells = getattr(function, "__closure__", None) or ()
            held += [f"{prefix}.{name}".strip(".") for cell in cells if id(_content(cell)) in own]
    if not held:
        return []
    return [
        f"model: a function ({held[0]}) holds the network it was created in, and copies would use that network too: "
        "write a method instead of the lambda or inner function"
    ]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is still empty
        return None


def left_out(network: nn.Module) -> list[str]:
    """What a network contains but the model's file does not, a line each: only the constructor creates it."""
    own = {id(part) for part in (*network.modules(), *network.parameters())}
    lines = []
    for prefix, module in network.named_modules():
        if type(module).__module__.startswith("torch."):
            continue
        for name, value in vars(module).items():
            inside = (
                tree_leaves(value) if isinstance(value, list | tuple | dict) and not name.startswith("_") else [value]
            )
            layers = [v for v in inside if isinstance(v, nn.Module) and id(v) not in own]
            if layers:
                where = f"{prefix}.{name}".strip(".")
                lines.append(f"{where} has layers not registered with torch: they never train; write nn.ModuleList")
    return lines


def _moved_problems(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """Tensors that a step creates, removes, replaces, or changes in shape or type."""
    lines = []
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            lines.append(f"model: {name} appears or disappears in its forward pass: create it in the constructor")
        elif old.shape != new.shape or old.dtype != new.dtype:
            were, are = (f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for t in (old, new))
            lines.append(f"model: {name} is {were} before its forward pass and {are} after it: it must not change")
        elif isinstance(old, nn.Parameter) and old is not new:
            lines.append(f"model: {name} is replaced in its forward pass: write into it with {name}.data.copy_(...)")
    return lines


@torch.no_grad()
def _evaluation_problems(network: nn.Module, images: Tensor, classes: int) -> list[str]:
    """One evaluation, in which layers may behave differently, and one of a single sample, as a last batch may be."""
    output, problems = _run(network, images, classes, "evaluation")
    if not problems and not bool(output.isfinite().all()):
        return ["model: its first logits in evaluation mode are not finite on random samples"]
    return problems or _run(network, images[:1], classes, "evaluation")[1]


def _run(network: nn.Module, images: Tensor, classes: int, mode: str) -> tuple[Any, list[str]]:
    """The network's output in a mode, and its problems."""
    try:
        output = network(images)
    except Exception as error:
        return None, [f"model: its forward pass fails in {mode} mode on samples {list(images.shape)}: {_words(error)}"]
    wanted = f"expected logits {[len(images), classes]} in {mode} mode"
    if not isinstance(output, Tensor):
        return None, [f"model: {wanted}, but it returns {_described(output)}: {_instead(output)}"]
    if not output.is_floating_point():
        return None, [f"model: {wanted}, but it returns {str(output.dtype).removeprefix('torch.')}: return the logits"]
    if output.dim() == 2 and len(output) == len(images) and output.shape[1] != classes:
        return None, [
            f"model: it has {output.shape[1]} outputs, but the data have {classes} classes: "
            "size the last layer by the constructor's `classes`"
        ]
    if output.shape != (len(images), classes):
        return None, [f"model: {wanted}, but it returns {list(output.shape)}"]
    return output, []


def _described(output: Any) -> str:
    """A result that is not a tensor, with the names of its fields."""
    name = type(output).__name__
    fields = getattr(output, "_fields", None) or (list(output) if isinstance(output, dict) else None)
    if fields:
        return f"a {name} ({', '.join(map(str, fields))})"
    return f"a {name} of {len(output)}" if isinstance(output, tuple | list) else f"a {name}"


def _instead(output: Any) -> str:
    """What to write if the logits are one of several results."""
    fields = [str(f) for f in getattr(output, "_fields", None) or (output if isinstance(output, dict) else ())]
    if any(f.startswith("aux") for f in fields):
        return "disable its auxiliary heads (torchvision: model.aux_logits=false)"
    return "return its `logits` alone"


def _words(error: Exception) -> str:
    """An error's own message in one line."""
    lines = str(error).strip().splitlines() or [""]
    said = lines[-1] if "TorchScript" in lines[0] else lines[0]  # it begins with the place and ends with the cause
    return f"{type(error).__name__}: {said.strip()}".removesuffix(": ")
