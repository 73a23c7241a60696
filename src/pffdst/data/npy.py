"""Tensors as .npy files: written completely or not at all, read by mapping them into memory."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pffdst.runs.files import write_whole

__all__ = ["map_tensor", "write_tensor"]


def write_tensor(path: Path, tensor: Tensor) -> None:
    """Writes a CPU tensor as a .npy file. Raises OSError."""
    write_whole(path, lambda file: np.save(file, tensor.numpy(), allow_pickle=False))


def map_tensor(path: Path) -> tuple[Tensor, mmap.mmap]:
    """The tensor of a .npy file without copying, and its mapping: processes that map the same file share its pages.

    Writes to the tensor never reach the file. Raises OSError or ValueError if the file is missing or damaged.
    """
    # "c" (copy on write) keeps the file safe as "r" does, yet torch takes it without its non-writable warning
    array = np.lib.format.open_memmap(path, mode="c")
    return torch.from_numpy(array), array._mmap  # type: ignore[attr-defined]
