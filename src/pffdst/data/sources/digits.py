"""scikit-learn's digits: real images that need no download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from pffdst.core.facts import NOTHING_KNOWN, Facts
from pffdst.core.seeding import derive_seed
from pffdst.data.dataset import DataError, Dataset
from pffdst.data.samples import ImageSet
from pffdst.data.sources.base import ImageSource

__all__ = ["DigitsSource"]


@final
@dataclass(frozen=True)
class DigitsSource(ImageSource):
    """1,797 grey images of 8x8 pixels; `test_share` of every class is the test set, the same in every run."""

    test_share: float

    def problems(self, facts: Facts = NOTHING_KNOWN) -> list[str]:
        """Settings out of range."""
        found = self.shape_problems()
        if not 0 < self.test_share < 1:
            found.append(f"dataset.test_share must be between 0 and 1, got {self.test_share}; write 0.2")
        return found

    def load(self, seed: int) -> Dataset:
        """The digits with pixel values 0..16 stretched to 0..255. The split does not depend on the run's seed."""
        if problems := self.problems():
            raise DataError("\n".join(problems))
        pixels, labels = _digits()
        test = _stratified(labels, self.test_share)
        return self.dataset(_image_set(pixels, labels, ~test), _image_set(pixels, labels, test))


def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from sklearn.datasets import load_digits  # takes a second to import, which other datasets do not need

    bunch = load_digits()
    return np.rint(bunch.images * 255 / 16).astype(np.uint8), bunch.target.astype(np.int64)


def _stratified(labels: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """True for a random `share` of every class, at least one and never all of it."""
    generator = np.random.default_rng(derive_seed(0, "digits_test"))
    chosen = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        chosen[members[:count]] = True
    return chosen


def _image_set(pixels: NDArray[np.uint8], labels: NDArray[np.int64], chosen: NDArray[np.bool_]) -> ImageSet:
    return ImageSet(torch.from_numpy(pixels[chosen][:, None]), torch.from_numpy(labels[chosen]))
