"""A client as a LightningModule. One object serves every client in turn: `begin` makes it the next one."""

from __future__ import annotations

from typing import final

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from pffdst.client.step import LocalTraining, add_regularisers_, cross_entropy, make_optimizer, normalise
from pffdst.core.flat import FlatModule
from pffdst.core.model import GlobalModel

__all__ = ["ClientModule"]

Batch = tuple[Tensor, Tensor]


@final
class ClientModule(LightningModule):
    """Trains `network` on uint8 batches. Masks and freezing are the callbacks' business, not this class's.

    `start` is the model the current client began the round from.
    """

    def __init__(
        self,
        network: nn.Module,
        training: LocalTraining,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        channels_last: bool,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        # before `flat` takes its tensors: moving a module replaces its buffers
        self.network = network.to(device).to(memory_format=self.memory_format)
        self.training_numbers = training
        dtype = next(network.parameters()).dtype
        self.register_buffer("mean", torch.tensor(mean, dtype=dtype, device=device).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=dtype, device=device).view(1, -1, 1, 1), persistent=False)
        self.flat = FlatModule(self.network)
        self.start: GlobalModel | None = None
        self._anchors: list[Tensor] = []
        self._steps: list[tuple[Tensor, Tensor, int]] = []

    @property
    def current(self) -> GlobalModel:
        """`start`, once `begin` was called."""
        if self.start is None:
            raise RuntimeError("Expected ClientModule.begin to be called before training")
        return self.start

    def begin(self, start: GlobalModel) -> None:
        """Becomes a client that starts from `start`: weights and statistics loaded, metrics and gradients empty."""
        self.start = start
        self.flat.write_(start.values)
        self.network.zero_grad(set_to_none=True)
        self.train()
        self._steps.clear()
        self._anchors = []
        if self.training_numbers.prox_mu != 0.0:
            self._anchors = [p.detach().clone() for p in self.flat.parameters]

    def forward(self, images: Tensor) -> Tensor:
        """uint8 images [B, C, H, W] to logits [B, classes]."""
        return self.network(normalise(images, self.mean, self.std, self.memory_format))  # type: ignore[no-any-return, arg-type]

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """The loss of one batch; what the metrics need is kept without waiting for it."""
        del batch_index
        images, labels = batch
        logits = self(images)
        loss = cross_entropy(logits, labels)
        with torch.no_grad():
            self._steps.append((loss.detach(), (logits.argmax(1) == labels).sum(), labels.numel()))
        return loss

    def on_after_backward(self) -> None:
        """Decay and proximal term join the gradient before any mask does."""
        numbers = self.training_numbers
        add_regularisers_(self.flat.parameters, self._anchors, numbers.weight_decay, numbers.prox_mu)

    def configure_optimizers(self) -> torch.optim.SGD:
        """A fresh optimizer for this client."""
        return make_optimizer(self.flat.parameters, self.training_numbers)

    def trained(self) -> GlobalModel:
        """The model as it is now, under the masks it started with."""
        return self.current.with_values(self.flat.read())

    def training_metrics(self) -> tuple[float, float]:
        """Mean loss and accuracy over the samples of all steps since `begin`."""
        losses, correct, counts = zip(*self._steps, strict=True)
        seen = torch.tensor(counts, dtype=torch.float64)
        # not torchmetrics' MeanMetric: it drops its weights where NaN, a diverged client's loss, is to stay NaN
        loss = (torch.stack(losses).double().cpu() * seen).sum() / seen.sum()
        return float(loss), float(torch.stack(correct).sum() / seen.sum())

    def gradient_of(self, batch: Batch) -> Tensor:
        """The dense gradient [W] of one batch, without decay or proximal term, normalisation in training mode.

        Running statistics of the module move; read the trained model first.
        """
        self.network.zero_grad(set_to_none=True)
        images, labels = batch
        cross_entropy(self(images), labels).backward()  # type: ignore[no-untyped-call]
        return self.flat.gradient()
