"""A Lightning callback that bounds every gradient, value by value."""

from lightning.pytorch import Callback


class Bound(Callback):
    def __init__(self, most: float = 0.01) -> None:
        self.most = most

    def on_after_backward(self, trainer, pl_module):
        for p in pl_module.parameters():
            if p.grad is not None:
                p.grad.clamp_(-self.most, self.most)
