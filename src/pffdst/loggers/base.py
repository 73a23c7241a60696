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

from pffdst.metrics.names import Row
from pffdst.runs import files

__all__ = ["Loggers", "RunInfo", "RunLogger", "State", "Status"]

Status = Literal["finished", "interrupted", "failed"]
State = Mapping[str, str]

# Keys of the configuration that tell of a start and of this machine, not of what is run.
_OF_THE_START = frozenset({"resume", "paths", "print_config", "search", "hydra"})

_log = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class RunInfo:
    """What is known of a run before its first round, for every logger alike.

    `config` is the resolved configuration, `folder` the run's own folder (it exists), `name` what the run is called,
    `group` the sweep or search it belongs to (None for a run alone), `tags` words to find it by. Of `parameters` in all
    `maskable` can have a mask and `alive` do when the last stage begins; 0 parameters where that is not known.
    """

    config: Mapping[str, Any]
    folder: Path
    name: str = ""
    group: str | None = None
    tags: tuple[str, ...] = field(default=())
    parameters: int = 0
    maskable: int = 0
    alive: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration without what only tells how this start was asked for and where files are.

        With `commit` and `command` of provenance.json, where it lies in the folder: what runs it again.
        """
        kept = {key: value for key, value in self.config.items() if key not in _OF_THE_START}
        return kept | self._provenance()

    def _provenance(self) -> dict[str, Any]:
        try:
            latest = files.read_json(self.folder / files.PROVENANCE)[-1]
            return {"commit": latest["git"], "command": latest["command"]}
        except (files.FileProblem, LookupError, TypeError):
            return {}


class RunLogger(ABC):
    """Writes down one run: opened once, a row per round, a summary at the end, closed whatever happened.

    A constructor takes the keys of its yaml and nothing else; what the run is comes with `open`.
    """

    def open(self, run: RunInfo, state: State | None) -> None:
        """Before the first round. `state` is what the logger's own `state_dict` gave at the checkpoint the run goes on
        from; None for a run that starts at 0, empty where the logger was not there before.
        """

    def step(self, what: str, done: int, total: int) -> None:
        """Within a round: `done` of `total` clients or evaluated images, as `what` says; for progress alone."""

    @abstractmethod
    def log(self, row: Row) -> None:
        """One round; see `metrics.names` for the keys. `row["round"]` grows from call to call."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """The finished run's figures, once, after the last row."""

    def close(self, status: Status) -> None:
        """Lets go of files and processes. Does nothing to a logger that was never opened or is closed already."""

    def state_dict(self) -> dict[str, str]:
        """What `open` needs to go on after the last logged row: text by name."""
        return {}


@final
class Loggers:
    """Several loggers by name; used in a `with`, which closes every one of them, also when one fails to close."""

    def __init__(self, loggers: Mapping[str, RunLogger]) -> None:
        self._named = dict(loggers)
        self._loggers = tuple(self._named.values())

    def open(self, run: RunInfo, state: Mapping[str, State] | None) -> None:
        """Opens each in order; each is given its own part of `state`, which is by the loggers' names."""
        for name, logger in self._named.items():
            logger.open(run, None if state is None else state.get(name, {}))

    def step(self, what: str, done: int, total: int) -> None:
        """Tells each in order."""
        for logger in self._loggers:
            logger.step(what, done, total)

    def log(self, row: Row) -> None:
        """Gives the row to each in order."""
        for logger in self._loggers:
            logger.log(row)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Gives the figures to each in order."""
        for logger in self._loggers:
            logger.summary(values)

    def close(self, status: Status) -> None:
        """Closes each in order. One that fails is reported in the log and keeps no other from closing."""
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
