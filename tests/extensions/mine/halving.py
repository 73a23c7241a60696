"""The learning rate halves every so many rounds."""

from pffdst.methods.local.lr_schedule import LearningRateSchedule


class Halving(LearningRateSchedule):
    def __init__(self, every: int = 2) -> None:
        self.every = every

    def at(self, lr: float, t: int, rounds: int) -> float:
        return lr * 0.5 ** (t // self.every)
