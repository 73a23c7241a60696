"""The reference: one Lightning Trainer, reused for every client of the run."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import final

import torch
from lightning.pytorch import Callback, Trainer

from pffdst.client.callbacks import FreezeCallback, MaskCallback
from pffdst.client.module import ClientModule
from pffdst.client.turn import ClientSetup, ClientWork
from pffdst.core.facts import NOTHING_KNOWN, Facts
from pffdst.core.messages import Update
from pffdst.data.batches import ClientBatches
from pffdst.engines.base import Engine, Job, checked_device, device_problems, run_in_process

__all__ = ["TrainerEngine", "TrainerFit"]


@final
class TrainerFit:
    """Runs a client's epochs with a Trainer created once: a new one per client costs milliseconds and leaks."""

    def __init__(self, device: str = "cpu", callbacks: Sequence[Callback] = ()) -> None:
        self._device = device
        # otherwise it would log its start, its stop and its disabled features for every client
        logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*barebones.*")
            self.trainer = Trainer(
                accelerator="cpu" if device == "cpu" else "gpu",
                devices=1 if device == "cpu" else [torch.cuda.current_device()],  # a rank's own
                barebones=True,
                callbacks=[*callbacks, MaskCallback(), FreezeCallback()],
            )

    def __call__(self, module: ClientModule, batches: ClientBatches, count: int) -> None:
        """Trains `module` for `count` epochs of `batches`."""
        self._rewind(count)
        with warnings.catch_warnings():
            # from Lightning's own use of torch's pytrees; nothing a user could change
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            self.trainer.fit(module, train_dataloaders=batches)
        module.to(self._device)  # the Trainer has moved it to the CPU

    def _rewind(self, count: int) -> None:
        """Without this, the second fit would find its epochs done and silently train nothing."""
        loop = self.trainer.fit_loop
        loop.max_epochs = count
        loop.epoch_progress.reset()
        loop.epoch_loop.batch_progress.reset()
        self.trainer.should_stop = False


@final
class TrainerEngine(Engine):
    """Runs clients one after another in this process, each with `Trainer.fit`, on `device` cpu or cuda."""

    def __init__(self, *, channels_last: bool = False, device: str = "cpu") -> None:
        self.channels_last = channels_last
        self.device = checked_device(device)

    def problems(self, facts: Facts = NOTHING_KNOWN) -> list[str]:
        """What this machine lacks."""
        return device_problems(self.device)

    def start(self, setup: ClientSetup) -> None:
        """One module, one Trainer."""
        self._work = ClientWork(setup, channels_last=self.channels_last, device=self.device)
        self._fit = TrainerFit(self.device, setup.callbacks)

    def train(self, jobs: Sequence[Job]) -> Iterator[Update]:
        """One client after another."""
        return run_in_process(self._work, self._fit, jobs)
