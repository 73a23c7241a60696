"""Notes how many weights of each round's model changed their sign, and ends the run when told to."""

from pffdst.observers import Observer


class Watch(Observer):
    def __init__(self, last: int = 3) -> None:
        self.last, self.seen = last, []

    def on_round(self, experiment, done):
        model = experiment.server.model
        self.seen.append(int((model.weights.sign() != done.planned.weights.sign()).sum()))
        return "it has seen enough" if len(self.seen) >= self.last else None
