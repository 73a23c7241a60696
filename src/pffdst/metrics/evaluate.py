"""Accuracy of one model on every client's test share, in a single pass over the pooled test set."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import multiclass_stat_scores

from pffdst.data.samples import ImageSet

__all__ = ["Evaluation", "Evaluator"]


# On two cores any batch of 125 to 1,000 images is equally fast on LeNet, and a small one takes less memory; an
# accelerator wants large ones.
_SMALL, _LARGE = 125, 1000


@final
@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model scored; accuracies are shares in [0, 1], the loss is the mean cross-entropy in nats.

    `acc_client_mean` is the unweighted mean over the `clients_counted` clients that hold at least one test sample;
    `client_accuracies` is float64 [clients], NaN for the others.
    """

    acc_global: float
    acc_client_mean: float
    loss_global: float
    clients_counted: int
    client_accuracies: Tensor


@final
class Evaluator:
    """The pooled test set, and which client each of its samples belongs to.

    `owner` integers [N], each a client in [0, `clients`); `mean` and `std` per channel of pixels in [0, 1];
    `batch_size` None suits the device. ValueError if there are no images or the owners do not fit them.
    """

    def __init__(
        self,
        test: ImageSet,
        owner: Tensor,
        clients: int,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int | None = None,
        channels_last: bool = True,
    ) -> None:
        _check_owners(test, owner, clients)
        self._test = test
        self._images = test.images
        self._labels = test.labels
        self._owner = owner.to(torch.int64)
        self._held = torch.bincount(self._owner, minlength=clients)
        self._mean = torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1)
        self._batch_size = batch_size
        self._layout = torch.channels_last if channels_last else torch.contiguous_format

    def evaluate(
        self, model: nn.Module, device: torch.device | str = "cpu", step: Callable[[int, int], None] | None = None
    ) -> Evaluation:
        """Scores a `model` that lives on `device` and gives logits [B, classes]; leaves it as it was.

        `step` is told after every batch how many images of how many are done.
        """
        self._move(torch.device(device))
        parts = list(self._batches())
        # Made beforehand: small results kept between the batches' large ones would leave the heap full of holes.
        predictions = torch.empty(len(self._images), dtype=torch.int64, device=device)
        losses = torch.empty(len(parts), dtype=torch.float64, device=device)
        with torch.inference_mode(), _evaluating(model):
            for part, loss in zip(parts, losses, strict=True):
                classes = self._score(model, part, predictions[part], loss)
                if step is not None:
                    step(min(part.stop, len(self._images)), len(self._images))
        self._test.forget_pages()  # of no use until the next evaluation, and many in a run that trains small models
        return self._summarise(predictions.cpu(), losses.sum().item() / len(predictions), classes)

    def _batches(self) -> Iterator[slice]:
        fitting = _SMALL if self._images.device.type == "cpu" else _LARGE
        size = fitting if self._batch_size is None else self._batch_size
        for start in range(0, len(self._images), size):
            yield slice(start, start + size)

    def _score(self, model: nn.Module, part: slice, predictions: Tensor, loss: Tensor) -> int:
        """One batch: writes the predicted classes [B] and the summed loss; gives the number of classes."""
        pixels = self._images[part].to(torch.float32, memory_format=self._layout)
        logits = model(pixels.div_(255).sub_(self._mean).div_(self._std)).float()
        labels = self._labels[part].to(logits.device)
        predictions.copy_(logits.argmax(dim=1))
        loss.copy_(cross_entropy(logits, labels, reduction="sum"))
        return int(logits.shape[1])

    def _summarise(self, predictions: Tensor, loss: float, classes: int) -> Evaluation:
        # Counts, not torchmetrics' float32 accuracy, which would not read back as hits / N.
        hits, *_, total = multiclass_stat_scores(
            predictions, self._labels, num_classes=classes, average="micro", validate_args=False
        ).tolist()
        correct = (predictions == self._labels).double()
        per_client = torch.zeros(len(self._held), dtype=torch.float64).scatter_add_(0, self._owner, correct)
        per_client /= self._held
        held = self._held > 0
        return Evaluation(
            acc_global=hits / total,
            acc_client_mean=per_client[held].mean().item(),
            loss_global=loss,
            clients_counted=int(held.sum()),
            client_accuracies=per_client,
        )

    def _move(self, device: torch.device) -> None:
        """Keeps the uint8 images where the model is, so that they cross to an accelerator once."""
        self._images, self._mean, self._std = (x.to(device) for x in (self._images, self._mean, self._std))


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; each module's own training flag is put back afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def _check_owners(test: ImageSet, owner: Tensor, clients: int) -> None:
    if len(test) == 0:
        raise ValueError("Expected `test` to hold at least one image, but got none")
    if owner.shape != test.labels.shape:
        raise ValueError(f"Expected `owner` to have shape [{len(test)}], but got {list(owner.shape)}")
    low, high = int(owner.min()), int(owner.max())
    if low < 0 or high >= clients:
        raise ValueError(f"Expected `owner` to lie in [0, {clients}), one client per sample, but got {low} to {high}")
