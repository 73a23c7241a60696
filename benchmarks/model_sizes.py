"""How large a model's file is in each format: `python benchmarks/model_sizes.py [--network resnet18] [--onnx]`.

Networks with untrained weights and random masks: a size depends on the masks alone. `before` is the layout that earlier
versions wrote: dense float32, and a byte for each weight of two masks.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import torch
from torch import nn

from pffdst.cli.export import export
from pffdst.core.flat import FlatModule, initialise
from pffdst.core.inputs import ImageInputs
from pffdst.core.model import GlobalModel
from pffdst.core.seeding import generator_for
from pffdst.metrics.units import format_bytes
from pffdst.models.cnn import SmallCNN
from pffdst.models.lenet import LeNet
from pffdst.models.resnet import ResNet18
from pffdst.models.saved import ModelCard, SavedModel

NETWORKS: dict[str, tuple[type[nn.Module], tuple[int, int, int]]] = {
    "cnn": (SmallCNN, (1, 8, 8)),
    "lenet": (LeNet, (3, 32, 32)),
    "resnet18": (ResNet18, (3, 32, 32)),
}
SPARSITIES = (0.0, 0.8, 0.95, 0.98)


def saved(name: str, sparsity: float) -> SavedModel:
    network, shape = NETWORKS[name]
    arguments = {"channels": shape[0], "size": shape[1], "classes": 10}
    flat = FlatModule(initialise(lambda: network(**arguments), 0))
    size = flat.layout.maskable
    alive = torch.rand(size, generator=generator_for(0, "sizes")) >= sparsity
    model = GlobalModel(flat.layout, flat.read(), torch.ones(size, dtype=torch.bool), torch.zeros_like(alive))
    channels = (0.5,) * shape[0]
    target = f"{network.__module__}.{network.__qualname__}"
    card = ModelCard(target, arguments, 10, ImageInputs(shape, channels, channels))
    return SavedModel.of(model.with_masks(alive), card)


def row(name: str, sparsity: float, formats: list[str], folder: Path) -> list[str]:
    model = saved(name, sparsity)
    dense, masks = len(model.plain()), sum(mask.numel() for mask in model.alive.values())
    sizes = [dense + 2 * masks, len(model.packed())]
    sizes += [export(model, to, folder / to).stat().st_size for to in formats]
    return [name, f"{sparsity:g}", f"{sum(int(m.sum()) for m in model.alive.values()):,}", *map(format_bytes, sizes)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=sorted(NETWORKS), action="append")
    parser.add_argument("--onnx", action="store_true", help="with the size of ONNX files; needs the extra `onnx`")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    formats = ["plain", "sparse", "pt2", *(["onnx"] if given.onnx else [])]
    head = ["network", "sparsity", "alive weights", "before", "model.safetensors", *formats]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for name in given.network or NETWORKS:
            for sparsity in SPARSITIES:
                print("| " + " | ".join(row(name, sparsity, formats, Path(folder))) + " |", flush=True)


if __name__ == "__main__":
    main()
