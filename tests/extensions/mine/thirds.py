"""Three stages; of what is alive the larger half of each layer freezes."""

from pffdst.core.masks import largest
from pffdst.methods.freeze.base import FreezeSchedule


class Thirds(FreezeSchedule):
    def stage_lengths(self, rounds):
        return [rounds // 3, rounds // 3, rounds - 2 * (rounds // 3)]

    def stage_counts(self, counts):
        third = tuple(k // 3 for k in counts)
        return [third, third, tuple(k - 2 * (k // 3) for k in counts)]

    def freezes(self, model, stage):
        half = tuple((k + 1) // 2 for k in model.trainable_at.counts)
        return model.frozen_at.plus(largest(model.trainable_at, model.trained, half))
