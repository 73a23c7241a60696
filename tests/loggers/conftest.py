import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def offline_run() -> ModuleType:
    """The reader of W&B's offline files; the test tree is no package, so it is loaded from its path."""
    spec = importlib.util.spec_from_file_location("offline_run", Path(__file__).with_name("offline_run.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _no_wandb_settings_from_outside(monkeypatch, tmp_path):
    """The tests see neither the machine's W&B login nor its WANDB_* variables."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_DIR", "WANDB_RUN_ID", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "no-config"))
