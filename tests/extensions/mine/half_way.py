"""Some clients send what they trained but half of the way, and say that they have twice the samples."""

from dataclasses import dataclass

from pffdst.methods.faults import Fault, base_of


@dataclass(frozen=True)
class HalfWay(Fault):
    share: float = 0.1

    def model(self, trained, turn):
        base = base_of(turn.start, trained)
        return trained.with_trained(base + (trained.trained - base) / 2, trained.rest)

    def samples(self, count):
        return 2 * count
