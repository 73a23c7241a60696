"""Any of Lightning's loggers (TensorBoard, MLflow, Comet, Neptune, CSV, W&B) as a logger of a run."""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, final

from pffdst.core.errors import UserError
from pffdst.core.words import one_line
from pffdst.loggers.base import RunInfo, RunLogger, State, Status
from pffdst.metrics.names import ROUND, Row, only_in

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

__all__ = ["LightningLogger"]

_KNOWN: Final = ("folder", "name", "group", "tags", "version", "resumed_at")
_VERSION, _ROUND = "version", "round"
_STATUS: Final = {"finished": "success", "interrupted": "aborted", "failed": "failed"}

_log = logging.getLogger(__name__)


@final
class LightningLogger(RunLogger):
    """Passes a run to one of Lightning's loggers: its settings, a row per round at step `round`, the summary.

    `logger` creates it: in a yaml, a `_target_` with `_partial_: true` and the class's own keys. `from_run` maps the
    class's parameters to values only known when the run starts: `folder`, `name`, `group`, `tags` (a list), `version`
    (the logger's own version or id if the run is resumed, else None) or `resumed_at` (the first round that a resumed
    run logs, else None). UserError for any other word. `needs` has packages that the class imports, each with the
    command that installs it; UserError if one is not there, so that a run without it is refused before any work.

    A logging error does not stop a run: it is reported once in the log, and the run continues without the logger.
    """

    def __init__(
        self,
        logger: Callable[..., Logger],
        from_run: Mapping[str, str] | None = None,
        needs: Mapping[str, str] | None = None,
    ) -> None:
        self._make = logger
        self._from_run = {"save_dir": "folder"} if from_run is None else dict(from_run)
        unknown = sorted(set(self._from_run.values()) - set(_KNOWN))
        if unknown:
            raise UserError(f"from_run: a run has no {unknown[0]!r}; choose from {', '.join(_KNOWN)}")
        for package, install in (needs or {}).items():
            if importlib.util.find_spec(package.partition(".")[0]) is None:
                raise UserError(f"{self._name} needs the package {package}: {install}; or leave out the logger")
        self._logger: Logger | None = None
        self._version: str | None = None
        self._row: Row = {}
        self._round = 0

    def open(self, run: RunInfo, state: State | None) -> None:
        """Creates the logger and passes it the run's settings. UserError if its package is not installed."""
        self._version = (state or {}).get(_VERSION)
        self._round = int((state or {}).get(_ROUND, 0))
        given = {parameter: self._of(run, word) for parameter, word in self._from_run.items()}
        try:
            self._logger = self._make(**given)
            self._logger.log_hyperparams(_plain(run.settings))
        except ImportError as error:
            raise UserError(f"{self._name} needs a package: {one_line(error)}; or leave out the logger") from error
        except Exception as error:
            self._give_up("could not start", error)
            return
        version = self._logger.version
        self._version = None if version is None else str(version)

    def log(self, row: Row) -> None:
        """The row's numbers at step `round`."""
        self._round, self._row = int(row[ROUND]), row
        self._send(row)

    def summary(self, values: Mapping[str, Any]) -> None:
        """The summary's numbers that are in no row, once, at the last step."""
        self._send({f"summary/{key}": value for key, value in only_in(values, self._row).items()})

    def close(self, status: Status) -> None:
        """Lets the logger write what is left and end its run."""
        logger, self._logger = self._logger, None
        if logger is not None:
            logger.save()
            logger.finalize(_STATUS[status])

    def state_dict(self) -> dict[str, str]:
        """The logger's own version or id, and the last round it was given."""
        return {_ROUND: str(self._round)} | ({} if self._version is None else {_VERSION: self._version})

    @property
    def _name(self) -> str:
        return str(getattr(getattr(self._make, "func", self._make), "__name__", "the logger"))

    def _of(self, run: RunInfo, word: str) -> Any:
        known: dict[str, Any] = {
            "folder": str(run.folder),
            "name": run.name,
            "group": run.group,
            "tags": list(run.tags),
            "version": self._version,
            "resumed_at": self._round + 1 if self._round > 0 else None,
        }
        return known[word]

    def _send(self, values: Mapping[str, Any]) -> None:
        if self._logger is None:
            return
        numbers = {key: value for key, value in values.items() if _is_number(value)}
        try:
            self._logger.log_metrics(numbers, step=self._round)
        except Exception as error:
            self._give_up("stopped accepting rows", error)

    def _give_up(self, what: str, error: Exception) -> None:
        _log.warning("%s %s (%s: %s); the run continues without it", self._name, what, type(error).__name__, error)
        self._logger = None


def _is_number(value: Any) -> bool:
    """Infinity and NaN are excluded, since some services refuse them."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key): _plain(value) if isinstance(value, Mapping) else value for key, value in settings.items()}
