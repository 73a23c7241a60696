"""A simulated division of a dataset, written out as a file for each node: for rehearsals of a deployment."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig
from PIL import Image

from pffdst.build import parts
from pffdst.core.errors import UserError
from pffdst.data.samples import ImageSet

__all__ = ["write_samples"]


def write_samples(cfg: DictConfig, folder: Path) -> list[Path]:
    """Writes each client's training samples, in the order they have in simulation, as folder/client-K.parquet."""
    made, files = parts(cfg), []
    images = made.dataset.train
    if not isinstance(images, ImageSet):
        raise UserError(f"dataset={made.dataset.name}: nodes read images, and these are {made.dataset.inputs.noun}")
    folder.mkdir(parents=True, exist_ok=True)
    for client in range(cfg.clients):
        own = images.take(made.shares.train(client))
        files.append(folder / f"client-{client}.parquet")
        names = [made.dataset.class_names[label] for label in own.labels.tolist()]
        labels = [int(name) for name in names] if all(name.isdecimal() for name in names) else names
        pq.write_table(pa.table({"image": _encoded(own), "label": labels}), files[-1])
    return files


def _encoded(samples: ImageSet) -> list[bytes]:
    """The images as PNG, which loses nothing."""
    found = []
    for image in samples.images.permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, "png")
        found.append(buffer.getvalue())
    return found
