"""Slots on a device in which one client after another trains; on CUDA, a step is recorded once and replayed.

A recorded step (a CUDA graph) has fixed shapes and addresses: there is one per batch shape, and whatever differs
between clients is copied into the buffers it reads. It is exactly the step of the other engines, so a short last batch
needs no masking, and normalisation sees only the batch's own samples.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from pffdst.client.callbacks import FreezeCallback, MaskCallback
from pffdst.client.loaded import Loaded
from pffdst.client.module import ClientModule
from pffdst.client.step import Hooks, local_step
from pffdst.client.turn import ClientSetup, Turn
from pffdst.core.flat import FlatModule
from pffdst.core.positions import Positions
from pffdst.core.seeding import seeded_global_state
from pffdst.core.trace import copy_of
from pffdst.core.words import one_line
from pffdst.data.samples import Samples
from pffdst.measure.memory import is_out_of_memory

__all__ = ["Figures", "Slot", "SlotSettings"]

Shape = tuple[int, ...]  # of a batch of raw samples
_Key = tuple[Shape, bool, bool]
_OWN_DRAWS = "2.15"  # the first torch in which recordings replayed at the same time draw apart from each other
_log = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class SlotSettings:
    """How clients train on `device`: `bf16` is autocast to bfloat16; `record` replays recorded steps (CUDA).

    `several`: there are several slots, which train at the same time.
    """

    device: torch.device
    channels_last: bool
    bf16: bool
    record: bool
    several: bool = False


@final
class Figures:
    """What is read from a trained client, in memory that the device can write to while others train.

    `values` [N]; `buffers` those of the layout; `totals` float64 [3]: sums of loss and of correct answers over all
    samples of all epochs, and whether a fixed weight changed; `trainable` the positions of `values` that trained;
    `measured` what rules measured.
    """

    def __init__(self, flat: FlatModule, device: torch.device) -> None:
        pinned = device.type == "cuda"
        dtype, layout = flat.tensors[0].dtype, flat.layout
        self.values = torch.empty(layout.total, dtype=dtype, pin_memory=pinned)
        self.totals = torch.empty(3, dtype=torch.float64, pin_memory=pinned)
        self.buffers = [torch.empty(b.shape, dtype=b.dtype, pin_memory=pinned) for b in flat.buffers]
        self.trainable: Positions | None = None
        self.measured: tuple[dict[str, Any], ...] = ()


@final
class Slot:
    """A network, its optimizer and the buffers of its steps. On CUDA, everything runs on the slot's own stream."""

    def __init__(self, setup: ClientSetup, data: Samples, settings: SlotSettings) -> None:
        device = settings.device
        self._setup, self._data, self._settings = setup, data, settings
        self._module = ClientModule(
            copy_of(setup.network),
            setup.training,
            setup.inputs,
            channels_last=settings.channels_last and setup.channels_last,
            device=str(device),
            in_place=settings.record,
            layout=setup.layout,
        )
        self.flat = self._module.flat
        self._hooks = Hooks([*setup.callbacks, MaskCallback(check=False), FreezeCallback(check=False)])  # `read` does
        self._size = setup.training.batch_size + 1
        self._samples: dict[tuple[int, ...], Tensor] = {}  # what recorded steps read, by the shape of a sample
        self._labels = torch.zeros(self._size, dtype=torch.int64, device=device)
        self._values = torch.empty(setup.layout.total, dtype=self.flat.tensors[0].dtype, device=device)
        self._recorded: dict[_Key, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle() if settings.record else None
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.load = 0  # steps assigned to this slot in the current window

    def serve(self, data: Samples) -> None:
        """Sets the samples for the next clients, on the device."""
        self._data = data

    def batch(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Raw samples and labels at the indices `samples` int64 [b], on the device."""
        return self._data.batch(samples)

    def train(self, loaded: Loaded, turn: Turn, lr: float, epochs: Sequence[Sequence[Tensor]]) -> None:
        """Trains a client from the loaded model on its epochs' batches of sample indices, int64 [b] each."""
        module = self._module
        if self._settings.record and epochs:
            shapes = {self._data.batch_shape(batch) for epoch in epochs for batch in epoch}
            with seeded_global_state(self._setup.seed, "recording"):  # a client's own draws do not depend on it
                self._prepare(loaded, lr, sorted(shapes))  # changes weights, so it comes before any are loaded
        module.begin(loaded, lr, turn)
        optimizer = module.configure_optimizers()
        self._hooks("on_train_start", module)
        for epoch in epochs:
            self._hooks("on_train_epoch_start", module)
            for index, batch in enumerate(epoch):
                self._step(self.batch(batch), index, optimizer)
            self._hooks("on_train_epoch_end", module)
            module.on_train_epoch_end()
        self._hooks("on_train_end", module)

    def _step(self, batch: tuple[Tensor, Tensor], index: int, optimizer: Any) -> None:
        """One step, replayed if it is recorded."""
        if not self._settings.record:
            local_step(self._module, batch, index, optimizer, self._hooks, forward=self._forward)
            return
        samples, labels = self._setup.training.augmentation(batch[0]), batch[1]
        fed = self._fed(tuple(samples.shape), samples.dtype)
        fed[0].copy_(samples)
        fed[1].copy_(labels)
        self._recorded[self._key(tuple(samples.shape))].replay()

    def _fed(self, shape: Shape, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The buffers from which recorded steps read a batch of this shape: samples and labels."""
        one = shape[1:]
        if one not in self._samples:
            self._samples[one] = torch.zeros(self._size, *one, dtype=dtype, device=self._labels.device)
        return self._samples[one][: shape[0]], self._labels[: shape[0]]

    def _forward(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        with self._autocast():
            return self._module.training_step(batch, index)

    def _key(self, shape: Shape) -> _Key:
        masks = self._module.masks
        return shape, bool(masks.alive), bool(masks.thawed)

    # ---- the trained client ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def read(self, turn: Turn, into: Figures) -> None:
        """Copies the trained client and what the rules measure of it.

        On CUDA, the copies are still in progress when this returns; an event of the stream marks their end.
        """
        module = self._module
        values = self.flat.read(self._values)
        found = [module.broken(dead=dead) for dead in (True, False)]
        moved = [m.double()[None] for m in found if m is not None]
        broken = torch.cat(moved).amax()[None] if moved else module.totals.new_zeros(1)
        into.values.copy_(values, non_blocking=True)
        for buffer, copied in zip(self.flat.buffers, into.buffers, strict=True):
            copied.copy_(buffer, non_blocking=True)
        into.totals.copy_(torch.cat([module.totals, broken]), non_blocking=True)
        into.trainable = module.trainable
        with torch.enable_grad(), self._autocast(cache=False):  # a rule may change weights between two passes
            into.measured = turn.measure()

    # ---- recording ---------------------------------------------------------------------------------------------------

    def _prepare(self, loaded: Loaded, lr: float, shapes: Sequence[Shape]) -> None:
        """Records the step for batches of these shapes, unless already recorded; from now on none if one cannot be."""
        self._module.begin(loaded, lr)
        new = [shape for shape in shapes if self._key(shape) not in self._recorded]
        optimizer = self._module.configure_optimizers() if new else None
        for shape in new:
            step = functools.partial(self._recordable, shape, optimizer)
            if why := why_not_replayed(step, several=self._settings.several):
                _log.info("engine=batched: %s: steps are not recorded", why)
                self._settings = replace(self._settings, record=False)
                return
            self._recorded[self._key(shape)] = self._record(step)

    def _record(self, step: Callable[[], None]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # only this thread records: encoding threads may continue to use the device
        with torch.cuda.graph(graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"):
            step()
        return graph

    def _recordable(self, shape: Shape, optimizer: Any) -> None:
        """One step on a batch of this shape in the buffers, without any hooks."""

        def forward(batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            with self._autocast():
                return self._module.loss_of(*batch)

        batch = self._fed(shape, self._setup.inputs.raw(0).dtype)
        local_step(self._module, batch, 0, optimizer, self._hooks, forward=forward)

    def _autocast(self, *, cache: bool = True) -> contextlib.AbstractContextManager[object]:
        """`cache`: weights are cast once within it, however often they are read."""
        if not self._settings.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self._settings.device.type, dtype=torch.bfloat16, cache_enabled=cache)


def why_not_replayed(step: Callable[[], None], *, several: bool) -> str:
    """Warms a step up and says what it does that a replay would not repeat; an empty string if nothing.

    A replay runs no Python. It cannot wait for the device, and what Python drew at the recording stays drawn.
    `several`: recordings are replayed at the same time.
    """
    step()  # creates momentum; libraries choose their algorithms
    before, device = _states(), _device_state()
    try:
        with _waiting_refused():
            step()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return f"a step cannot be recorded ({one_line(error, 200)})"
    if before != _states():
        return "the model draws random numbers in Python or on the CPU"
    if several and device != _device_state() and TorchVersion(torch.__version__) < _OWN_DRAWS:
        return f"the model draws on the device, which torch {torch.__version__} replays on one stream only"
    return ""


def _states() -> tuple[object, ...]:
    """Of the generators that Python draws from."""
    return torch.get_rng_state().numpy().tobytes(), str(np.random.get_state()), random.getstate()  # noqa: NPY002


def _device_state() -> bytes:
    """Of the current device's generator."""
    return torch.cuda.get_rng_state().numpy().tobytes() if torch.cuda.is_initialized() else b""  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _waiting_refused() -> Iterator[None]:
    """Inside, whatever would wait for a CUDA device raises a RuntimeError."""
    if not torch.cuda.is_available():
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
