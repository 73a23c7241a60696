"""The bare loop: the same clients, batches and numbers as the engines', in the fewest lines of PyTorch."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import nn

from peers.work import Net
from pffdst.client.turn import ClientSetup
from pffdst.core.inputs import ImageInputs
from pffdst.core.seeding import generator_for
from pffdst.data.batches import batch_indices, steps
from pffdst.data.samples import ImageSet
from pffdst.models.lenet import LeNet

__all__ = ["BareLoop"]


@final
class BareLoop:
    """No masks, no messages, no framework: torch's defaults, all cores of a CPU, images kept on the device.

    A network other than LeNet is the project's own module, which is plain PyTorch.
    """

    def __init__(self, setup: ClientSetup, network: nn.Module | None = None, device: str = "cpu") -> None:
        self.setup, self.device = setup, device
        template = setup.network if network is None else network
        self.model = (Net() if isinstance(template, LeNet) else template).to(device)
        self.weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        data, inputs = setup.data.open(), setup.inputs
        assert isinstance(data, ImageSet)
        assert isinstance(inputs, ImageInputs)
        self.mean = torch.tensor(inputs.mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(inputs.std, device=device).view(1, -1, 1, 1)
        self.images, self.labels = data.images.to(device), data.labels.to(device)

    def round(self, cohort: tuple[int, ...], t: int) -> None:
        for client in cohort:
            self.train(client, t)
        if self.device == "cuda":
            torch.cuda.synchronize()

    def train(self, client: int, t: int) -> None:
        setup, numbers, model = self.setup, self.setup.training, self.model
        own = setup.indices(client).to(self.device)
        images, labels = self.images[own], self.labels[own]
        model.load_state_dict(self.weights)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=numbers.lr, momentum=numbers.momentum, weight_decay=numbers.weight_decay
        )
        order = generator_for(setup.seed, "client", t, client)
        for epoch in batch_indices(len(own), numbers.batch_size, numbers.epochs, order):
            for batch in epoch:
                chosen = batch.to(self.device, non_blocking=True)
                x = (images[chosen].float() / 255 - self.mean) / self.std
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), labels[chosen])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()

    def steps(self, cohort: tuple[int, ...]) -> int:
        numbers = self.setup.training
        return sum(numbers.epochs * steps(self.setup.samples(k), numbers.batch_size) for k in cohort)

    def samples(self, cohort: tuple[int, ...]) -> int:
        return sum(self.setup.training.epochs * self.setup.samples(k) for k in cohort)
