"""Training FLOPs from the masks: 2 FLOPs per multiply-accumulate of an alive weight, as is usual for sparse training.

The products of a training step are counted as torch.utils.flop_counter does. If an operand is a maskable weight, the
forward pass and the input gradient count its alive share, the weight gradient its trainable share; attention scores,
embedding projections and everything else are counted dense. Biases, normalisation, pooling and activations are not
counted, as in the papers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

from torch import nn

from pffdst.core.inputs import Inputs
from pffdst.core.model import Layout
from pffdst.core.trace import PARTS, Part, Trace, trace

__all__ = ["Cost", "FlopCounter"]


class Cost(NamedTuple):
    """Dense FLOPs of one sample: the forward pass, the gradient of the inputs and that of the weights."""

    forward: int = 0
    input_gradient: int = 0
    weight_gradient: int = 0


NOTHING = Cost()


@final
@dataclass(frozen=True)
class FlopCounter:
    """Counts FLOPs from alive and trainable weights per layer.

    `costs`: each layer's own cost when dense. `rest`: products without a maskable weight. `mixed`: maskable weights
    that enter products through an operation that does not preserve zeros; they are counted dense, in `rest`.
    """

    layout: Layout
    costs: tuple[Cost, ...]
    rest: Cost = NOTHING
    mixed: tuple[str, ...] = ()

    @classmethod
    def of(cls, network: nn.Module, layout: Layout, shape: Inputs | Sequence[int]) -> FlopCounter:
        """The counter for a network on samples of a kind, or of a `shape`."""
        return cls.counted(trace(network, shape), layout)

    @classmethod
    def counted(cls, seen: Trace, layout: Layout) -> FlopCounter:
        """The counter for a traced network whose layout is `layout`."""
        names = [e.name for e in layout.layers]

        def cost(name: str | None, part: Part) -> int:
            return seen.flops.get((name, part), 0) // seen.samples

        costs = tuple(Cost(*(cost(name, part) for part in PARTS)) for name in names)
        others = {name for name, _ in seen.flops}.difference(names)
        rest = Cost(*(sum(cost(name, part) for name in others) for part in PARTS))
        return cls(layout, costs, rest, tuple(name for name in names if name in seen.mixed))

    def forward(self, alive: Sequence[int]) -> int:
        """f: FLOPs of one sample's forward pass with `alive` weights per layer."""
        return self._part("forward", alive)

    def parts(self, alive: Sequence[int], trainable: Sequence[int]) -> dict[str, int]:
        """One sample's forward pass, input gradient (none for the samples themselves) and weight gradient."""
        return {
            "forward": self.forward(alive),
            "input_gradient": self._part("input_gradient", alive),
            "weight_gradient": self._part("weight_gradient", trainable),
        }

    def training(self, alive: Sequence[int], trainable: Sequence[int]) -> int:
        """The sum of these parts."""
        return sum(self.parts(alive, trainable).values())

    def dense_gradient(self, alive: Sequence[int]) -> dict[str, int]:
        """The parts for one sample if every weight, dead or alive, gets a gradient: the weight gradient is dense."""
        return self.parts(alive, [e.size for e in self.layout.layers])

    def _part(self, part: Part, weights: Sequence[int]) -> int:
        """A part's FLOPs with so many weights per layer: each layer's share of its dense cost, rounded."""
        at = PARTS.index(part)
        layers = zip(weights, self.costs, self.layout.layers, strict=True)
        return self.rest[at] + sum((2 * n * cost[at] + e.size) // (2 * e.size) for n, cost, e in layers)
