"""A device that only exists in Python: its tensors lie in CPU memory, but may not be mixed with tensors of the CPU.

torch's device "meta" has no memory of its own; inside `pretended_device` its tensors hold values, which are computed by
the CPU's own operations and therefore have the CPU's own bits. What CUDA refuses is refused here: an operation on
tensors of both devices, numpy on a tensor of the device, a generator of the CPU for one.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Final, final
from unittest import mock

import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.optim import optimizer as optimizers
from torch.utils import _foreach_utils as foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode

from pffdst.client.turn import ClientSetup
from pffdst.core.flat import FlatModule
from pffdst.core.trace import copy_of
from pffdst.engines import fabric, slots
from pffdst.engines.batched import BatchedEngine
from pffdst.engines.fabric_loop import FabricFit
from pffdst.engines.slots import Slot
from pffdst.experiment import Experiment

__all__ = ["DEVICE", "Pretended", "on_the_device", "pretended_device", "steps_as_recorded", "waiting_refused"]

DEVICE: Final = "meta"
_CPU: Final = torch.device("cpu")
_aten = torch.ops.aten
# What CUDA takes from the CPU: a copy's source or target, and the indices of x[...].
_COPIES: Final = frozenset({_aten.copy_, _aten.copy, _aten._foreach_copy_, _aten._foreach_copy})
_INDEXING: Final = frozenset({
    _aten.index, _aten._unsafe_index, _aten.index_put, _aten.index_put_, _aten._unsafe_index_put,
    _aten._index_put_impl_,
})  # fmt: skip
# What CUDA does not even take a number in a CPU tensor for, elsewhere allowed.
_STRICT: Final = frozenset({
    _aten.cat, _aten.stack, _aten.index_select, _aten.index_add, _aten.index_add_, _aten.index_copy, _aten.index_copy_,
    _aten.gather, _aten.scatter, _aten.scatter_, _aten.scatter_add, _aten.scatter_add_, _aten.scatter_reduce,
    _aten.scatter_reduce_, _aten.take, _aten.masked_select, _aten.equal, _aten._fused_adam_, _aten._fused_adamw_,
})  # fmt: skip
# What gives the host a number, or an output whose size depends on values: it waits for the device.
_WAITING: Final = frozenset({
    _aten._local_scalar_dense, _aten.equal, _aten.nonzero, _aten.masked_select, _aten._unique2, _aten.bincount,
})  # fmt: skip
# Memory that nobody has written to holds numbers that no run survives.
_EMPTY: Final = frozenset(
    {_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty, _aten.new_empty_strided}
)
_NOTHING: Final = {torch.bool: True, torch.uint8: 255, torch.int8: 127, torch.int32: 2**31 - 1, torch.int64: 2**62}
Step = Callable[[], None]


class _Waiting:
    """Whether an operation may wait for the device."""

    allowed = True


@final
class Pretended(Tensor):
    """A tensor of the device; `inner` holds its values."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> Pretended:
        made: Pretended = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(DEVICE),
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})

    @property
    def data(self) -> Tensor:
        """The same values, without their history."""
        return self.detach()

    @data.setter
    def data(self, value: Pretended) -> None:
        torch._C.TensorBase.data.__set__(self, value)  # type: ignore[attr-defined]
        self.inner = value.inner

    def __getitem__(self, index: Any) -> Tensor:
        return super().__getitem__(_as_index(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_as_index(index), value)

    def tolist(self) -> Any:
        """The values, as from every device."""
        return self.cpu().tolist()

    def data_ptr(self) -> int:
        """Where the values lie."""
        return self.inner.data_ptr()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Pretended({self.inner!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError("Expected no tensor of the pretended device to be saved, but one was")


def _as_index(index: Any) -> Any:
    """An index whose lists are tensors: torch would put them on "meta" itself, without their values."""
    if isinstance(index, tuple):
        return tuple(map(_as_index, index))
    return torch.tensor(index) if isinstance(index, list) else index


# ---- one operation ---------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class _Written:
    """What an operation writes to: positions and names of these arguments, and which of them each output is."""

    arguments: tuple[tuple[int, str], ...]
    outputs: tuple[int | None, ...]

    @staticmethod
    @functools.cache
    def of(func: Any) -> _Written:
        """By the operation's schema."""
        schema = func._schema
        written = [a.alias_info is not None and a.alias_info.is_write for a in schema.arguments]
        arguments = tuple((i, a.name) for i, a in enumerate(schema.arguments) if written[i])
        sets = [schema.arguments[i].alias_info.before_set for i, _ in arguments]
        outputs = [
            sets.index(r.alias_info.before_set) if r.alias_info is not None and r.alias_info.is_write else None
            for r in schema.returns
        ]
        return _Written(arguments, tuple(outputs))

    def found(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """These arguments of a call."""
        return [args[i] if i < len(args) else kwargs.get(name) for i, name in self.arguments]


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _inner(value: Any) -> Any:
    if isinstance(value, Pretended):
        return value.inner
    if isinstance(value, list | tuple):
        return type(value)(map(_inner, value))
    return value


def _outer(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Pretended(value)
    if isinstance(value, list | tuple):
        return type(value)(map(_outer, value))
    return value


def _computed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operation on the values; its result is on the device if its operands are, or if that is asked for."""
    tensors = list(_tensors((*args, *kwargs.values())))
    others, asked = [t for t in tensors if not isinstance(t, Pretended)], kwargs.get("device")
    own = len(others) < len(tensors)
    there = own if asked is None else asked.type == DEVICE
    if not own and not there:
        return func(*args, **kwargs)
    if not _Waiting.allowed and _waits(func, tensors, others, there):
        raise RuntimeError(f"Expected no operation that waits for the device, but {func} does")
    written = _Written.of(func).found(args, kwargs)
    if own and others:
        _check_devices(func, args, kwargs, written)
    if there and (generator := kwargs.get("generator")) is not None:
        raise RuntimeError(f"Expected a generator of the pretended device, but found one of '{generator.device}'")
    given = {name: _inner(value) for name, value in kwargs.items()}
    if asked is not None:
        given["device"] = _CPU
    result = func(*map(_inner, args), **given)
    if there and func.overloadpacket in _EMPTY:
        result.fill_(_NOTHING.get(result.dtype, math.nan))
    return _returned(func, result, written) if there else result


def _waits(func: Any, tensors: Sequence[Tensor], others: Sequence[Tensor], there: bool) -> bool:
    """Whether CUDA would wait in an operation that has to do with the device: values pass between it and the host."""
    if func.overloadpacket in _WAITING or not there:
        return True
    if any(t.dim() > 0 for t in others):
        return True
    return func.overloadpacket in _INDEXING and any(t.dtype == torch.bool for t in tensors[1:])


def _returned(func: Any, result: Any, written: list[Any]) -> Any:
    """The result on the device; where it is an argument that was written to, that argument."""
    for one in _tensors(written):
        if isinstance(one, Pretended) and (one.shape, one.stride()) != (one.inner.shape, one.inner.stride()):
            raise NotImplementedError(f"{func} changes a tensor's shape in place")
    outputs = _Written.of(func).outputs
    if not any(o is not None for o in outputs):
        return _outer(result)
    if len(outputs) == 1:
        return written[outputs[0]]
    return tuple(_outer(r) if o is None else written[o] for r, o in zip(result, outputs, strict=True))


def _check_devices(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], written: list[Any]) -> None:
    """RuntimeError for tensors of the CPU that CUDA would refuse beside some of its own."""
    packet = func.overloadpacket
    if packet in _COPIES:
        return
    checked: Iterable[Any] = (*args, *kwargs.values())
    if packet in _INDEXING:
        if not isinstance(args[0], Pretended):
            raise RuntimeError(f"Expected indices on the CPU for {func} of a tensor there")
        checked = (args[0], *args[2:3])
    for tensor in _tensors(checked):
        if not isinstance(tensor, Pretended) and (tensor.dim() > 0 or packet in _STRICT):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but {func} found some on the pretended one and one "
                f"{list(tensor.shape)} on {tensor.device}"
            )
    if any(not isinstance(tensor, Pretended) for tensor in _tensors(written)):
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} writes to one on the CPU")


# ---- the device ------------------------------------------------------------------------------------------------------


@final
class _Here(TorchDispatchMode):
    """Gives what is made for the device, or moved to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


@contextlib.contextmanager
def pretended_device() -> Iterator[None]:
    """Inside, this thread can put tensors on `DEVICE`; optimizers take it for one that they have kernels for."""
    fused = foreach_utils._get_fused_kernels_supported_devices
    foreach = foreach_utils._get_foreach_kernels_supported_devices
    with contextlib.ExitStack() as stack:
        for place, name, value in (
            (torch, "tensor", functools.partial(_tensor, torch.tensor)),
            (torch, "as_tensor", functools.partial(_tensor, torch.as_tensor)),
            (torch, "is_autocast_enabled", functools.partial(_autocasts, torch.is_autocast_enabled)),
            (optimizers, fused.__name__, lambda: [*fused(), DEVICE]),
            (foreach_utils, foreach.__name__, lambda: [*foreach(), DEVICE]),
            (fabric, "FabricFit", _fabric_fit),
        ):
            stack.enter_context(mock.patch.object(place, name, value))
        stack.enter_context(_Here())
        future = torch.__future__
        stack.callback(future.set_swap_module_params_on_conversion, future.get_swap_module_params_on_conversion())
        future.set_swap_module_params_on_conversion(True)  # a parameter stays the same object, as where CUDA gets it
        yield


def _tensor(make: Any, data: Any, *, device: Any = None, **settings: Any) -> Tensor:
    """torch.tensor or as_tensor, which for torch's own "meta" never look at the values."""
    made: Tensor = make(data, **settings)
    return made if device is None else made.to(device)


def _autocasts(enabled: Any, *device: str) -> bool:
    """torch.is_autocast_enabled, which does not know "meta"."""
    return DEVICE not in device and bool(enabled(*device))


# ---- a run on it -----------------------------------------------------------------------------------------------------


def _fabric_fit(device: str, callbacks: Sequence[Callback] = ()) -> FabricFit:
    """Fabric's loop for a module that is on the device already."""
    fit = FabricFit("cpu", callbacks)
    fit.fabric.setup_module = functools.partial(fit.fabric.setup_module, move_to_device=False)
    fit.fabric._validate_setup_optimizers = lambda _: None  # it refuses torch's own "meta"
    fit.fabric.to_device = lambda batch: [part.to(device) for part in batch]
    return fit


def on_the_device(experiment: Experiment) -> Experiment:
    """The experiment with its clients and its evaluation on the device, to be run inside `pretended_device`.

    The batched engine takes its way without streams, recordings and pinned memory, one client at a time.
    """
    engine, setup = experiment.engine, experiment.setup
    engine.device = DEVICE
    if isinstance(engine, BatchedEngine):
        engine._settings = replace(engine._settings, device=torch.device(DEVICE))
        engine.start = functools.partial(_start, engine)  # type: ignore[method-assign]
    network = FlatModule(copy_of(setup.network).to(DEVICE), setup.layout)
    return replace(experiment, device=DEVICE, network=network)


def _start(engine: BatchedEngine, setup: ClientSetup) -> None:
    """Starts the engine, with its samples on the device, where a CUDA device gets them too."""
    BatchedEngine.start(engine, setup)
    engine._samples = engine._samples.to(DEVICE)
    for slot in engine._slots:
        slot.serve(engine._samples)


@contextlib.contextmanager
def steps_as_recorded(engine: BatchedEngine) -> Iterator[list[Step]]:
    """Inside, the engine takes its way for recorded steps; a replay calls the step. Gives the steps recorded."""
    steps: list[Step] = []

    def record(_: Slot, step: Step) -> SimpleNamespace:
        steps.append(step)
        return SimpleNamespace(replay=step)

    engine._settings = replace(engine._settings, record=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(Slot, "_record", record))
        stack.enter_context(mock.patch.object(torch.cuda, "graph_pool_handle"))
        stack.enter_context(mock.patch.object(slots, "_waiting_refused", waiting_refused))
        yield steps


@contextlib.contextmanager
def waiting_refused() -> Iterator[None]:
    """Inside, whatever would wait for the device raises a RuntimeError, as CUDA can be told to."""
    with mock.patch.object(_Waiting, "allowed", False):
        yield
