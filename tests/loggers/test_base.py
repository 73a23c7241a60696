import logging

import pytest

from pffdst.loggers.base import Loggers, RunInfo, RunLogger


class Recorder(RunLogger):
    def __init__(self, name, calls, failure=None):
        self.name, self.calls, self.failure = name, calls, failure

    def open(self, run, state):
        self.calls.append(("open", self.name, state))

    def log(self, row):
        self.calls.append(("log", self.name, row))

    def close(self, status):
        self.calls.append(("close", self.name, status))
        if self.failure is not None:
            raise self.failure

    def state_dict(self):
        return {"at": self.name}


def both(calls, first=None):
    return Loggers({"a": Recorder("a", calls, first), "b": Recorder("b", calls)})


def closes(calls):
    return [(name, status) for what, name, status in calls if what == "close"]


def test_every_logger_gets_every_call_in_order_and_its_own_state(tmp_path):
    calls = []
    with both(calls) as loggers:
        loggers.open(RunInfo({}, tmp_path), {"a": {"at": "a"}})
        loggers.log({"round": 1})
        assert loggers.state_dict() == {"a": {"at": "a"}, "b": {"at": "b"}}
    assert calls == [
        ("open", "a", {"at": "a"}),
        ("open", "b", {}),
        *[("log", name, {"round": 1}) for name in "ab"],
        *[("close", name, "finished") for name in "ab"],
    ]


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "interrupted"), (RuntimeError, "failed"), (SystemExit, "failed")]
)
def test_all_are_closed_whatever_happens_and_the_error_goes_on(error, status):
    calls = []
    with pytest.raises(error), both(calls):
        raise error
    assert closes(calls) == [("a", status), ("b", status)]


def test_one_that_fails_to_close_keeps_no_other_open(caplog):
    calls = []
    with caplog.at_level(logging.WARNING), both(calls, OSError("disk full")):
        pass
    assert closes(calls) == [("a", "finished"), ("b", "finished")]
    assert "Recorder could not be closed" in caplog.text
    assert "disk full" in caplog.text


def test_the_run_s_own_error_is_not_hidden_by_a_failing_close():
    with pytest.raises(RuntimeError, match="training"), both([], OSError("disk full")):
        raise RuntimeError("training")


def test_an_interrupt_while_closing_still_closes_the_others():
    calls = []
    with pytest.raises(KeyboardInterrupt), both(calls, KeyboardInterrupt()):
        pass
    assert [name for name, _ in closes(calls)] == ["a", "b"]


def test_a_logger_needs_only_log(tmp_path):
    class Minimal(RunLogger):
        def log(self, row):
            pass

    with Loggers({"minimal": Minimal()}) as loggers:
        loggers.open(RunInfo({}, tmp_path), None)
        loggers.summary({})
        assert loggers.state_dict() == {"minimal": {}}
