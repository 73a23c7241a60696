"""Bytes as tensors: checkpoints and packets are read with weights_only, which takes tensors and plain values."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["bytes_of", "tensor_of"]


def tensor_of(body: bytes | memoryview) -> Tensor:
    """A copy of the bytes as uint8 [n]: a weights_only reader takes no empty bytes, and is slow with others."""
    return torch.from_numpy(np.frombuffer(body, np.uint8).copy())


def bytes_of(tensor: Tensor) -> bytes:
    """The values of a tensor in row-major order, little-endian, a byte for each boolean."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
