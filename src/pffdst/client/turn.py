"""A client's whole turn, except the loop over its batches: receive, load, fit, measure, answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, final

from lightning.pytorch import Callback
from torch import Tensor, nn

from pffdst.client.inbox import Inbox
from pffdst.client.loaded import Loaded
from pffdst.client.module import ClientModule
from pffdst.core.inputs import Inputs
from pffdst.core.messages import ClientTask, Kept, Timings, Update
from pffdst.core.model import GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.core.seeding import derive_seed, generator_for, seeded_global_state
from pffdst.core.state import changes
from pffdst.data.batches import ClientBatches, steps
from pffdst.data.clients.divided import Shares
from pffdst.data.samples import Handle
from pffdst.methods.faults import Faulty
from pffdst.methods.local import LocalTraining
from pffdst.methods.method import Method, stage_of
from pffdst.methods.rule import Answer, Rule
from pffdst.wire.codecs import Codecs
from pffdst.wire.downlink import Memory, Received
from pffdst.wire.frame import WireError
from pffdst.wire.uplink import Report, UplinkForm, encode_uplink, with_residual

__all__ = ["ClientSetup", "ClientWork", "Fit", "Trained", "Turn", "answer", "unreadable"]

Fit = Callable[[ClientModule, ClientBatches, int], None]  # the last: how many epochs


@final
@dataclass(frozen=True)
class ClientSetup:
    """What every client knows before the first round: the configuration both sides share, and the data.

    `data` are the training samples, of the kind `inputs`, and `shares` says which client has which. `network` is the
    run's own network: clients get copies of it, whose weights are overwritten by what they receive. `channels_last`:
    whether it takes images in that memory format. `known` are the first stage's positions, if clients derive them
    themselves. `least` is the smallest batch that the network can train on. `faulty` are the clients with an injected
    fault.
    """

    network: nn.Module
    layout: Layout
    training: LocalTraining
    method: Method
    stages: tuple[Stage, ...]
    codecs: Codecs
    send_statistics: bool
    seed: int
    inputs: Inputs
    data: Handle
    shares: Shares
    callbacks: tuple[Callback, ...] = ()
    channels_last: bool = True
    known: Positions | None = None
    least: int = 1
    faulty: Faulty = field(default_factory=Faulty)

    @property
    def clients(self) -> int:
        """C."""
        return self.shares.clients

    def samples(self, client: int) -> int:
        """n_k, the number of training samples of a client."""
        return self.shares.size(client)

    def untrainable(self, cohort: Sequence[int]) -> dict[int, str]:
        """The clients with fewer samples than the network needs to train, and why they are left out."""
        few = [c for c in cohort if self.samples(c) < self.least] if self.least > 1 else ()
        return dict.fromkeys(few, "has only one sample, but this model needs two to train on: nothing is sent to it")

    def indices(self, client: int) -> Tensor:
        """A client's training samples, int64 [n_k]."""
        return self.shares.train(client)

    def epochs(self, t: int) -> int:
        """E, the local epochs of round t; 0 if clients only send what the rules ask for."""
        return self.method.epochs(t, self.training.epochs)

    def steps(self, client: int, t: int) -> int:
        """B, the local steps of a client's turn in round t."""
        return self.epochs(t) * steps(self.samples(client), self.training.batch_size)

    def stage_of(self, t: int) -> Stage:
        """The stage that holds round t."""
        return stage_of(self.stages, t)

    def uplink(self, t: int) -> UplinkForm:
        """What the updates of round t contain."""
        return self.method.uplink(self.codecs, self.stage_of(t), t, statistics=self.send_statistics)


# ---- what rules see ------------------------------------------------------------------------------------------------


