"""RMSprop at the clients."""

import torch

from pffdst.methods.local.optimizer import LocalOptimizer


class RmsProp(LocalOptimizer):
    def make(self, parameters, lr, momentum):
        return torch.optim.RMSprop(parameters, lr=lr / 10, momentum=momentum)
