"""What a result was made with: machine, versions, command, commit, date. Nothing here imports torch."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from pffdst.core.program import command_line, is_package

__all__ = ["commit", "machine", "provenance", "versions"]

COMMIT = "PFFDST_COMMIT"
_PACKAGES = ("torch", "torchvision", "lightning", "numpy")


def provenance(command: Sequence[str] | None = None) -> dict[str, Any]:
    """Everything needed to run it again: `machine`, `versions`, `command` (default: this process's own), `date` (UTC,
    to the second) and `git`, the commit of the program."""
    return {
        "machine": machine(),
        "versions": versions(),
        "command": _own_command() if command is None else shlex.join(["python", *command]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git": commit(),
    }


def _own_command() -> str:
    if is_package():
        return command_line("train", sys.argv[1:])
    return shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, memory in GB (1e9 bytes), system and, if torch sees one, the GPU."""
    found = {
        "cpu": _cpu(),
        "cores": len(psutil.Process().cpu_affinity() or ()) if sys.platform == "linux" else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect results; those not installed are left out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """This program's commit, with -dirty if tracked files differ from it.

    It is that of the repository that tracks this file; if none does (an installed package, a copy inside another
    repository), the environment variable PFFDST_COMMIT; else None.
    """
    here = Path(__file__).resolve()
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is not None:
        return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return os.environ.get(COMMIT) or None


def _git(folder: Path, *words: str) -> str | None:
    """Git's output in a folder; None if it fails or is not installed."""
    try:
        found = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None


def _cpu() -> str:
    if sys.platform == "linux":
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0].partition(":")[2].strip()
    return platform.processor() or "unknown"
