"""A node's work in a round: the client that the server describes, on the node's own samples."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from pffdst import __version__
from pffdst.build import parts_of
from pffdst.client.turn import ClientSetup, ClientWork
from pffdst.core.errors import UserError
from pffdst.core.inputs import ImageInputs, Inputs
from pffdst.core.messages import ClientTask, Kept, Update
from pffdst.core.words import one_line
from pffdst.data.clients.divided import Shares
from pffdst.data.dataset import DataError, Dataset
from pffdst.data.samples import ImageSet
from pffdst.data.sources.counted import images_of
from pffdst.data.sources.decode import Form
from pffdst.deploy.allowed import checked
from pffdst.deploy.records import Answer, BadRecord, Task, printable, unpack_setup
from pffdst.deploy.states import LostState, States
from pffdst.engines.base import one_thread
from pffdst.engines.fabric_loop import FabricFit
from pffdst.engines.packets import pack_kept, pack_memory, unpack_kept, unpack_memory
from pffdst.wire.downlink import Memory, remember

__all__ = ["Turns", "own_samples"]

_log = logging.getLogger(__name__)


@final
class OwnShares(Shares):
    """What one of `clients` clients knows about the partition: all `count` samples here are its own."""

    def __init__(self, clients: int, client: int, count: int) -> None:
        self._clients, self._client, self._count = clients, client, count

    @property
    def clients(self) -> int:
        """C."""
        return self._clients

    def size(self, client: int) -> int:
        """Its own n_k."""
        return self._count if client == self._client else 0

    def train(self, client: int) -> Tensor:
        """All samples here."""
        return torch.arange(self.size(client))

    @property
    def tested(self) -> int:
        """C, although there are no test samples here."""
        return self._clients

    def test_owner(self) -> Tensor:
        """Empty."""
        return torch.empty(0, dtype=torch.int64)


def own_samples(data: Path, cache: Path, brief: Mapping[str, Any]) -> ImageSet:
    """The node's samples: a parquet file, a folder of them, or a folder of class folders.

    Their labels get the server's class numbers, matched by name. DataError if they do not fit the run.
    """
    about, inputs = brief["data"], Inputs.of_words(brief["data"])
    if not isinstance(inputs, ImageInputs):
        raise DataError(f"{data}: nodes can only read images, not the run's {inputs.noun}")
    form = Form(inputs.image[0], inputs.image[1], bool(about.get("crop", False)))
    found = images_of(data, cache, form, inputs.mean, inputs.std)
    place = {name: number for number, name in enumerate(about["class_names"])}
    present = torch.unique(found.train.labels).tolist()
    if unknown := [found.class_names[label] for label in present if found.class_names[label] not in place]:
        raise DataError(f"{data}: the classes {', '.join(unknown[:5])} are not among those of the run")
    table = torch.tensor([place.get(name, -1) for name in found.class_names])
    assert isinstance(found.train, ImageSet)
    return replace(found.train, labels=table[found.train.labels], owners=None, files=None)


@final
class Turns:
    """Runs one task after another and reuses what the same run and the same samples need again."""

    def __init__(self) -> None:
        self._made: tuple[object, ClientWork, FabricFit] | None = None

    def play(
        self, task: Task, setup: bytes, payload: bytes, *, state: str, data: str, allow: str = ""
    ) -> tuple[Answer, bytes | None]:
        """The node's answer to a task. Whatever goes wrong is reported in the answer."""
        began = time.perf_counter()
        answer = Answer(task.run, task.client, task.t)
        try:
            brief = _brief(setup)
            states = States(Path(state), task)
            states.find()
            samples = own_samples(Path(data).expanduser(), Path(state) / "cache", brief)
            work, fit = self._work(task, setup, samples, brief, tuple(allow.split()))
            ready = time.perf_counter() - began
            update = turn(task, payload, states, work, fit)
        except LostState as error:
            return replace(answer, problem=f"lost its state: {error}", lost=True), None
        except UserError as error:
            return replace(answer, problem=printable(str(error)), unable=True), None
        except Exception as error:  # classes of the server's or the operator's choice, the node's disk
            _log.exception("round %d: the task failed", task.t + 1)
            self._made = None  # a task may have stopped anywhere in it
            why = printable(f"the task failed on this node: {_said(error)}")
            return replace(answer, problem=why, unable=True), None
        decode, train, encode = update.timings
        answer = replace(answer, start=ready, decode=decode, train=train, encode=encode)
        return replace(answer, problem=update.problem or ""), update.payload

    def _work(
        self, task: Task, setup: bytes, samples: ImageSet, brief: Mapping[str, Any], allowed: tuple[str, ...]
    ) -> tuple[ClientWork, FabricFit]:
        key = task.client, setup, samples.digest, allowed
        if self._made is None or self._made[0] != key:
            own = _built(task, samples, brief, allowed)
            work = ClientWork(own, channels_last=brief["channels_last"])
            self._made = key, work, FabricFit("cpu", own.callbacks)
        return self._made[1:]


def _brief(setup: bytes) -> Mapping[str, Any]:
    """What the server says about the run. UserError if its pffdst is of another version."""
    brief = unpack_setup(setup)
    if not isinstance(brief, Mapping):
        raise BadRecord("setup: expected a mapping")
    theirs = brief.get("version", "an older version")
    if theirs != __version__:
        raise UserError(
            f"this node has pffdst {__version__}, the server {theirs!s:.40}: install the same version on both"
        )
    return brief


def _built(task: Task, samples: ImageSet, brief: Mapping[str, Any], allowed: tuple[str, ...]) -> ClientSetup:
    """`client_setup`; UserError for whatever its classes raise."""
    try:
        return client_setup(task, samples, brief, allowed)
    except UserError:
        raise
    except Exception as error:
        _log.exception("the run cannot be built")
        raise UserError(
            f"setup: this node cannot build the run: {_said(error)}; install on this node what the server has"
        ) from error


def _said(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}", 180)


def client_setup(task: Task, samples: ImageSet, brief: Mapping[str, Any], allowed: tuple[str, ...]) -> ClientSetup:
    """What every client of the run knows, with the samples of this one."""
    about = brief["data"]
    cfg = checked(brief["config"], allowed)
    nothing = samples.take(torch.empty(0, dtype=torch.int64))
    dataset = Dataset(about["name"], samples, nothing, tuple(about["class_names"]), Inputs.of_words(about))
    return parts_of(cfg, dataset, OwnShares(cfg.clients, task.client, len(samples))).setup


def turn(task: Task, payload: bytes, states: States, work: ClientWork, fit: FabricFit) -> Update:
    """One task, and what the client keeps from it on its disk. Raises LostState if its kept state is gone."""
    setup, found = work.setup, states.read()
    memory = Memory(setup.known) if found is None else unpack_memory(found["memory"], setup.layout)
    kept = Kept() if found is None else unpack_kept(found["kept"], setup.layout)
    with one_thread():
        update = work.turn(ClientTask(task.client, task.t, payload), memory, fit, kept)
    if update.payload is not None:
        after = remember(payload, memory, setup.layout, setup.codecs)
        states.write(pack_memory(after), pack_kept(update.kept))
    return update
