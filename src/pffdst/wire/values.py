"""Values as bytes. A codec turns a float vector into a section and back, knowing how many values are due."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import numpy as np
import torch
from torch import Tensor

from pffdst.wire.messages import Section, WireError

__all__ = ["Float32", "ValueCodec"]


_FLOATS: dict[int, tuple[torch.dtype, str]] = {1: (torch.float32, "<f4"), 2: (torch.float64, "<f8")}


class ValueCodec(ABC):
    """How values travel. Both ends use the codec of the run's configuration; a section names its coding as well."""

    @abstractmethod
    def encode(self, values: Tensor) -> Section:
        """A flat vector [n] as a section."""

    @abstractmethod
    def decode(self, section: Section, count: int, name: str) -> Tensor:
        """A section back to float [count]. Raises WireError naming `name` where it is malformed or not finite."""


@final
class Float32(ValueCodec):
    """coding 1: IEEE 754 single precision, little-endian, exact. Coding 2, double, is for runs in float64."""

    def encode(self, values: Tensor) -> Section:
        """4 (or, in a float64 run, 8) bytes a value."""
        coding = next(c for c, (dtype, _) in _FLOATS.items() if dtype == values.dtype)
        return Section(coding, values.contiguous().numpy().astype(_FLOATS[coding][1], copy=False).tobytes())

    def decode(self, section: Section, count: int, name: str) -> Tensor:
        """Exactly what was encoded."""
        if section.coding not in _FLOATS:
            raise WireError(f"{name}: value coding {section.coding} is unknown")
        dtype, wire = _FLOATS[section.coding]
        size = np.dtype(wire).itemsize
        if len(section.body) != count * size:
            raise WireError(f"{name}: expected {count} values of {size} bytes, but got {len(section.body)} bytes")
        # a copy: torch wants writable memory in the machine's own byte order
        values = torch.tensor(np.frombuffer(section.body, wire).astype(wire[1:]), dtype=dtype)
        if not bool(torch.isfinite(values).all()):
            raise WireError(f"{name}: a value is not finite")
        return values
