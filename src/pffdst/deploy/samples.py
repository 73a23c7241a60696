"""Writes a simulated partition of a dataset, one file per node, for rehearsals of a deployment."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig
from PIL import Image

from pffdst.build import parts
from pffdst.cli.train import configs
from pffdst.config.flags import CommandLine
from pffdst.config.overrides import opened_for, preflight
from pffdst.core.errors import UserError
from pffdst.data.samples import ImageSet

__all__ = ["checked", "write_samples"]


def checked(overrides: Sequence[str]) -> DictConfig:
    """The configuration of these overrides. ConfigError, with every problem, where `train.py` would refuse them."""
    line = CommandLine.of(preflight(overrides, configs()))
    with opened_for(line, configs()) as opened:
        return opened.compose(line.overrides).cfg


def write_samples(cfg: DictConfig, folder: Path) -> list[Path]:
    """Writes each client's training samples, in the order they have in simulation, as folder/client-K.parquet.

    Raises:
        UserError: the folder already contains clients' samples, or the dataset is not one of images.
    """
    if old := sorted(folder.glob("client-*.parquet")):
        raise UserError(f"{old[0]} already exists: name another folder, or delete the samples in this one")
    made, files = parts(cfg), []
    images = made.dataset.train
    if not isinstance(images, ImageSet):
        raise UserError(f"dataset={made.dataset.name}: nodes can only read images, not {made.dataset.inputs.noun}")
    folder.mkdir(parents=True, exist_ok=True)
    for client in range(cfg.clients):
        own = images.take(made.shares.train(client))
        files.append(folder / f"client-{client}.parquet")
        names = [made.dataset.class_names[label] for label in own.labels.tolist()]
        labels = [int(name) for name in names] if all(name.isdecimal() for name in names) else names
        pq.write_table(pa.table({"image": _encoded(own), "label": labels}), files[-1])
    return files


def _encoded(samples: ImageSet) -> list[bytes]:
    """The images as PNG, which is lossless."""
    found = []
    for image in samples.images.permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, "png")
        found.append(buffer.getvalue())
    return found
