"""The folder that `flwr run` sends to server and nodes. It only names two apps; the code is installed there."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pffdst

__all__ = ["write_app", "write_overrides", "write_survey"]

_FLWR: Final = "1.41.0"
_PROJECT: Final = """\
[project]
name = "pffdst-app"
version = "{version}"
description = "One sparse federated model, trained by pffdst on the nodes of a federation"
license = "MIT"
dependencies = ["flwr>={flwr}"]

[tool.flwr.app]
publisher = "pffdst"

[tool.flwr.app.components]
serverapp = "pffdst_app.server:app"
clientapp = "pffdst_app.client:app"

[tool.flwr.app.config]
overrides = ""
survey = ""
"""


def write_app(folder: Path) -> Path:
    """Writes the folder of the apps and returns it."""
    package = folder / "pffdst_app"
    package.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(_PROJECT.format(version=pffdst.__version__, flwr=_FLWR))
    (package / "__init__.py").write_text("")
    for side in ("server", "client"):
        (package / f"{side}.py").write_text(f'from pffdst.deploy.{side}_app import app\n\n__all__ = ["app"]\n')
    return folder


def write_overrides(path: Path, overrides: Sequence[str]) -> Path:
    """Writes the file for `flwr run --run-config` and returns it."""
    path.write_text(f"overrides = {json.dumps(shlex.join(overrides))}\n")
    return path


def write_survey(path: Path, ask: Mapping[str, Any]) -> Path:
    """The same for a survey of the nodes before a run."""
    path.write_text(f"survey = {json.dumps(json.dumps(ask))}\n")
    return path
