"""Weights & Biases: online with a login, offline without one, and never blocking the training.

Every metric is plotted over `round`. The four accuracies have a second curve, `by_bytes/*`, plotted over the cumulative
`cost/bytes`: in W&B a metric has one default x-axis, and both plots should be there without a click. The curves are
only in the history; in the run's summary every figure appears once, under its column name in metrics.csv.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from pffdst.core.errors import UserError
from pffdst.core.words import one_line
from pffdst.loggers.base import RunInfo, RunLogger, State, Status
from pffdst.loggers.csv import CsvLogger, read_metrics
from pffdst.metrics.names import ACCURACIES, COST_BYTES, ROUND, Row, as_test, by_bytes, only_in
from pffdst.runs.files import CONFIG, MODEL, MODEL_AVERAGE

if TYPE_CHECKING:
    import wandb

__all__ = ["LOGIN_HINT", "WandbLogger", "login_exists"]

_RUN: Final = "run_id"
_ROUND: Final = "round"
_GROUP: Final = "group"
_MODES: Final = ("auto", "online", "offline", "disabled")
# summary labels that W&B already has from the configuration, and the folder, which only means something here
_IN_CONFIG: Final = ("seed", "sparsity_target", "folder")
_OLD_NAMES: Final = {"dryrun": "offline", "run": "online"}
_ENVIRONMENT: Final = "WANDB_MODE"
_REPLACED: Final = "replaced-"
_PATIENCE, _PATIENCE_WITH_MODELS = 60.0, 600.0  # seconds that the upload may take after the last round
LOGIN_HINT: Final = "log in with `wandb login` or set WANDB_API_KEY"

_log = logging.getLogger(__name__)


@final
class WandbLogger(RunLogger):
    """One W&B run, kept in the run's folder.

    `mode` is auto (online if a login exists, else offline), online, offline or disabled; the environment variable
    WANDB_MODE overrides it. `log_model` uploads the finished models as an artifact. W&B's configuration is the run's,
    plus the `commit` and the `command` it was started with. UserError for an unknown mode, and for a `project` that
    W&B would refuse.

    There is never a prompt, and no W&B error stops a run: it is reported once in the log, and the run continues
    offline, or without W&B.
    """

    _answers: ClassVar[bool] = True  # the server, as far as this process knows

    def __init__(self, project: str, entity: str | None = None, mode: str = "auto", *, log_model: bool = False) -> None:
        own = _checked(mode, "logger.wandb.mode", "auto, online, offline or disabled")
        self._mode = _environment_mode() or own
        self._project, self._entity, self._log_model = _project(project), entity, log_model
        self._folder = Path()
        self._run: wandb.Run | None = None
        self._id: str | None = None
        self._group: str | None = None
        self._row: Row = {}
        self._round = 0

    def open(self, run: RunInfo, state: State | None) -> None:
        """Starts the run, or continues the run of `state` after its rows; one without a checkpoint begins it again."""
        known = state or {}
        self._folder, self._id = run.folder, known.get(_RUN) or _earlier_id(run.folder)
        self._round, self._group = int(known.get(_ROUND, 0)), known.get(_GROUP) or run.group
        if self._mode == "disabled":
            return
        try:
            self._run = self._start(run, _resolved(self._mode))
            self._id = self._run.id
            _define_axes(self._run)
            if _set_aside_earlier(self._run):
                self._replay(run.folder, resumed=state is not None)
        except ModuleNotFoundError as error:
            self._give_up("is not installed: pip install wandb, or write logger=csv", error)
        except Exception as error:
            self._give_up("could not start", error)

    def log(self, row: Row) -> None:
        """Sends the row at step `round`: rounds that a resumed run repeats are not counted twice."""
        self._round, self._row = int(row[ROUND]), row
        if self._run is None:
            return
        try:
            _send(self._run, row)
        except Exception as error:
            self._give_up("stopped accepting rows", error)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Adds to the run's summary what W&B has not taken from the last row itself."""
        if self._run is None:
            return
        try:
            self._run.summary.update(_told_once(values, self._row))
            if self._log_model:
                _send_model(self._run, self._folder)
        except Exception as error:
            self._give_up("did not accept the summary", error)

    def close(self, status: Status) -> None:
        """Ends the run; W&B shows it as failed unless it is finished. Says so if the upload does not end in time."""
        run, self._run = self._run, None
        if run is None:
            return
        try:
            run.finish(exit_code=0 if status == "finished" else 1)
        except Exception as error:
            again = f"`wandb sync {Path(run.dir).parent}`"
            _log.warning("W&B: not everything was uploaded (%s); %s uploads the rest", one_line(error, 200), again)

    def state_dict(self) -> dict[str, str]:
        """The run's id, its group and the last round sent to it; empty if there is no run."""
        if self._id is None:
            return {}
        return {_RUN: self._id, _ROUND: str(self._round), **({_GROUP: self._group} if self._group else {})}

    def _start(self, info: RunInfo, mode: str) -> wandb.Run:
        """The run, offline where it cannot be online; the jobs of a sweep do not wait for the server again."""
        if mode == "offline" or not WandbLogger._answers:
            return self._init(info, "offline")
        try:
            return self._init(info, mode)
        except Exception as error:
            WandbLogger._answers = False
            kept = f"this run is kept offline in {info.folder}, and later jobs of this process are not tried online"
            _log.warning("W&B could not start online (%s); %s", error, kept)
            return self._init(info, "offline")

    def _init(self, info: RunInfo, mode: str) -> wandb.Run:
        import wandb

        run = wandb.init(
            project=self._project,
            entity=self._entity,
            group=self._group,
            tags=[*dict.fromkeys((*info.tags, *_words_of("WANDB_TAGS")))],
            name=os.environ.get("WANDB_NAME") or info.name or None,
            config=info.settings,
            dir=info.folder,
            id=self._id,
            resume="allow",
            settings=_settings(mode=mode, patience=_PATIENCE if not self._log_model else _PATIENCE_WITH_MODELS),
        )
        where = run.url if mode == "online" else f"offline; upload it with `wandb sync {Path(run.dir).parent}`"
        _log.info("W&B run %s: %s", run.id, where)
        return run

    def _replay(self, folder: Path, *, resumed: bool) -> None:
        """Sends a resumed run's earlier rows again, from the CSV, which ends at the checkpoint.

        If a process is killed, rows that W&B had not written yet are lost, and an offline run continues in a new file:
        this completes that file. Online, W&B itself drops the steps it already has.
        """
        path = folder / CsvLogger.FILE
        rows = read_metrics(path) if resumed and path.is_file() else []
        last = self._round or math.inf  # not known where W&B was not used before
        for row in rows:
            if self._run is not None and int(row[ROUND]) <= last:
                _send(self._run, row)
                self._row = row

    def _give_up(self, what: str, error: Exception) -> None:
        _log.warning("W&B %s (%s: %s); the run continues without it", what, type(error).__name__, error)
        self._run = None


