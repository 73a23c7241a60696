"""What a client's turn costs before it trains: seeding the generators, giving the network what it began with.

    python benchmarks/turn.py

Medians in milliseconds, and as a share of the turn's one step on 32 samples, all taken in one process on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
import torchvision
from rich.table import Table
from torch import nn

from common import console
from pffdst.core.attributes import Attributes
from pffdst.core.flat import FlatModule
from pffdst.core.seeding import seeded_global_state
from pffdst.models.cnn import SmallCNN
from pffdst.models.resnet import ResNet18

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "cnn": lambda: SmallCNN(3, 32, 10),
    "resnet18, width 16": lambda: ResNet18(3, 32, 10, width=16),
    "torchvision's mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
}


def milliseconds(act: Callable[[], object], times: int) -> float:
    """The median time of an act, after one that is not counted."""
    found = []
    for _ in range(times + 1):
        began = time.perf_counter()
        act()
        found.append(1e3 * (time.perf_counter() - began))
    return median(found[1:])


def seed() -> None:
    with seeded_global_state(0, "forward", 3, 7):
        pass


def step(network: nn.Module) -> None:
    images, labels = torch.randn(32, 3, 32, 32), torch.zeros(32, dtype=torch.int64)
    loss = nn.functional.cross_entropy(network(images), labels)
    loss.backward()  # type: ignore[no-untyped-call]


def main() -> None:
    torch.set_num_threads(1)
    table = Table("network", "seeding", "attributes", "buffers", "a step", "share of a step")
    for name, make in NETWORKS.items():
        network = make().train()
        attributes, flat = Attributes(network), FlatModule(network)
        parts = [milliseconds(act, 50) for act in (seed, attributes.restore_, flat.settle_)]
        whole = milliseconds(partial(step, network), 5)
        table.add_row(name, *(f"{ms:.3f} ms" for ms in (*parts, whole)), f"{sum(parts) / whole:.2%}")
    console().print(table)


if __name__ == "__main__":
    main()
