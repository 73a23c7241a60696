"""The server goes half of the way to the mean."""

from pffdst.methods.server_optimizer import ServerOptimizer


class HalfStep(ServerOptimizer):
    def step(self, model, mean):
        own = model.alive_at.carry(model.held, mean.alive_at)
        return mean.with_held((own + mean.held) / 2, (model.rest + mean.rest) / 2)
