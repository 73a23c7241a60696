"""Places on a device where one client after another trains; on CUDA a step is recorded once and replayed.

A recorded step (a CUDA graph) has fixed shapes and addresses: there is one for every length of a batch that occurs,
and what differs from client to client is copied into the buffers it reads. All of it is the very step of the other
engines, so nothing has to be masked for a short last batch and normalisation sees just the batch's own samples.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pffdst.client.module import ClientModule
from pffdst.client.step import add_regularisers_, cross_entropy, mask_gradients_
from pffdst.client.turn import ClientSetup
from pffdst.core.flat import FlatModule
from pffdst.core.model import GlobalModel
from pffdst.data.samples import Samples

__all__ = ["Figures", "Loaded", "Slot", "SlotSettings"]

_WARM_UPS = 2  # steps before a recording: momentum is made, libraries choose their algorithms


@final
@dataclass(frozen=True)
class SlotSettings:
    """How clients train on `device`: `bf16` is autocast to bfloat16; `record` replays recorded steps (CUDA)."""

    device: torch.device
    channels_last: bool
    bf16: bool
    record: bool


@final
class Figures:
    """What is read of a trained client, in memory that the device can write to by itself while others train.

    `values` [N]; `gradient` [W], valid on gradient rounds; `totals` float64 [3]: sums of loss and of correct answers
    over all samples of all epochs, and whether a weight moved that had to stay.
    """

    def __init__(self, flat: FlatModule, device: torch.device) -> None:
        pinned = device.type == "cuda"
        dtype, layout = flat.tensors[0].dtype, flat.layout
        self.values = torch.empty(layout.total, dtype=dtype, pin_memory=pinned)
        self.gradient = torch.empty(layout.maskable, dtype=dtype, pin_memory=pinned)
        self.totals = torch.empty(3, dtype=torch.float64, pin_memory=pinned)


@final
class Loaded:
    """The model of a round on the device, from which all slots load their clients. Its tensors keep their addresses.

    `tensors` lie as the network's do; `masks` are 1 where a weight is trainable, 0 where it is dead or frozen.
    """

    def __init__(self, flat: FlatModule) -> None:
        self._flat = flat
        self.tensors = [torch.empty_like(t) for t in flat.tensors]
        self.parameters = [t for t, e in zip(self.tensors, flat.layout.entries, strict=True) if e.kind != "statistic"]
        self.masks = [torch.ones_like(w) for w in flat.weights]
        self.masked = False
        self._stay = self._weights = torch.empty(0)
        self.model: GlobalModel | None = None

    def holds(self, model: GlobalModel) -> bool:
        """Whether this very model is loaded: clients that were sent different messages read the same from them."""
        own = self.model
        return own is model or (
            own is not None
            and torch.equal(own.values, model.values)
            and torch.equal(own.alive, model.alive)
            and torch.equal(own.frozen, model.frozen)
        )

    @torch.no_grad()
    def load_(self, model: GlobalModel) -> None:
        """Brings a model to the device. No slot may be at work with the one before."""
        layout, device = model.layout, self.tensors[0].device
        values, trainable = model.values.to(device), model.trainable.to(device)
        for (_, part), tensor in zip(layout.split(values), self.tensors, strict=True):
            tensor.copy_(part)
        for (_, bits), mask in zip(layout.split(trainable), self.masks, strict=True):
            mask.copy_(bits)
        self._weights, self._stay = values[: layout.maskable], ~trainable
        self.masked = bool((~model.trainable).any())
        self.model = model

    def moved(self, weights: Tensor) -> Tensor:
        """Whether a dead or frozen weight of a flat [W] is another number than before; NaN is a diverged client's."""
        return ((weights != self._weights) & self._stay & ~weights.isnan()).any()


