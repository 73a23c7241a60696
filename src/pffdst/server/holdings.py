"""What the server takes each client to hold: the version of the trainable mask and of the frozen weights."""

from __future__ import annotations

from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

__all__ = ["Holdings", "Lacks"]


class Lacks(NamedTuple):
    """What a client must be sent, and the version of the mask it holds; 0 is none."""

    mask: bool
    frozen: bool
    held: int


@final
class Holdings:
    """Two integers per client, and each mask that some client still holds, once, in W bits.

    Version 0 is "nothing"; a new mask or freeze makes a new version.
    """

    def __init__(self, clients: int) -> None:
        self._mask = torch.zeros(clients, dtype=torch.int32)
        self._frozen = torch.zeros(clients, dtype=torch.int32)
        self._mask_version = self._frozen_version = 0
        self._masks: dict[int, Tensor] = {}
        self._moves: list[bytes] = []  # of the latest versions, the first of them perhaps afresh
        self._afresh = False

    def new_mask(self, mask: Tensor, move: bytes | None = None, *, afresh: bool = False) -> None:
        """The trainable mask changed, to `mask` [W]: every client lacks it.

        `move`, if there is one, is the coded move that made it: from the version before, or `afresh`.
        """
        used = set(self._mask.tolist())
        self._masks = {version: bits for version, bits in self._masks.items() if version in used}
        self._mask_version += 1
        self._masks[self._mask_version] = torch.from_numpy(np.packbits(mask.numpy()))
        if afresh or move is None:
            self._moves, self._afresh = [], afresh
        if move is not None:
            self._moves.append(move)

    def new_frozen(self) -> None:
        """The frozen weights changed: every client lacks them."""
        self._frozen_version += 1

    def lacks(self, client: int) -> Lacks:
        """What a client lacks."""
        held = int(self._mask[client])
        return Lacks(held == 0 or held != self._mask_version, int(self._frozen[client]) != self._frozen_version, held)

    def mask(self, version: int, length: int) -> Tensor | None:
        """The mask bool [length] of a version that a client holds; None for version 0."""
        if version == 0:
            return None
        bits = np.unpackbits(self._masks[version].numpy(), count=length)
        return torch.from_numpy(bits.view(np.bool_))

    def moves(self, held: int) -> list[bytes] | None:
        """The moves that lead to the current mask: from version `held`, or from none; None where they are not known."""
        missed = self._mask_version - held
        if held > 0 and missed < len(self._moves) + (not self._afresh):
            return self._moves[-missed:]
        return list(self._moves) if self._afresh else None

    @property
    def news(self) -> tuple[bool, bool]:
        """Whether nobody was sent the current mask yet, and whether nobody was sent the current frozen weights."""
        return (
            not bool((self._mask == self._mask_version).any()),
            not bool((self._frozen == self._frozen_version).any()),
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
            "masks": dict(self._masks),
            "moves": [torch.frombuffer(bytearray(move), dtype=torch.uint8) for move in self._moves],
            "afresh": self._afresh,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The other way round."""
        self._mask, self._frozen = state["mask"].clone(), state["frozen"].clone()
        self._mask_version, self._frozen_version = state["versions"]
        self._masks = dict(state["masks"])
        self._moves, self._afresh = [move.numpy().tobytes() for move in state["moves"]], state["afresh"]
