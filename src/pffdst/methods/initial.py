"""The scale of the initial weights of a model that starts sparse."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from pffdst.core.model import Layout

__all__ = ["scaled_to_density"]


def scaled_to_density(values: Tensor, layout: Layout, counts: Sequence[int]) -> Tensor:
    """The initial values [N] with each layer's weights multiplied by sqrt(size_l / k_l); the rest is unchanged.

    With k_l weights alive (`counts`), a layer's outputs then have the same variance as in the dense model, on average
    over its units; otherwise signals shrink from layer to layer and the first rounds learn little (Evci et al., 2022,
    "Gradient Flow in Sparse Neural Networks", who scale every unit by its own fan-in).
    """
    scaled = values.clone()
    for entry, k in zip(layout.layers, counts, strict=True):
        scaled[entry.span] *= math.sqrt(entry.size / max(k, 1))
    return scaled
