"""Data that are in memory already: a set of squares and crosses, made here."""

import torch

from pffdst.data.dataset import Dataset, DataSource, image_dataset
from pffdst.data.samples import ImageSet


class Memory(DataSource):
    def __init__(self, name: str = "memory", samples: int = 160) -> None:
        self.name, self.samples = name, samples

    def load(self, seed: int) -> Dataset:
        draw = torch.Generator().manual_seed(seed)
        labels = torch.arange(self.samples) % 2
        images = torch.randint(40, (self.samples, 1, 8, 8), generator=draw, dtype=torch.uint8)
        images[labels == 0, :, 2:6, 2:6] = 200
        images[labels == 1, :, 3:5, :] = 200
        half = self.samples // 2
        train, test = (ImageSet(images[part].clone(), labels[part]) for part in (slice(half), slice(half, None)))
        return image_dataset(self.name, train, test, ("square", "bar"), (0.3,), (0.3,))

    def problems(self, facts) -> list[str]:
        return []
