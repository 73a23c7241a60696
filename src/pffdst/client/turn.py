"""A client's whole turn but the loop over its batches: receive, load, fit, move the mask if asked, answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from pffdst.client.module import ClientModule
from pffdst.client.step import LocalTraining
from pffdst.core.messages import ClientTask, Residual, Timings, Update
from pffdst.core.model import GlobalModel, Layout, Stage
from pffdst.core.seeding import derive_seed, generator_for
from pffdst.data.batches import ClientBatches
from pffdst.data.clients.divided import Shares
from pffdst.data.samples import Handle
from pffdst.methods.readjust.base import ReadjustRule
from pffdst.wire.downlink import Memory, decode_downlink
from pffdst.wire.frame import WireError
from pffdst.wire.uplink import Report, encode_uplink, residual_of, with_residual
from pffdst.wire.values import ValueCodec

__all__ = ["ClientSetup", "ClientWork", "Fit", "Inbox", "Trained", "answer", "unreadable"]

Fit = Callable[[ClientModule, ClientBatches], None]


@final
@dataclass(frozen=True)
class ClientSetup:
    """What every client knows before the first round: the configuration both sides share, and the data.

    `shares` says which training samples are whose. `network` is a template: its weights are overwritten by what
    arrives.
    """

    network: nn.Module
    layout: Layout
    training: LocalTraining
    rule: ReadjustRule
    stages: tuple[Stage, ...]
    codec: ValueCodec
    send_statistics: bool
    seed: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    images: Handle
    shares: Shares

    @property
    def clients(self) -> int:
        """C."""
        return self.shares.clients

    def samples(self, client: int) -> int:
        """n_k, the number of training samples of a client."""
        return self.shares.size(client)

    def indices(self, client: int) -> Tensor:
        """A client's training samples, int64 [n_k]."""
        return self.shares.train(client)

    def shuffling(self, task: ClientTask, stream: str) -> torch.Generator:
        """The draw that orders a client's samples in a round, named by run, round and client."""
        return generator_for(self.seed, stream, task.t, task.client)

    def stage_of(self, t: int) -> Stage:
        """The stage that holds round t."""
        return next(s for s in self.stages if s.start <= t < s.stop)

    def wants_gradient(self, t: int) -> bool:
        """Whether clients end round t with a dense gradient and move their masks."""
        return self.rule.wants_gradient(self.stage_of(t), t)


@final
class Inbox:
    """Decodes the server's messages, once for all clients of a round that hold the same."""

    def __init__(self, setup: ClientSetup) -> None:
        self._setup = setup
        self._last: tuple[bytes, Memory, GlobalModel] | None = None

    def receive(self, task: ClientTask, memory: Memory) -> GlobalModel:
        """The model a client starts from. Raises WireError where the message cannot be read."""
        kept = self._last
        if kept is None or kept[0] is not task.payload or kept[1] is not memory:
            model, t = decode_downlink(task.payload, memory, self._setup.layout, self._setup.codec)
            if t != task.t:
                raise WireError(f"round: expected {task.t}, but got {t}")
            self._last = kept = (task.payload, memory, model)
        return kept[2]


@final
@dataclass(frozen=True, eq=False)
class Trained:
    """A client after its last epoch: the model under the masks it started with, its mean training loss and accuracy.

    `gradient` [W] is the dense gradient of one batch, on rounds on which the rule wants it.
    """

    model: GlobalModel
    loss: float
    accuracy: float
    gradient: Tensor | None = None


def answer(
    setup: ClientSetup, task: ClientTask, start: GlobalModel, trained: Trained, residual: Residual | None
) -> tuple[bytes, Residual | None]:
    """The update's bytes, and what the client keeps; with a gradient the mask is moved first."""
    model, moved = trained.model, trained.gradient is not None
    report = Report(setup.samples(task.client), trained.loss, trained.accuracy)
    if trained.gradient is not None:
        model = setup.rule.on_client(model, trained.gradient, setup.stage_of(task.t), task.t)
    if residual is not None:
        model = with_residual(model, residual)
    payload = encode_uplink(
        model,
        start,
        task.client,
        task.t,
        report,
        setup.codec,
        seed=derive_seed(setup.seed, "uplink", task.t, task.client),
        moved=moved,
        statistics=setup.send_statistics,
    )
    if moved or not setup.codec.client_feedback:  # a mask that the client moved is not the next one it will have
        return payload, None
    return payload, residual_of(payload, model, start, setup.codec)


def unreadable(task: ClientTask, error: WireError) -> Update:
    """What a client says of a message that it could not read."""
    return Update(task.client, None, f"could not read the server's message: {error}")


@final
class ClientWork:
    """Plays one client after another with one module; nothing of a client outlives its turn but its data's pages."""

    def __init__(self, setup: ClientSetup, *, channels_last: bool, device: str = "cpu") -> None:
        self.setup = setup
        self.data = setup.images.open()
        self.module = ClientModule(
            setup.network, setup.training, setup.mean, setup.std, channels_last=channels_last, device=device
        )
        self._inbox = Inbox(setup)

    def turn(self, task: ClientTask, memory: Memory, fit: Fit, residual: Residual | None = None) -> Update:
        """One client's round. A payload that cannot be read makes an Update with its problem, never an exception."""
        began = time.perf_counter()
        try:
            start = self._inbox.receive(task, memory)
        except WireError as error:
            return unreadable(task, error)
        decoded = time.perf_counter()
        self.module.begin(start)
        fit(self.module, self._batches(task, "client"))
        trained = self._trained(task)
        done = time.perf_counter()
        payload, left = answer(self.setup, task, start, trained, residual)
        timings = Timings(decoded - began, done - decoded, time.perf_counter() - done)
        return Update(task.client, payload, None, timings, left)

    def _batches(self, task: ClientTask, stream: str) -> ClientBatches:
        """The client's own samples in the round's order."""
        setup = self.setup
        indices, generator = setup.indices(task.client), setup.shuffling(task, stream)
        batches = ClientBatches(self.data, indices, setup.training.batch_size, generator)
        self.data.forget_pages()  # the batches have copies; else every worker comes to hold everybody's images
        return batches

    def _trained(self, task: ClientTask) -> Trained:
        """What the module has become, with the dense gradient where the rule wants it."""
        module = self.module
        model, (loss, accuracy) = module.trained(), module.training_metrics()
        gradient = None
        if self.setup.wants_gradient(task.t):
            device = module.flat.tensors[0].device
            images, labels = next(iter(self._batches(task, "probe")))
            gradient = module.gradient_of((images.to(device), labels.to(device)))
        return Trained(model, loss, accuracy, gradient)
