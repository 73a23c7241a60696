"""SET with a memory: the server prunes by magnitudes averaged over rounds, and grows at random."""

from pffdst.core.masks import Move, smallest
from pffdst.core.positions import Positions
from pffdst.methods.rule import Rule
from pffdst.methods.schedule import Every


class Set(Rule):
    def __init__(self, share: float = 0.2, schedule=None) -> None:
        self.share, self.schedule = share, schedule or Every(interval=2)
        self.at, self.magnitude = None, None

    def before_round(self, model, stage, t, seed):
        if not self.schedule.due(stage, t) or self.at is None:
            return None
        dead = [e.size - k for e, k in zip(model.layout.layers, model.alive_at.counts, strict=True)]
        counts = tuple(min(round(self.share * k), d) for k, d in zip(model.trainable_at.counts, dead, strict=True))
        score = self.at.carry(self.magnitude, model.trainable_at)
        return Move(smallest(model.trainable_at, score, counts), counts, seed)

    def after_round(self, cohort, stage, t, seed):
        model = cohort.mean
        before = model.trained.abs() if self.at is None else self.at.carry(self.magnitude, model.trainable_at)
        self.at, self.magnitude = model.trainable_at, 0.5 * before + 0.5 * model.trained.abs()
        return model

    def state_dict(self):
        return {"at": None if self.at is None else self.at.packed(), "magnitude": self.magnitude}

    def load_state_dict(self, state, layout):
        self.at = None if state["at"] is None else Positions.unpacked(layout, state["at"])
        self.magnitude = state["magnitude"]
