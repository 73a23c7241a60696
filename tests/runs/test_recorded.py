"""What run.json says of a run that did not come to its end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pffdst import launch
from pffdst.core.errors import LostError, UserError
from pffdst.experiment import Experiment
from pffdst.runs.jobs import job_of, read_run

Make = Callable[..., Experiment]


def ended_by(error: Exception, experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> str:
    """The state of a run that this ends once it has begun."""

    def fail(*given: object) -> None:
        assert read_run(experiment.folder)["status"] == "running"
        raise error

    monkeypatch.setattr(launch, "run", fail)
    with pytest.raises(type(error)):
        launch.recorded_run(experiment, None, "engine")
    job = job_of(experiment.folder)
    assert job is not None
    return job.status


def test_what_the_user_must_mend_has_failed(make_experiment: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = make_experiment("method=feddst", "rounds=2")
    assert ended_by(UserError("no such package"), experiment, monkeypatch) == "failed"
    known = read_run(experiment.folder)
    assert (known["error"], known["engine"]) == ("no such package", "engine")


@pytest.mark.parametrize("error", [LostError("a worker is gone"), OSError(28, "No space left on device")])
def test_what_is_resumed_as_it_is_was_stopped(
    error: Exception, make_experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ended_by(error, make_experiment("method=feddst", "rounds=2"), monkeypatch) == "stopped"
