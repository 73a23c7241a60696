"""Composing configurations outside `hydra.main`: the groups and options there are, and what a command line gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, open_dict

from pffdst.config.check import tidy
from pffdst.config.choices import Origin
from pffdst.config.schema import register

__all__ = ["VERSION_BASE", "Composed", "Session", "compose", "session"]

VERSION_BASE = "1.3"


@final
@dataclass(frozen=True)
class Composed:
    """A composed configuration as a run would get it, with Hydra's own node and the origin beside it."""

    cfg: DictConfig
    hydra: DictConfig
    origin: Origin

    @property
    def folder(self) -> Path:
        """Where a single run would write."""
        return Path(str(self.hydra.run.dir))


@final
@dataclass(frozen=True)
class Session:
    """An open Hydra on one folder of configurations; valid inside `session(...)` alone."""

    config_name: str
    loader: ConfigLoader

    def groups(self) -> list[str]:
        """The names of the groups, Hydra's own left out."""
        return [name for name in self.loader.list_groups("") if name != "hydra"]

    def options(self, group: str) -> list[str]:
        """The options of a group."""
        return sorted(self.loader.get_group_options(group, ObjectType.CONFIG))

    def compose(self, overrides: Sequence[str]) -> Composed:
        """The configuration under these overrides. Hydra's and OmegaConf's errors pass through."""
        cfg = hydra_compose(self.config_name, list(overrides), return_hydra_config=True)
        hydra: Any = cfg.hydra
        origin = Origin.of(hydra)
        with open_dict(cfg):
            del cfg["hydra"]
        return Composed(tidy(cfg, origin), hydra, origin)


@contextmanager
def session(config_dir: Path, config_name: str = "train", searchpath: Sequence[str] = ()) -> Iterator[Session]:
    """Opens Hydra on `config_dir` and the places of `searchpath`, and leaves its global state as it was."""
    register()
    folder = str(config_dir.resolve())
    with initialize_config_dir(folder, job_name="train", version_base=VERSION_BASE):
        if searchpath:
            _reopen(folder, searchpath)
        yield Session(config_name, GlobalHydra.instance().config_loader())


def _reopen(folder: str, searchpath: Sequence[str]) -> None:
    """Hydra's context manager takes one folder alone; it puts back what was there before all the same."""
    path = create_config_search_path(folder)
    for place in searchpath:
        path.prepend(provider="command-line", path=place, anchor=SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    Hydra.create_main_hydra2("train", path)


def compose(overrides: Sequence[str], config_dir: Path) -> DictConfig:
    """The configuration that `python train.py OVERRIDES` runs, for tests, notebooks and reports."""
    with session(config_dir) as opened:
        return opened.compose(overrides).cfg
