"""How long a client's turn takes in a deployment: the speeds of its device and of its link.

A turn takes bytes down / speed + FLOPs of its training / speed + bytes up / speed (`Device.seconds`). Bytes are the
lengths of the messages, FLOPs those that the run counts.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import final

import torch

from pffdst.core.device import Device
from pffdst.core.errors import UserError
from pffdst.core.facts import NOTHING_KNOWN, Facts
from pffdst.core.seeding import generator_for
from pffdst.data.csv_table import content_of, file_of, number_columns

__all__ = ["FromFile", "Links", "TimeModel", "Untimed"]

_KEYS = ("up", "down", "flops")
_SPREAD_MAX = 5.0


class TimeModel(ABC):
    """What is known about the clients' devices."""

    @abstractmethod
    def device(self, client: int, seed: int) -> Device | None:
        """A client's device, the same in every round; None if time is not modelled."""

    @property
    def content(self) -> str:
        """A digest of what it reads besides the configuration; empty if it reads nothing."""
        return ""


@final
class Untimed(TimeModel):
    """Nothing is known: rounds only have the simulation's own time."""

    def device(self, client: int, seed: int) -> None:
        """None."""
        return


@final
@dataclass(frozen=True)
class Links(TimeModel):
    """Log-normal speeds: medians `up` and `down` (Mbit/s) and `flops` (GFLOP/s), and spreads of their logarithms.

    A client's link has the same factor exp(`link_spread` z) up and down, and its device another one, with z standard
    normal and drawn for the client. With spreads of 0 all clients are the same.
    """

    up: float
    down: float
    flops: float
    link_spread: float = 0.0
    device_spread: float = 0.0

    def __post_init__(self) -> None:
        for name in _KEYS:
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"Expected `time.{name}` to be above 0, but got {value}")
        for name in ("link_spread", "device_spread"):
            if not 0 <= getattr(self, name) <= _SPREAD_MAX:
                raise ValueError(f"Expected `time.{name}` to be in [0, {_SPREAD_MAX:g}], but got {getattr(self, name)}")

    def device(self, client: int, seed: int) -> Device:
        """A named draw of the client."""
        if self.link_spread == 0 and self.device_spread == 0:
            return Device(self.up, self.down, self.flops)
        z = torch.randn(2, dtype=torch.float64, generator=generator_for(seed, "device", client)).tolist()
        link, speed = math.exp(self.link_spread * z[0]), math.exp(self.device_spread * z[1])
        return Device(self.up * link, self.down * link, self.flops * speed)


@final
@dataclass(frozen=True)
class FromFile(TimeModel):
    """Measured devices: a CSV with the columns client, up, down (Mbit/s) and flops (GFLOP/s), one line per client."""

    path: str

    @property
    def file(self) -> Path:
        """The file, absolute."""
        return file_of(self.path)

    @property
    def content(self) -> str:
        """32 hexadecimal digits of the file's bytes."""
        return content_of(self.file)

    @cached_property
    def devices(self) -> dict[int, Device]:
        """The devices by client. UserError if the file is not such a table."""
        found = number_columns("time.path", self.file, ("client", *_KEYS))
        lines = enumerate(zip(*(found[name].tolist() for name in ("client", *_KEYS)), strict=True), start=2)
        devices: dict[int, Device] = {}
        for line, (client, *speeds) in lines:
            where = f"time.path: {self.file}, line {line}"
            if client != int(client) or int(client) in devices:
                raise UserError(f"{where}: client {client:g} is not a whole number or already has a line")
            if min(speeds) <= 0:
                raise UserError(f"{where}: speeds must be above 0; got {', '.join(f'{s:g}' for s in speeds)}")
            devices[int(client)] = Device(*speeds)
        return devices

    def device(self, client: int, seed: int) -> Device:
        """The client's line."""
        return self.devices[client]

    def problems(self, facts: Facts = NOTHING_KNOWN) -> list[str]:
        """A file that cannot be read or lacks a client."""
        try:
            known = self.devices
        except UserError as error:
            return [str(error)]
        lacking = next((k for k in range(facts.clients or 0) if k not in known), None)
        return [] if lacking is None else [f"time.path: {self.file} has no line for client {lacking}; add one"]
