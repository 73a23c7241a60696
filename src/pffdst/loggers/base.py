"""What a logger is, and several of them as one."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, final

from pffdst.core.places import places_of
from pffdst.metrics.names import Row
from pffdst.runs import files

__all__ = ["Loggers", "RunInfo", "RunLogger", "State", "Status"]

Status = Literal["finished", "interrupted", "failed"]
State = Mapping[str, str]

# Configuration keys that describe how a run was started and this machine, not what is run.
_OF_THE_START = frozenset({"resume", "paths", "print_config", "search", "hydra"})

_log = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class RunInfo:
    """What every logger is told about a run before its first round.

    `config` is the resolved configuration, `folder` the run's own folder (it exists), `name` the run's name, `group`
    the sweep or search it belongs to (None for a single run), `tags` words to find it by. Of all `parameters`,
    `maskable` can have a mask and `alive` are alive when the last stage starts; 0 parameters if that is not known.
    Runs with the same `group_key` differ in their seed alone.
    """

    config: Mapping[str, Any]
    folder: Path
    name: str = ""
    group: str | None = None
    tags: tuple[str, ...] = field(default=())
    parameters: int = 0
    maskable: int = 0
    alive: int = 0
    group_key: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration without keys that only say how this run was started and where files are.

        With the `commit` and `command` of provenance.json, if the folder has it, which are needed to rerun it.
        """
        kept = {key: value for key, value in self.config.items() if key not in _OF_THE_START}
        if isinstance(dataset := kept.get("dataset"), Mapping):
            kept["dataset"] = {key: value for key, value in dataset.items() if key not in places_of(dataset)}
        return kept | ({"group_key": self.group_key} if self.group_key else {}) | self._provenance()

    def _provenance(self) -> dict[str, Any]:
        try:
            latest = files.read_json(self.folder / files.PROVENANCE)[-1]
            return {"commit": latest["git"], "command": latest["command"]}
        except (files.FileProblem, LookupError, TypeError):
            return {}


class RunLogger(ABC):
    """Records one run: opened once, a row per round, a summary at the end, and always closed.

    A constructor only takes the keys of its yaml and opens nothing: it is also called when a configuration is checked.
    The run itself is passed to `open`.
    """

    def open(self, run: RunInfo, state: State | None) -> None:
        """Called before the first round. `state` is what the logger's `state_dict` returned at the checkpoint that the
        run resumes from; None for a new run, empty if the logger was not used before.
        """

    def step(self, what: str, done: int, total: int) -> None:
        """Progress within a round: `done` of `total` clients or evaluated images, as `what` says."""

    @abstractmethod
    def log(self, row: Row) -> None:
        """Logs one round; see `metrics.names` for the keys. `row["round"]` increases from call to call."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Logs the finished run's figures, once, after the last row."""

    def close(self, status: Status) -> None:
        """Releases files and processes. Does nothing if the logger was never opened or is already closed."""

    def state_dict(self) -> dict[str, str]:
        """What `open` needs to continue after the last logged row: text by name."""
        return {}


@final
class Loggers:
    """Several loggers by name; used in a `with`, which closes all of them, even if one fails to close."""

    def __init__(self, loggers: Mapping[str, RunLogger]) -> None:
        self._named = dict(loggers)
        self._loggers = tuple(self._named.values())

    def open(self, run: RunInfo, state: Mapping[str, State] | None) -> None:
        """Opens each in order, with its own part of `state`, which is keyed by logger name."""
        for name, logger in self._named.items():
            logger.open(run, None if state is None else state.get(name, {}))

    def step(self, what: str, done: int, total: int) -> None:
        """Passes the progress to each in order."""
        for logger in self._loggers:
            logger.step(what, done, total)

    def log(self, row: Row) -> None:
        """Passes the row to each in order."""
        for logger in self._loggers:
            logger.log(row)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Passes the figures to each in order."""
        for logger in self._loggers:
            logger.summary(values)

    def close(self, status: Status) -> None:
        """Closes each in order. A failure is logged and does not keep the others from closing."""
        with ExitStack() as stack:
            for logger in reversed(self._loggers):
                stack.callback(_close, logger, status)

    def state_dict(self) -> dict[str, dict[str, str]]:
        """The state of each, by its name."""
        return {name: logger.state_dict() for name, logger in self._named.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(_status_of(kind))


def _close(logger: RunLogger, status: Status) -> None:
    try:
        logger.close(status)
    except Exception:
        _log.warning(
            "%s could not be closed; the run's other records are complete", type(logger).__name__, exc_info=True
        )


def _status_of(kind: type[BaseException] | None) -> Status:
    if kind is None:
        return "finished"
    return "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
