"""What the server takes each client to hold: the version of the trainable mask and of the frozen weights."""

from __future__ import annotations

from typing import Any, final

import torch

__all__ = ["Holdings"]


@final
class Holdings:
    """Two integers per client. Version 0 is "nothing"; a new mask or freeze makes a new version."""

    def __init__(self, clients: int) -> None:
        self._mask = torch.zeros(clients, dtype=torch.int32)
        self._frozen = torch.zeros(clients, dtype=torch.int32)
        self._mask_version, self._frozen_version = 1, 0

    def new_mask(self) -> None:
        """The trainable mask changed: every client lacks it."""
        self._mask_version += 1

    def new_frozen(self) -> None:
        """The frozen weights changed: every client lacks them."""
        self._frozen_version += 1

    def lacks(self, client: int) -> tuple[bool, bool]:
        """Whether a client lacks the trainable mask, and whether it lacks the frozen weights."""
        return (
            int(self._mask[client]) != self._mask_version,
            int(self._frozen[client]) != self._frozen_version,
        )

    def sent(self, client: int) -> None:
        """A client was sent what it lacked."""
        self._mask[client], self._frozen[client] = self._mask_version, self._frozen_version

    def forget(self, client: int) -> None:
        """A client that could not read its message is taken to hold nothing."""
        self._mask[client] = 0
        self._frozen[client] = 0 if self._frozen_version == 0 else -1

    def state_dict(self) -> dict[str, Any]:
        """Tensors and integers, for the checkpoint."""
        return {
            "mask": self._mask.clone(),
            "frozen": self._frozen.clone(),
            "versions": (self._mask_version, self._frozen_version),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The other way round."""
        self._mask, self._frozen = state["mask"].clone(), state["frozen"].clone()
        self._mask_version, self._frozen_version = state["versions"]
