"""What a logger is, and several of them as one."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, final

from pffdst.metrics.names import Row

__all__ = ["Loggers", "RunLogger", "Status"]

Status = Literal["finished", "interrupted", "failed"]

_log = logging.getLogger(__name__)


class RunLogger(ABC):
    """Writes down one run: opened once, a row per round, a summary at the end, closed whatever happened."""

    def open(self, config: Mapping[str, Any], folder: Path, resume_state: Mapping[str, str] | None) -> None:
        """Before the first round. `config` is the resolved configuration, `folder` the run's own folder (it exists).

        `resume_state` is the `state_dict` of the checkpoint the run goes on from, None for a run that starts at 0.
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
        """What `open` needs to go on after the last logged row; keys are unique among loggers."""
        return {}


@final
class Loggers(RunLogger):
    """Several loggers as one; used in a `with`, which closes every one of them, also when one fails to close."""

    def __init__(self, loggers: Sequence[RunLogger]) -> None:
        self._loggers = tuple(loggers)

    def open(self, config: Mapping[str, Any], folder: Path, resume_state: Mapping[str, str] | None) -> None:
        """Opens each in order; the `state_dict` of all is given to each."""
        for logger in self._loggers:
            logger.open(config, folder, resume_state)

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

    def state_dict(self) -> dict[str, str]:
        """The state of all, in one dict."""
        return {key: value for logger in self._loggers for key, value in logger.state_dict().items()}

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