def _earlier(folder: Path, run_id: str = "*") -> list[Path]:
    """The folders in which W&B has kept this run so far, oldest first."""
    return sorted(folder.glob(f"wandb/*run-*-{run_id}"), key=lambda path: path.name.partition("run-")[2])


def _earlier_id(folder: Path) -> str | None:
    """The id of a run that was begun in this folder and left no checkpoint."""
    earlier = [path for path in _earlier(folder) if not path.name.startswith(_REPLACED)]
    return earlier[-1].name.rpartition("-")[2] if earlier else None


def _set_aside_earlier(run: wandb.Run) -> bool:
    """Renames earlier offline files; returns whether all rows must be sent again, False if the run continues them.

    `wandb sync` appends a file to what the server has. So of a run that is kept offline only the last file, which is
    complete, may be found by it; and if a part was uploaded, the new file must begin after it.
    """
    own = Path(run.dir).parent
    earlier = [path for path in _earlier(own.parent.parent, run.id) if path.name != own.name]
    uploaded = [path for path in earlier if path.name.startswith("run-") or any(path.glob("*.synced"))]
    if uploaded and own.name.startswith("offline-"):
        return False
    for path in earlier:
        if path.name.startswith("offline-") and path not in uploaded:
            path.rename(path.with_name(_REPLACED + path.name))
    return True


