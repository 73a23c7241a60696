"""What the server assumes each client holds: the versions of the trainable mask and of the frozen weights."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from pffdst.core.blobs import bytes_of, tensor_of
from pffdst.core.model import Layout
from pffdst.core.positions import Positions
from pffdst.runs.checkpoint import from_sparse, to_sparse
from pffdst.wire.positions import MOST_MOVES

__all__ = ["Holdings", "Lacks"]


class Lacks(NamedTuple):
    """What a client must be sent, and the version of the mask it holds; 0 is none."""

    mask: bool
    frozen: bool
    held: int


@final
class Holdings:
    """Two integers per client, and each mask that some client still holds, stored once and compressed.

    Version 0 is "nothing"; a new mask or freeze makes a new version. The number of clients per version is kept up to
    date, so that no operation in a round visits all clients. A mask that is `known` in advance is held by all clients.
    """

    def __init__(self, clients: int, known: Positions | None = None) -> None:
        self._mask = torch.zeros(clients, dtype=torch.int32)
        self._frozen = torch.zeros(clients, dtype=torch.int32)
        self._mask_version = self._frozen_version = 0
        self._holders = Counter({0: clients})  # clients by version of the mask
        self._frozen_holders = Counter({0: clients})
        self._masks: dict[int, Tensor] = {}
        self._moves: list[bytes] = []  # of the latest versions; the first may start from scratch
        self._afresh = False
        if known is not None:
            self.new_mask(known)
            self._mask += self._mask_version
            self._holders = _counted(self._mask)

    def new_mask(self, mask: Positions, move: bytes | None = None, *, afresh: bool = False) -> None:
        """The trainable mask changed to `mask`: every client lacks it.

        `move`, if any, is the coded move that made it, from the previous version or from scratch (`afresh`).
        """
        self._masks = {version: bits for version, bits in self._masks.items() if self._holders[version] > 0}
        self._mask_version += 1
        self._masks[self._mask_version] = mask.packed()
        if afresh or move is None:
            self._moves, self._afresh = [], afresh
        if move is not None:
            self._moves.append(move)
            self._drop_what_is_never_sent(mask.layout.maskable / 8)

    def _drop_what_is_never_sent(self, most: float) -> None:
        """Drops moves that together exceed the mask's bitmap, or are too many, so that long runs keep few."""
        total, kept = 0, 0
        for move in reversed(self._moves[-MOST_MOVES:]):
            total += len(move)
            if total >= most:
                break
            kept += 1
        if kept < len(self._moves):
            self._moves, self._afresh = self._moves[len(self._moves) - kept :], False

    @property
    def empty(self) -> bool:
        """Whether there has been no mask yet."""
        return self._mask_version == 0

    def newest_is(self, mask: Positions) -> bool:
        """Whether this is the mask that every client should have."""
        return not self.empty and self.mask(self._mask_version, mask.layout) == mask

    def new_frozen(self) -> None:
        """The frozen weights changed: every client lacks them."""
        self._frozen_version += 1

    def lacks(self, client: int) -> Lacks:
        """What a client lacks."""
        held = int(self._mask[client])
        return Lacks(held == 0 or held != self._mask_version, int(self._frozen[client]) != self._frozen_version, held)

    def mask(self, version: int, layout: Layout) -> Positions | None:
        """The mask of a version that a client holds; None for version 0."""
        return None if version == 0 else Positions.unpacked(layout, self._masks[version])

    def moves(self, held: int) -> list[bytes] | None:
        """The moves that lead to the current mask, from version `held` or from none; None if they are not known."""
        missed = self._mask_version - held
        if held > 0 and missed <= len(self._moves):
            return self._moves[len(self._moves) - missed :]
        return list(self._moves) if self._afresh else None

    @property
    def news(self) -> tuple[bool, bool]:
        """Whether the current mask, and whether the current frozen weights, have not been sent to any client yet."""
        return self._holders[self._mask_version] == 0, self._frozen_holders[self._frozen_version] == 0

    def sent(self, client: int) -> None:
        """Notes that a client was sent what it lacked."""
        self._note(client, self._mask_version, self._frozen_version)

    def forget(self, client: int) -> None:
        """A client that could not read its message is assumed to hold nothing."""
        self._note(client, 0, 0 if self._frozen_version == 0 else -1)

    def _note(self, client: int, mask: int, frozen: int) -> None:
        self._holders.subtract((int(self._mask[client]),))
        self._frozen_holders.subtract((int(self._frozen[client]),))
        self._mask[client], self._frozen[client] = mask, frozen
        self._holders[mask] += 1
        self._frozen_holders[frozen] += 1

    def state_dict(self) -> dict[str, Any]:
        """Tensors and integers, for the checkpoint."""
        return {
            "mask": to_sparse(self._mask),
            "frozen": to_sparse(self._frozen),
            "versions": (self._mask_version, self._frozen_version),
            "masks": dict(self._masks),
            "moves": [tensor_of(move) for move in self._moves],
            "afresh": self._afresh,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._mask, self._frozen = from_sparse(state["mask"], self._mask), from_sparse(state["frozen"], self._frozen)
        self._holders, self._frozen_holders = _counted(self._mask), _counted(self._frozen)
        self._mask_version, self._frozen_version = state["versions"]
        self._masks = dict(state["masks"])
        self._moves, self._afresh = [bytes_of(move) for move in state["moves"]], state["afresh"]


def _counted(versions: Tensor) -> Counter[int]:
    values, counts = torch.unique(versions, return_counts=True)
    return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))
