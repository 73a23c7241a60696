"""A client's epochs as a lean Fabric loop."""

from __future__ import annotations

from typing import Any, final

import torch
from lightning.fabric import Fabric

from pffdst.client.callbacks import FreezeCallback, MaskCallback
from pffdst.client.module import ClientModule
from pffdst.data.batches import ClientBatches

__all__ = ["FabricFit"]


@final
class FabricFit:
    """E epochs of a client: the Trainer's steps and hooks in the Trainer's order, and nothing else."""

    def __init__(self, epochs: int, device: str) -> None:
        accelerator = "cpu" if device == "cpu" else "gpu"
        self.epochs = epochs
        devices = 1 if device == "cpu" else [torch.cuda.current_device()]  # a rank's own
        self.fabric = Fabric(accelerator=accelerator, devices=devices, callbacks=[MaskCallback(), FreezeCallback()])
        self._module: Any = None
        self._set_up_for: ClientModule | None = None

    def __call__(self, module: ClientModule, batches: ClientBatches) -> None:
        """Trains `module` on `batches`."""
        fabric = self.fabric
        if self._set_up_for is not module:
            self._module, self._set_up_for = fabric.setup_module(module), module
        optimizer = fabric.setup_optimizers(module.configure_optimizers())
        fabric.call("on_train_start", trainer=None, pl_module=module)
        for _ in range(self.epochs):
            for index, batch in enumerate(batches):
                self._step(module, fabric.to_device(batch), index, optimizer)
        fabric.call("on_train_end", trainer=None, pl_module=module)

    def _step(self, module: ClientModule, batch: Any, index: int, optimizer: Any) -> None:
        optimizer.zero_grad()
        loss = self._module.training_step(batch, index)
        self.fabric.backward(loss)
        module.on_after_backward()
        self.fabric.call("on_before_optimizer_step", trainer=None, pl_module=module, optimizer=optimizer)
        optimizer.step()
