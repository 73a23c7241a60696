"""What a process does when it is told to end: once, twice, and with time to finish what it is at."""

import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import signal, sys, time
for number in (signal.SIGINT, signal.SIGHUP):  # which whoever started the tests may have had ignored
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
from pffdst.core import ending
ending.PATIENCE = 0.3
ending.listen()
patient, busy = sys.argv[1] == "patient", float(sys.argv[2])
try:
    print("ready", flush=True)
    if patient:
        with ending.may_finish():
            end = time.monotonic() + busy
            while time.monotonic() < end:
                pass
            print("finished", flush=True)
            ending.stop_if_told()
    else:
        time.sleep(busy)
except ending.Ended as ended:
    if len(sys.argv) > 3:
        print("putting away", flush=True)
        time.sleep(20)
    print("ended by", ended.number, flush=True)
    sys.exit(128 + ended.number)
"""


def told(number, *words, again=False):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.05)
    process.send_signal(number)
    if again:
        assert process.stdout.readline() == "putting away\n"
        process.send_signal(number)
    out, errors = process.communicate(timeout=30)
    return process.returncode, out.split("\n")[:-1], errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_work_that_has_no_end_in_sight_is_left_at_once(number):
    assert told(number, "at once", "60")[:2] == (128 + number, [f"ended by {int(number)}"])


def test_a_round_that_ends_in_time_is_finished():
    assert told(signal.SIGTERM, "patient", "0.2")[:2] == (143, ["finished", "ended by 15"])


def test_a_round_that_does_not_is_dropped():
    assert told(signal.SIGTERM, "patient", "60")[:2] == (143, ["ended by 15"])


def test_a_second_signal_ends_the_process_at_once():
    code, out, errors = told(signal.SIGINT, "at once", "60", "slow", again=True)
    assert (code, out) == (130, [])
    assert "Stopped at once." in errors
