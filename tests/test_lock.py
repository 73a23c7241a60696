"""Both lists of what is installed name the same versions, and every file that may be installed has its hash."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PIN = re.compile(r"^([A-Za-z0-9_.\-]+)==([^\s;\\]+)", re.MULTILINE)


def pins(text):
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in PIN.findall(text)}


def test_hashes_are_those_of_the_versions_that_were_tested_together():
    lock = (ROOT / "requirements.lock").read_text()
    wanted = pins((ROOT / "constraints.txt").read_text())
    assert pins(lock) == wanted | {"setuptools": pins(lock)["setuptools"]}, "run make hashes"
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", lock)) >= len(wanted)
    assert all("--hash=sha256:" in part for part in re.split(r"\n(?=\S+==)", lock)[1:])
