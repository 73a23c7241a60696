"""The same training written out by hand: no framework, no masks module, plain torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pffdst.core.flat import layout_of
from pffdst.experiment import Experiment
from pffdst.models.cnn import SmallCNN

GradientOf = Callable[[Tensor, list[int]], Tensor]


@pytest.fixture(scope="session")
def gradient_of() -> Callable[[Experiment], GradientOf]:
    """For an experiment on digits: the gradient [N] of the mean cross-entropy over these clients' samples at w [N]."""

    def of(experiment: Experiment) -> GradientOf:
        setup: Any = experiment.setup
        network = SmallCNN(1, 8, 10)
        named = dict(network.named_parameters())
        parameters = [named[e.name] for e in layout_of(network).entries]
        pixels = (setup.data.images.float() / 255 - setup.inputs.mean[0]) / setup.inputs.std[0]

        def gradient(w: Tensor, clients: list[int]) -> Tensor:
            at = torch.cat([setup.indices(k) for k in clients])
            for p, part in zip(parameters, torch.split(w, [p.numel() for p in parameters]), strict=True):
                p.data, p.grad = part.clone().view_as(p), None
            F.cross_entropy(network(pixels[at]), setup.data.labels[at]).backward()
            return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])

        return gradient

    return of
