"""A client's epochs as a lean Fabric loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from lightning.fabric import Fabric
from lightning.pytorch import Callback

from pffdst.client.callbacks import FreezeCallback, MaskCallback
from pffdst.client.module import ClientModule
from pffdst.client.step import Hooks, local_step
from pffdst.data.batches import ClientBatches

__all__ = ["FabricFit", "epochs"]


def epochs(module: ClientModule, hooks: Hooks, count: int, step: Any, batches: ClientBatches) -> None:
    """The loop over epochs and batches, calling the hooks in a Trainer's order; `step` takes a batch."""
    hooks("on_train_start", module)
    for _ in range(count):
        hooks("on_train_epoch_start", module)
        for index, batch in enumerate(batches):
            step(batch, index)
        hooks("on_train_epoch_end", module)
        module.on_train_epoch_end()
    hooks("on_train_end", module)


@final
class FabricFit:
    """Runs a client's epochs: the Trainer's steps and hooks in the Trainer's order, and nothing else."""

    def __init__(self, device: str, callbacks: Sequence[Callback] = ()) -> None:
        accelerator = "cpu" if device == "cpu" else "gpu"
        devices = 1 if device == "cpu" else [torch.cuda.current_device()]  # a rank's own
        self.fabric = Fabric(accelerator=accelerator, devices=devices)
        self._hooks = Hooks([*callbacks, MaskCallback(), FreezeCallback()])
        self._module: Any = None
        self._optimizer: Any = None
        self._set_up_for: ClientModule | None = None

    def __call__(self, module: ClientModule, batches: ClientBatches, count: int) -> None:
        """Trains `module` for `count` epochs of `batches`."""
        fabric, optimizer = self.fabric, module.configure_optimizers()
        if self._set_up_for is not module:
            self._module, self._set_up_for = fabric.setup_module(module), module
            self._optimizer = fabric.setup_optimizers(optimizer)

        def step(batch: Any, index: int) -> None:
            local_step(
                module,
                fabric.to_device(batch),
                index,
                self._optimizer,
                self._hooks,
                forward=self._module.training_step,
                backward=fabric.backward,
            )

        epochs(module, self._hooks, count, step, batches)
