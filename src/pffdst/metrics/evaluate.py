"""Accuracy of one model on every client's test share, in one pass over the pooled test set, and further metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import Metric, MetricCollection
from torchmetrics.functional.classification import multiclass_stat_scores

from pffdst.core.errors import UserError
from pffdst.core.inputs import Inputs
from pffdst.data.samples import Samples

__all__ = ["Evaluation", "Evaluator"]


# On two cores any batch of 125 to 1,000 images is equally fast on LeNet, and a small one takes less memory; an
# accelerator needs large ones.
_SMALL, _LARGE = 125, 1000


@final
@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model scored; accuracies are shares in [0, 1], the loss is the mean cross-entropy in nats.

    `acc_client_mean` is the unweighted mean over the `clients_counted` clients that hold at least one test sample;
    `client_accuracies` is float64 [clients], NaN for the others. `metrics` are those of the group `metrics` by name,
    with a value per class as `NAME/CLASS`.
    """

    acc_global: float
    acc_client_mean: float
    loss_global: float
    clients_counted: int
    client_accuracies: Tensor
    metrics: Mapping[str, float] = field(default_factory=dict)


@final
class Evaluator:
    """The pooled test set, and which client each of its samples belongs to.

    `owner` is integers [N], each a client in [0, `clients`); `inputs` describes the samples; `batch_size` None chooses
    one for the device. `metrics` are torchmetrics by name; each is reset before an evaluation and is given the
    probabilities [B, classes] and labels [B] of every batch. ValueError if there are no samples or the owners do not
    match them.
    """

    def __init__(
        self,
        test: Samples,
        owner: Tensor,
        clients: int,
        inputs: Inputs,
        batch_size: int | None = None,
        channels_last: bool = True,
        metrics: Mapping[str, Metric | MetricCollection] | None = None,
    ) -> None:
        _check_owners(test, owner, clients)
        self._test = self._held_at = test
        self._inputs = inputs
        self._labels = test.labels
        self._owner = owner.to(torch.int64)
        self._held = torch.bincount(self._owner, minlength=clients)
        self._device = torch.device("cpu")
        self._batch_size = batch_size
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._metrics = dict(metrics or {})

    def evaluate(
        self, model: nn.Module, device: torch.device | str = "cpu", step: Callable[[int, int], None] | None = None
    ) -> Evaluation:
        """Scores a `model` that is on `device` and returns logits [B, classes]; leaves it unchanged.

        `step` is called after every batch with the number of samples done and their total.
        """
        front = self._begin(model, torch.device(device))
        parts = list(self._batches())
        # Allocated in advance: small results kept between the batches' large ones would fragment the heap.
        predictions = torch.empty(len(self._test), dtype=torch.int64, device=device)
        losses = torch.empty(len(parts), dtype=torch.float64, device=device)
        with torch.no_grad(), _evaluating(model):  # TorchScript records gradients where weights have them
            for part, loss in zip(parts, losses, strict=True):
                classes = self._score(model, front(self._held_at.part(part)), part, predictions[part], loss)
                if step is not None:
                    step(min(part.stop, len(self._test)), len(self._test))
        self._test.forget_pages()  # not needed until the next evaluation, and many in a run that trains small models
        return self._summarise(predictions.cpu(), losses.sum().item() / len(predictions), classes)

    def _batches(self) -> Iterator[slice]:
        fitting = _SMALL if self._device.type == "cpu" else _LARGE
        size = fitting if self._batch_size is None else self._batch_size
        for start in range(0, len(self._test), size):
            yield slice(start, start + size)

    def _score(self, model: nn.Module, inputs: Tensor, part: slice, predictions: Tensor, loss: Tensor) -> int:
        """One batch: writes the predicted classes [B] and the summed loss; returns the number of classes."""
        logits = model(inputs).float()
        labels = self._held_at.labels[part].to(logits.device)
        predictions.copy_(logits.argmax(dim=1))
        loss.copy_(cross_entropy(logits, labels, reduction="sum"))
        for metric in self._metrics.values():
            # torchmetrics would take logits that happen to lie in [0, 1] for probabilities.
            metric.update(logits.softmax(dim=1), labels)
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
            metrics=dict(pair for name, found in self._metrics.items() for pair in _values(name, found.compute())),
        )

    def _begin(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Resets the metrics, and moves them and the raw samples to the model's device; samples are moved once."""
        if device != self._device:
            self._held_at, self._device = self._test.to(device), device
        for metric in self._metrics.values():
            metric.to(device).reset()
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        return self._inputs.front(dtype, self._layout, device)


def _values(name: str, found: Any) -> Iterator[tuple[str, float]]:
    """A metric's result as numbers: itself, one per class or list element, or one per name of a collection."""
    if isinstance(found, Mapping):
        for key, value in found.items():
            yield from _values(f"{name}/{key}", value)
        return
    try:
        numbers = [float(value) for value in torch.as_tensor(found).flatten().tolist()]
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"metrics.{name}: its result {found!r:.60} is not a number; compute() returns a number, a tensor, a list "
            "or a mapping of them"
        ) from error
    names = [name] if len(numbers) == 1 else [f"{name}/{i}" for i in range(len(numbers))]
    yield from zip(names, numbers, strict=True)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; each module's own training flag is restored afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def _check_owners(test: Samples, owner: Tensor, clients: int) -> None:
    if len(test) == 0:
        raise ValueError("Expected `test` to hold at least one sample, but got none")
    if owner.shape != test.labels.shape:
        raise ValueError(f"Expected `owner` to have shape [{len(test)}], but got {list(owner.shape)}")
    low, high = int(owner.min()), int(owner.max())
    if low < 0 or high >= clients:
        raise ValueError(f"Expected `owner` to lie in [0, {clients}), one client per sample, but got {low} to {high}")