@final
class Turn:
    """One client's turn as its rules see it (`ClientTurn` says what they may do).

    `batches` returns the client's samples in the order of a named draw, batch by batch, on the network's device.
    """

    def __init__(
        self,
        setup: ClientSetup,
        task: ClientTask,
        received: Received,
        memory: Mapping[str, Tensor],
        batches: Callable[[str], Iterator[tuple[Tensor, Tensor]]],
    ) -> None:
        self.client, self.t = task.client, task.t
        self.stage, self.rounds = setup.stage_of(task.t), setup.training.rounds
        self.samples, self.steps = setup.samples(task.client), setup.steps(task.client, task.t)
        self.step, self.epoch = 0, 0
        self.start, self.received, self.memory = received.model, received.signals, memory
        self.buffers = received.buffers
        self.scratch: dict[str, Any] = {}
        self._setup, self._batches = setup, batches
        self.epochs = setup.epochs(task.t)
        self._module: ClientModule | None = None
        rules = tuple(setup.method)
        self._before = [rule for rule in rules if _has(rule, "before_step")]
        self._backward = [rule for rule in rules if _has(rule, "after_backward")]
        self._shape = [rule for rule in rules if _has(rule, "shape_gradient_")]
        self._after_epoch = [rule for rule in rules if _has(rule, "epoch_end")]

    # ---- what the module tells it ------------------------------------------------------------------------------------

    def enter(self, module: ClientModule) -> None:
        """The model is loaded."""
        self._module = module
        for rule in self._setup.method:
            rule.begin(self)

    def before_step(self) -> None:
        """A step is about to begin."""
        for rule in self._before:
            rule.before_step(self)

    def after_backward(self) -> None:
        """The loss's gradient has been computed."""
        for rule in self._backward:
            rule.after_backward(self)

    def shape_gradient_(self) -> None:
        """The gradient contains everything except the rules' own terms."""
        for rule in self._shape:
            rule.shape_gradient_(self)
        self.step += 1

    def epoch_end(self) -> None:
        """An epoch is over."""
        self.epoch += 1
        if self.epoch < self.epochs:
            for rule in self._after_epoch:
                rule.epoch_end(self, self.epoch - 1)

    def measure(self) -> tuple[dict[str, Any], ...]:
        """What each rule measures after the last step."""
        return tuple(rule.measure(self) for rule in self._setup.method)

    # ---- what rules ask ----------------------------------------------------------------------------------------------

    @property
    def module(self) -> ClientModule:
        """The client's module."""
        assert self._module is not None  # rules are only called once it is set
        return self._module

    @property
    def layout(self) -> Layout:
        """The order of the tensors."""
        return self._setup.layout

    @property
    def network(self) -> nn.Module:
        """The client's network."""
        return self.module.network

    @property
    def weights(self) -> list[Tensor]:
        """The maskable tensors, in the layout's order."""
        return self.module.flat.weights

    @property
    def parameters(self) -> list[Tensor]:
        """All trained tensors, maskable ones first."""
        return self.module.flat.parameters

    @property
    def lr(self) -> float:
        """The learning rate now."""
        return self.module.lr

    @property
    def first_lr(self) -> float:
        """The learning rate of round 0."""
        return self._setup.training.lr_at(0)

    @property
    def trainable(self) -> Positions:
        """What may change now."""
        return self.module.trainable

    def train_on(self, trainable: Positions) -> None:
        """From now on only these positions may change."""
        self.module.train_on(trainable)

    def set_lr(self, lr: float) -> None:
        """Sets the learning rate from this step on."""
        self.module.set_lr(lr)

    def values(self) -> Tensor:
        """The maskable weights now, flat [W], on the network's device."""
        return self.module.flat.maskable()

    def batches(self, stream: str) -> Iterator[tuple[Tensor, Tensor]]:
        """An epoch of the client's batches in the order of a named draw."""
        return self._batches(stream)

    def batch(self, stream: str = "probe") -> tuple[Tensor, Tensor]:
        """The first of them."""
        return next(self._batches(stream))

    def undisturbed(self, *, training: bool = True) -> AbstractContextManager[None]:
        """The network in training or inference mode; mode, statistics, buffers and gradients are restored."""
        return self.module.undisturbed(training=training)

    def loss(self, batch: tuple[Tensor, Tensor], temperature: float = 1.0) -> Tensor:
        """The mean loss of a batch now."""
        return self.module.probe(batch, temperature)

    def gradient(self, stream: str = "probe", *, training: bool = True) -> Tensor:
        """The dense gradient of one batch, flat [W], on the network's device."""
        return self.module.gradient_of(self.batch(stream), training=training)

    @property
    def stage_seed(self) -> int:
        """The seed of the stage's first draw."""
        return self.stage.first_seed(self._setup.seed)

    def generator_seed(self, stream: str) -> int:
        """The seed of a named draw of this client in this round."""
        return derive_seed(self._setup.seed, stream, self.t, self.client)


def _has(rule: Rule, hook: str) -> bool:
    return getattr(type(rule), hook) is not getattr(Rule, hook)


# ---- a turn --------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, eq=False)
class Trained:
    """A client after its last step: the model under the masks it has now, its mean training loss and accuracy.

    `measured` is what each rule measured; `buffers` are those it changed, None for each of the others.
    """

    model: GlobalModel
    loss: float
    accuracy: float
    measured: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    buffers: Sequence[Tensor | None] = ()


