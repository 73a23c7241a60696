"""SynFlow (Tanaka et al., NeurIPS 2020): a mask from the initial weights alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from pffdst.core.inputs import Inputs
from pffdst.core.masks import greatest_overall
from pffdst.core.model import Layout
from pffdst.core.positions import Positions
from pffdst.methods.rule import Rule, Start

__all__ = ["SynFlow"]


@final
@dataclass(frozen=True)
class SynFlow(Rule):
    """Iterative synaptic flow: after iteration i of n a share d^(i/n) of the weights is left, over all layers.

    The score is |w dR/dw| at the weights left, R the sum of the logits for an input of ones (for tokens: all of them in
    turn) through the network with all parameters and buffers replaced by their magnitudes, in inference mode and
    float64. Dead weights stay dead. The initial weights are scored; training uses them with their signs. A later
    stage's positions are chosen in the same way among what is not frozen, with the frozen ones always in place.
    """

    any_length: ClassVar[bool] = True
    derives_start: ClassVar[bool] = True
    begins_dense: ClassVar[bool] = True

    iterations: int = 100

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"Expected `readjust.iterations` (n) to be at least 1, but got {self.iterations}")

    def start(self, given: Start) -> Positions:
        """The trainable positions, as many as the stage has."""
        if given.network is None or given.inputs is None:
            raise ValueError("Expected SynFlow to be given the run's network")
        flow, frozen = _Flow(given.network, given.model.layout, given.inputs), given.model.frozen_at
        left = frozen.complement()
        total, count = len(left), sum(given.stage.counts)
        for i in range(1, self.iterations + 1):
            score = flow.scores(left.plus(frozen))
            left = greatest_overall(left, left.gather(score), round(total * (count / total) ** (i / self.iterations)))
        return left


class _Flow:
    """A network of magnitudes that measures the flow through its weights. It is modified: nothing else may use it."""

    def __init__(self, network: nn.Module, layout: Layout, inputs: Inputs) -> None:
        self._network = network.double().eval()
        self._input = inputs.full(torch.float64)
        with torch.no_grad():
            for tensor in (*network.parameters(), *network.buffers()):
                if tensor.is_floating_point():
                    tensor.abs_()
        parameters = dict(network.named_parameters())
        self._weights = [parameters[entry.name] for entry in layout.layers]
        self._layout = layout
        self._initial = torch.cat([w.detach().reshape(-1) for w in self._weights])

    def scores(self, left: Positions) -> Tensor:
        """|w dR/dw| float64 [W] with only the weights at the positions `left`, all others 0."""
        masked = self._initial * left.bits
        with torch.no_grad():
            for (_, part), weight in zip(self._layout.split(masked), self._weights, strict=True):
                weight.copy_(part)
        with torch.enable_grad():
            gradients = torch.autograd.grad(self._network(self._input).sum(), self._weights)
        return torch.cat([g.reshape(-1) for g in gradients]).abs() * masked