def _words_of(variable: str) -> list[str]:
    return [word.strip() for word in os.environ.get(variable, "").split(",") if word.strip()]


def _environment_mode() -> str | None:
    mode = os.environ.get(_ENVIRONMENT)
    if not mode:
        return None
    return _checked(_OLD_NAMES.get(mode, mode), _ENVIRONMENT, "online, offline or disabled")


def _checked(mode: str, source: str, allowed: str) -> str:
    if mode not in _MODES:
        raise UserError(f"Expected {source} to be {allowed}, but got {mode!r}. Write e.g. {source}=offline")
    return mode


def _project(name: str) -> str:
    """The name, if W&B accepts it."""
    if len(name) > 128 or set(name) & set("/\\#?%:"):
        wanted = "at most 128 characters, none of / \\ # ? % :"
        raise UserError(f"Expected logger.wandb.project to have {wanted}, but got {name!r}. Write e.g. pffdst")
    return name


def _resolved(mode: str) -> str:
    """online or offline; online only if a login exists, since W&B would ask for one otherwise."""
    if mode == "offline":
        return mode
    try:
        if login_exists(mode):
            return "online"
        problem = "no login was found"
    except ModuleNotFoundError:
        raise
    except Exception as error:
        problem = f"the login cannot be used: {error}"
    if mode == "online" or problem != "no login was found":
        _log.warning("W&B: %s; this run is kept offline. To go online, %s", problem, LOGIN_HINT)
    return "offline"


def login_exists(mode: str) -> bool:
    """Whether the environment, settings files or netrc hold credentials; asks neither the user nor the server."""
    import wandb

    # Silent process-wide, before anything else: a silent W&B cannot prompt. With `auto` the mode is left to W&B's
    # settings files, so that users who ran `wandb offline` stay offline.
    wandb.setup(settings=_settings(mode=None if mode == "auto" else mode))
    return wandb.login(prompt=False, verify=False)


def _settings(mode: str | None, patience: float = _PATIENCE) -> wandb.Settings:
    """No capture of console, code or git: the run's folder holds what is needed to rerun it."""
    import wandb

    wanted: dict[str, Any] = {
        **({} if mode is None else {"mode": mode}),
        "console": "off",
        "silent": True,
        "disable_git": True,
        "disable_code": True,
        "save_code": False,
        "x_save_requirements": False,
        "init_timeout": 30.0,
        "finish_timeout": patience,
        "finish_timeout_raises": True,
        "x_transaction_log_flush_interval": 1.0,
    }
    known = wandb.Settings.model_fields
    return wandb.Settings(**{key: value for key, value in wanted.items() if key in known})


def _send(run: wandb.Run, row: Row) -> None:
    run.log({**row, **_accuracies_by_bytes(row)}, step=int(row[ROUND]))


def _send_model(run: wandb.Run, folder: Path) -> None:
    """Both models and the configuration they were trained with, as one artifact."""
    import wandb

    artifact = wandb.Artifact(f"model-{run.id}", type="model")
    for path in (folder / name for name in (MODEL, MODEL_AVERAGE, CONFIG)):
        if path.is_file():
            artifact.add_file(str(path))
    run.log_artifact(artifact)


def _define_axes(run: wandb.Run) -> None:
    for axis in (ROUND, COST_BYTES):
        run.define_metric(axis)
    run.define_metric("*", step_metric=ROUND)
    for accuracy in ACCURACIES:
        run.define_metric(by_bytes(accuracy), step_metric=COST_BYTES, summary="none")


def _accuracies_by_bytes(row: Row) -> Row:
    scored = as_test(row)
    return {by_bytes(name): scored[name] for name in ACCURACIES if name in scored and COST_BYTES in row}


def _told_once(values: Mapping[str, Any], row: Row) -> dict[str, Any]:
    """The part of the summary that is neither in the last row nor in the configuration."""
    return {key: value for key, value in only_in(values, row).items() if key not in _IN_CONFIG}
