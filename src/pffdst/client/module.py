"""A client as a LightningModule. One object serves every client in turn: `begin` turns it into the next one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, final

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from pffdst.client.loaded import Loaded, Masks
from pffdst.client.step import Batch, add_regularisers_, any_moved, clip_, decay_
from pffdst.core.attributes import Attributes
from pffdst.core.flat import FlatModule, to_memory_format_
from pffdst.core.inputs import Inputs
from pffdst.core.model import GlobalModel, Layout
from pffdst.core.positions import Positions
from pffdst.methods.local import LocalTraining

if TYPE_CHECKING:
    from pffdst.client.turn import Turn

__all__ = ["ClientModule"]


@final
class ClientModule(LightningModule):
    """Trains `network` on raw batches of samples of the kind `inputs`.

    Whatever a method adds is done by its rules, which come with the `turn`.

    `totals` are the sums of the loss and of correct answers over the `seen` samples of a turn; `masks` say what may not
    move now, which the callbacks enforce. With `in_place` the optimizer's memory and its learning rate keep their
    addresses from client to client, as recorded steps require. `layout` is that of the run's network, of which
    `network` is a copy; by default it is the network's own.
    """

    def __init__(
        self,
        network: nn.Module,
        training: LocalTraining,
        inputs: Inputs,
        *,
        channels_last: bool,
        device: str = "cpu",
        in_place: bool = False,
        layout: Layout | None = None,
    ) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        # before `flat` takes its tensors: moving a module replaces its buffers
        self.network = to_memory_format_(network.to(device), self.memory_format)
        dtype = next(p.dtype for p in network.parameters() if p.is_floating_point())
        self.inputs = inputs.front(dtype, self.memory_format, device)
        self.training_numbers = training
        self.flat = FlatModule(self.network, layout)
        self._attributes = Attributes(self.network)
        self.masks = Masks()
        self.lr = training.lr
        self.turn: Turn | None = None
        self.totals = torch.zeros(
            2, dtype=torch.float64, device=device
        )  # loss and correct answers, over `seen` samples
        self.seen = 0
        self._loaded: Loaded | None = None
        self._trainable: Positions | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._in_place = in_place

    # ---- a turn ------------------------------------------------------------------------------------------------------

    @property
    def loaded(self) -> Loaded:
        """What the client started from."""
        if self._loaded is None:
            raise RuntimeError("Expected ClientModule.begin to be called before training")
        return self._loaded

    @property
    def start(self) -> GlobalModel:
        """The model the client started from."""
        model = self.loaded.model
        assert model is not None
        return model

    @property
    def trainable(self) -> Positions:
        """The positions that may change now."""
        return self.start.trainable_at if self._trainable is None else self._trainable

    @torch.no_grad()
    def begin(self, loaded: Loaded, lr: float | None = None, turn: Turn | None = None) -> None:
        """Becomes a client that starts from what is `loaded`: its values and masks; sums and gradients are reset."""
        self._loaded, self.turn, self.masks, self._trainable = loaded, turn, loaded.masks, None
        self._attributes.restore_()
        self.flat.settle_()
        torch._foreach_copy_(self.flat.tensors, loaded.tensors)
        if turn is not None:
            self.flat.write_buffers_(turn.buffers)
        self.network.zero_grad(set_to_none=True)
        self.train()
        self.totals.zero_()
        self.seen = 0
        self.lr = self.training_numbers.lr if lr is None else lr
        if turn is not None:
            turn.enter(self)

    @torch.no_grad()
    def train_on(self, trainable: Positions) -> None:
        """From now on only these positions may change."""
        thawed = self.loaded.masks.thawed
        alive = self.start.frozen_at.plus(trainable)
        masks = self.flat.masks_like(alive.bits)
        left = self.trainable.without(trainable)
        torch._foreach_mul_(self.flat.weights, masks)
        self._forget_momentum(self.flat.masks_like(~trainable.without(self.trainable).plus(left).bits))
        self.masks, self._trainable = Masks(masks, thawed), trainable

    def _forget_momentum(self, kept: list[Tensor]) -> None:
        """Resets the optimizer's memory of a weight where its mask in `kept` is 0."""
        if self._optimizer is not None:
            for weight, mask in zip(self.flat.weights, kept, strict=True):
                for value in self._optimizer.state.get(weight, {}).values():
                    if isinstance(value, Tensor) and value.shape == mask.shape:
                        value.mul_(mask)

    def set_lr(self, lr: float) -> None:
        """Sets the learning rate from this step on."""
        self.lr = lr
        if self._optimizer is not None:
            for group in self._optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(lr)
                else:
                    group["lr"] = lr

    @property
    def _rate(self) -> float | Tensor:
        """The learning rate as a step reads it: a recorded one reads a tensor, since it would repeat a number."""
        if self._in_place and self._optimizer is not None:
            return self._optimizer.param_groups[0]["lr"]  # type: ignore[no-any-return]
        return self.lr

    # ---- a step ------------------------------------------------------------------------------------------------------

    def forward(self, samples: Tensor) -> Tensor:
        """Raw samples [B, ...] to the network's outputs [B, classes]."""
        return self.network(self.inputs(samples))  # type: ignore[no-any-return]

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """The loss of one batch; the reported sums are accumulated without synchronising."""
        if self.turn is not None:
            self.turn.before_step()
        samples, labels = batch
        return self.loss_of(self.training_numbers.augmentation(samples), labels)

    def loss_of(self, samples: Tensor, labels: Tensor) -> Tensor:
        """The loss of samples as fed to the network: the part that an engine may record."""
        outputs = self(samples)
        loss = self.training_numbers.objective.loss(outputs, labels)
        with torch.no_grad():
            correct = (outputs.argmax(1) == labels).sum()
            self.totals.add_(torch.stack([loss.detach().double() * labels.numel(), correct.double()]))
            self.seen += labels.numel()
        return loss

    def on_after_backward(self) -> None:
        """Clipping, decay, proximal term and the objective's and rules' own terms; masks come after all of them."""
        numbers, parameters = self.training_numbers, self.flat.parameters
        anchors = self.loaded.parameters if numbers.anchored else []
        if self.turn is not None:
            self.turn.after_backward()
        if numbers.clip_norm > 0.0:
            clip_(parameters, self.masks.both, numbers.clip_norm)
        decoupled = numbers.optimizer.decoupled
        add_regularisers_(parameters, anchors, 0.0 if decoupled else numbers.weight_decay, numbers.prox_mu)
        numbers.objective.regularise_(parameters, anchors if numbers.objective.anchored else [])
        if self.turn is not None:
            self.turn.shape_gradient_()
        if decoupled and numbers.weight_decay != 0.0:
            decay_(parameters, self.masks.both, self._rate * numbers.weight_decay)

    def on_train_epoch_end(self) -> None:
        """An epoch is over."""
        if self.turn is not None:
            self.turn.epoch_end()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """This client's optimizer, with empty state: one object serves all clients in turn."""
        if self._optimizer is None:
            numbers = self.training_numbers
            self._optimizer = numbers.optimizer.make(self.flat.parameters, self.lr, numbers.momentum)
            if self._in_place:
                for group in self._optimizer.param_groups:
                    group["lr"] = torch.tensor(float(self.lr), device=self.totals.device)
                    if "capturable" in group:  # Adam's steps are counted on the device
                        group["capturable"] = True
                        self._optimizer._warned_capturable_if_run_uncaptured = True
        if self._in_place:
            memory = [v for state in self._optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
            if memory:
                torch._foreach_zero_(memory)
        else:
            self._optimizer.state.clear()
        self.set_lr(self.lr)
        return self._optimizer

    # ---- what it has become ------------------------------------------------------------------------------------------

    def broken(self, *, dead: bool) -> Tensor | None:
        """Whether a dead (or frozen) weight changed to another number; None if no weight is dead (or frozen).

        bool [], on the network's device.
        """
        masks = self.masks.alive if dead else self.masks.thawed
        if not masks:
            return None
        weights, loaded = self.flat.weights, self.loaded.tensors[: len(self.flat.weights)]
        stay = [torch.zeros_like(w) for w in weights] if dead and self._trainable is not None else loaded
        return any_moved(weights, stay, masks)

    def trained(self) -> GlobalModel:
        """The current model, under its current masks."""
        start, flat = self.start, self.flat.read()
        weights, rest = flat[: start.layout.maskable], flat[start.layout.maskable :]
        if self._trainable is not None:
            start = start.moved(start.frozen_at.plus(self._trainable))
        return start.with_trained(start.trainable_at.gather(weights), rest)

    def training_metrics(self) -> tuple[float, float]:
        """Mean loss and accuracy over the samples of all steps since `begin`; 0 if there were none."""
        loss, correct = self.totals.tolist()
        return (loss / self.seen, correct / self.seen) if self.seen else (0.0, 0.0)

    @contextlib.contextmanager
    def undisturbed(self, *, training: bool = True) -> Iterator[None]:
        """The network in training or inference mode; mode, statistics, buffers and gradients are restored."""
        self.flat.settle_()
        state = [*self.flat.statistics, *self.flat.buffers]
        kept = [t.clone() for t in state]
        self.network.zero_grad(set_to_none=True)
        self.network.train(training)
        try:
            yield
        finally:
            self.network.train()
            self.network.zero_grad(set_to_none=True)
            self.flat.settle_()
            with torch.no_grad():
                for tensor, before in zip(state, kept, strict=True):
                    tensor.copy_(before)

    def probe(self, batch: Batch, temperature: float = 1.0) -> Tensor:
        """The mean loss of one batch as fed, with the outputs divided by `temperature`; the sums are not updated."""
        samples, labels = batch
        return self.training_numbers.objective.loss(self(samples) / temperature, labels)

    def gradient_of(self, batch: Batch, *, training: bool = True) -> Tensor:
        """The dense gradient [W] of one batch, without decay or proximal term, on the network's device.

        Statistics and sums are left unchanged.
        """
        with self.undisturbed(training=training):
            self.probe(batch).backward()  # type: ignore[no-untyped-call]
            return self.flat.gradient()