def answer(
    setup: ClientSetup, task: ClientTask, start: GlobalModel, trained: Trained, kept: Kept
) -> tuple[bytes, Kept]:
    """The update's bytes, and what the client keeps. The rules are applied first."""
    stage, form = setup.stage_of(task.t), setup.uplink(task.t)
    made = Answer(trained.model)
    for rule, measured in zip(setup.method, trained.measured, strict=True):
        made = rule.answer(made, measured, stage, task.t)
    own = form.own_masks is not None
    if made.own_mask != own:
        raise ValueError(f"Expected a rule that declares own masks to send one, but got own_mask={made.own_mask}")
    model = made.model if kept.residual is None else with_residual(made.model, kept.residual)
    lie = setup.faulty.lie(task.client, task.t, start, kept.memory)
    payload, residual = encode_uplink(
        lie.model(model),
        start,
        task.client,
        task.t,
        Report(lie.samples(setup.samples(task.client)), trained.loss, trained.accuracy),
        form,
        seed=derive_seed(setup.seed, "uplink", task.t, task.client),
        signals=made.signals,
        keep_residual=setup.codecs.values.client_feedback and not own,  # its next mask will be different
        buffers=trained.buffers,
    )
    return lie.message(payload), Kept(residual, {**made.memory, **lie.kept(model, payload)})


def unreadable(task: ClientTask, error: WireError) -> Update:
    """What a client answers to a message that it could not read."""
    return Update(task.client, None, f"could not read the server's message: {error}")


@final
class ClientWork:
    """Runs one client after another with one module; nothing of a client outlives its turn but its data's pages."""

    def __init__(self, setup: ClientSetup, *, channels_last: bool, device: str = "cpu") -> None:
        self.setup = setup
        self.data = setup.data.open()
        self.module = ClientModule(
            setup.network,
            setup.training,
            setup.inputs,
            channels_last=channels_last and setup.channels_last,
            device=device,
            layout=setup.layout,
        )
        self._loaded = Loaded(self.module.flat)
        self._inbox = Inbox(setup)

    def turn(self, task: ClientTask, memory: Memory, fit: Fit, kept: Kept | None = None) -> Update:
        """One client's round. A payload that cannot be read gives an Update with the problem, never an exception."""
        began = time.perf_counter()
        try:
            received = self._inbox.receive(task, memory)
        except WireError as error:
            return unreadable(task, error)
        decoded = time.perf_counter()
        kept = kept or Kept()
        with seeded_global_state(self.setup.seed, "forward", task.t, task.client):
            trained = self._train(task, received, kept, fit)
        done = time.perf_counter()
        payload, left = answer(self.setup, task, received.model, trained, kept)
        timings = Timings(decoded - began, done - decoded, time.perf_counter() - done)
        return Update(task.client, payload, None, timings, left)

    def _train(self, task: ClientTask, received: Received, kept: Kept, fit: Fit) -> Trained:
        """The client after training."""
        setup, module = self.setup, self.module
        if not self._loaded.holds(received.model):
            self._loaded.load_(received.model)
        turn = Turn(setup, task, received, kept.memory, lambda stream: self._on_device(task, stream))
        module.begin(self._loaded, setup.training.lr_at(task.t), turn)
        if turn.epochs > 0:
            fit(module, self._batches(task, "client"), turn.epochs)
        model, (loss, accuracy) = module.trained(), module.training_metrics()
        buffers = changes(received.buffers, module.flat.read_buffers())
        return Trained(model, loss, accuracy, turn.measure(), buffers)

    def _on_device(self, task: ClientTask, stream: str) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, on the network's device."""
        device = self.module.flat.tensors[0].device
        for samples, labels in self._batches(task, stream):
            yield samples.to(device), labels.to(device)

    def _batches(self, task: ClientTask, stream: str) -> ClientBatches:
        """The client's own samples in the order of a named draw."""
        setup = self.setup
        indices, generator = setup.indices(task.client), generator_for(setup.seed, stream, task.t, task.client)
        labels = None
        if setup.faulty.relabels(task.client):
            labels = setup.faulty.labels(task.client, self.data.labels[indices])
        batches = ClientBatches(self.data, indices, setup.training.batch_size, generator, labels)
        self.data.forget_pages()  # the batches have copies; otherwise every worker ends up holding all samples
        return batches
