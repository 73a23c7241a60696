import logging

import pytest

from pffdst.loggers.base import Loggers, RunLogger


class Recorder(RunLogger):
    def __init__(self, name, calls, failure=None):
        self.name, self.calls, self.failure = name, calls, failure

    def open(self, config, folder, resume_state):
        self.calls.append(("open", self.name, resume_state))

    def log(self, row):
        self.calls.append(("log", self.name, row))

    def close(self, status):
        self.calls.append(("close", self.name, status))
        if self.failure is not None:
            raise self.failure

    def state_dict(self):
        return {self.name: "state"}


def closes(calls):
    return [(name, status) for what, name, status in calls if what == "close"]


def test_every_logger_gets_every_call_in_order(tmp_path):
    calls = []
    with Loggers([Recorder("a", calls), Recorder("b", calls)]) as loggers:
        loggers.open({}, tmp_path, {"a": "state"})
        loggers.log({"round": 1})
        assert loggers.state_dict() == {"a": "state", "b": "state"}
    assert calls == [
        *[("open", name, {"a": "state"}) for name in "ab"],
        *[("log", name, {"round": 1}) for name in "ab"],
        *[("close", name, "finished") for name in "ab"],
    ]


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "interrupted"), (RuntimeError, "failed"), (SystemExit, "failed")]
)
def test_all_are_closed_whatever_happens_and_the_error_goes_on(error, status):
    calls = []
    with pytest.raises(error), Loggers([Recorder("a", calls), Recorder("b", calls)]):
        raise error
    assert closes(calls) == [("a", status), ("b", status)]


def test_one_that_fails_to_close_keeps_no_other_open(caplog):
    calls = []
    with caplog.at_level(logging.WARNING), Loggers([Recorder("a", calls, OSError("disk full")), Recorder("b", calls)]):
        pass
    assert closes(calls) == [("a", "finished"), ("b", "finished")]
    assert "Recorder could not be closed" in caplog.text
    assert "disk full" in caplog.text


def test_the_run_s_own_error_is_not_hidden_by_a_failing_close():
    with pytest.raises(RuntimeError, match="training"), Loggers([Recorder("a", [], OSError("disk full"))]):
        raise RuntimeError("training")


def test_an_interrupt_while_closing_still_closes_the_others():
    calls = []
    with pytest.raises(KeyboardInterrupt), Loggers([Recorder("a", calls, KeyboardInterrupt()), Recorder("b", calls)]):
        pass
    assert [name for name, _ in closes(calls)] == ["a", "b"]


def test_a_logger_needs_only_log(tmp_path):
    class Minimal(RunLogger):
        def log(self, row):
            pass

    with Loggers([Minimal()]) as loggers:
        loggers.open({}, tmp_path, None)
        loggers.summary({})
        assert loggers.state_dict() == {}
