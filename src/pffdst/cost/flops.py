"""Training FLOPs from the masks: 2 FLOPs per multiply-accumulate of a surviving weight (methods of the sparse field).

Forward and input gradient take f(alive) each, the weight gradient f(trainable); the first layer has no input gradient.
Biases, normalisation, pooling and activations are not counted, as in the papers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from pffdst.core.model import Layout

__all__ = ["FlopCounter", "weight_uses"]


@torch.no_grad()
def weight_uses(network: nn.Module, layout: Layout, image_shape: tuple[int, int, int]) -> tuple[list[int], int]:
    """How often each layer's weights are used for one image (output positions), and which layer runs first."""
    uses: dict[str, int] = {}
    names = {f"{name}.weight": child for name, child in network.named_modules()}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            del inputs
            channels_at = 1 if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) else output.dim() - 1
            uses[name] = uses.get(name, 0) + output.numel() // (output.shape[0] * output.shape[channels_at])

        return hook

    handles = [names[e.name].register_forward_hook(note(e.name)) for e in layout.layers]
    was_training = network.training
    network.eval()
    try:
        parameter = next(network.parameters())
        network(torch.zeros(1, *image_shape, dtype=parameter.dtype, device=parameter.device))
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
    first = next(iter(uses))
    return [uses.get(e.name, 0) for e in layout.layers], [e.name for e in layout.layers].index(first)


@final
@dataclass(frozen=True)
class FlopCounter:
    """Counts FLOPs from alive and trainable weights per layer."""

    layout: Layout
    uses: tuple[int, ...]
    first: int

    @classmethod
    def of(cls, network: nn.Module, layout: Layout, image_shape: tuple[int, int, int]) -> FlopCounter:
        """The counter of a network on images of `image_shape` (C, H, W)."""
        uses, first = weight_uses(network, layout, image_shape)
        return cls(layout, tuple(uses), first)

    def forward(self, alive: list[int]) -> int:
        """f: FLOPs of one image's forward pass with `alive` weights per layer."""
        return sum(2 * n * u for n, u in zip(alive, self.uses, strict=True))

    def parts(self, alive: list[int], trainable: list[int]) -> dict[str, int]:
        """One image's forward, input gradient (none in the first layer) and weight gradient."""
        forward = self.forward(alive)
        return {
            "forward": forward,
            "input_gradient": forward - 2 * alive[self.first] * self.uses[self.first],
            "weight_gradient": self.forward(trainable),
        }

    def training(self, alive: list[int], trainable: list[int]) -> int:
        """All of them: 2 f(alive) + f(trainable) - the first layer's share."""
        return sum(self.parts(alive, trainable).values())

    def dense_gradient(self, alive: list[int]) -> dict[str, int]:
        """The parts of one image's gradient of every weight, dead ones included: the weight gradient is dense."""
        return self.parts(alive, [e.size for e in self.layout.layers])