@final
class Slot:
    """A network, its optimizer and the buffers of its steps. On CUDA everything happens on a stream of its own."""

    def __init__(self, setup: ClientSetup, data: Samples, settings: SlotSettings) -> None:
        device = settings.device
        self._setup, self._data, self._settings = setup, data, settings
        self._module = ClientModule(
            copy.deepcopy(setup.network),
            setup.training,
            setup.mean,
            setup.std,
            channels_last=settings.channels_last,
            device=str(device),
        )
        self._module.train()
        self.flat = self._module.flat
        self._optimizer = self._module.configure_optimizers()
        self._batch = torch.zeros(setup.training.batch_size + 1, dtype=torch.int64, device=device)
        self._totals = torch.zeros(2, dtype=torch.float64, device=device)
        self._values = torch.empty(setup.layout.total, dtype=self.flat.tensors[0].dtype, device=device)
        self._gradient = torch.empty(setup.layout.maskable, dtype=self._values.dtype, device=device)
        self._recorded: dict[tuple[int, bool], torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle() if settings.record else None
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.load = 0  # steps given to this slot in the present window

    def train(self, loaded: Loaded, batches: Sequence[Tensor]) -> None:
        """Trains a client from the loaded model on batches of samples' numbers, int64 [b] each."""
        lengths = [len(batch) for batch in batches]
        if self._settings.record:
            for length in sorted(set(lengths)):
                self._record(loaded, length)  # which moves weights: before any are loaded
        self._load(loaded)
        order = torch.cat(list(batches)).to(self._batch.device, non_blocking=True)
        for batch in torch.split(order, lengths):
            self._batch[: len(batch)].copy_(batch)
            if self._settings.record:
                self._recorded[len(batch), loaded.masked].replay()
            else:
                self._step(loaded, len(batch))

    @torch.no_grad()
    def read(self, loaded: Loaded, into: Figures, probe: Tensor | None) -> None:
        """Copies what the client became; `probe` are the samples of its dense gradient, where one is due.

        On CUDA the copies are under way when this returns: an event of the stream tells when they have arrived.
        """
        values = self.flat.read(self._values)
        moved = loaded.moved(values[: self._setup.layout.maskable])
        into.values.copy_(values, non_blocking=True)
        into.totals.copy_(torch.cat([self._totals, moved.double()[None]]), non_blocking=True)
        if probe is not None:
            with torch.enable_grad():
                self._backward(probe.to(self._batch.device))
            into.gradient.copy_(self.flat.gradient(self._gradient), non_blocking=True)

    @torch.no_grad()
    def _load(self, loaded: Loaded) -> None:
        """A client's beginning: the round's model, momentum 0, no samples seen."""
        torch._foreach_copy_(self.flat.tensors, loaded.tensors)
        momenta = [s["momentum_buffer"] for s in self._optimizer.state.values() if s.get("momentum_buffer") is not None]
        if momenta:
            torch._foreach_zero_(momenta)
        self._totals.zero_()

    def _record(self, loaded: Loaded, length: int) -> None:
        """Records the step for batches of this length, unless it is recorded already."""
        key = (length, loaded.masked)
        if key in self._recorded:
            return
        for _ in range(_WARM_UPS):
            self._step(loaded, length)
        graph = torch.cuda.CUDAGraph()
        # only this thread records: those that encode may go on using the device
        with torch.cuda.graph(graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"):
            self._step(loaded, length)
        self._recorded[key] = graph

    def _step(self, loaded: Loaded, length: int) -> None:
        """One step on the first `length` samples of the batch's buffer."""
        training = self._setup.training
        loss, correct = self._backward(self._batch[:length])
        add_regularisers_(self.flat.parameters, loaded.parameters, training.weight_decay, training.prox_mu)
        if loaded.masked:
            mask_gradients_(self.flat.weights, loaded.masks)
        self._optimizer.step()
        self._totals += torch.stack([loss.double() * length, correct.double()])

    def _backward(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of a batch, its mean loss and number of correct answers."""
        inputs, labels = self._data.batch(samples)
        self._module.zero_grad(set_to_none=True)
        with self._autocast():
            logits = self._module(inputs)
            loss = cross_entropy(logits, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if not self._settings.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self._settings.device.type, dtype=torch.bfloat16)
