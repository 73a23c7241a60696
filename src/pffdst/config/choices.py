"""Where a configuration came from: the options chosen, the folders they lie in, what the command line named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

__all__ = ["Origin"]


@final
@dataclass(frozen=True)
class Origin:
    """What Hydra knows about a composed configuration, for messages that speak in the user's own words.

    `choices`: option per group; `folders`: the folders with the groups' yaml files; `given`: dotted keys set on the
    command line. All empty for a configuration composed without Hydra's runtime node.
    """

    choices: Mapping[str, Any] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()
    given: frozenset[str] = frozenset()

    @classmethod
    def of(cls, hydra: Any) -> Origin:
        """Reads Hydra's own node of a composed configuration."""
        sources = hydra.runtime.config_sources
        folders = tuple(Path(source.path) for source in sources if source.schema == "file")
        lines = OmegaConf.to_container(hydra.overrides.task, resolve=False)
        given = frozenset(str(line).split("=", 1)[0].lstrip("+~") for line in lines or ())
        return cls(dict(hydra.runtime.choices), folders, given)

    @classmethod
    def current(cls) -> Origin:
        """The origin of the job that is running under `hydra.main`, else an empty one."""
        return cls.of(HydraConfig.get()) if HydraConfig.initialized() else cls()

    def options(self, group: str) -> dict[str, DictConfig]:
        """The yaml files of a group as they are written, by option name; empty where the folders are not known."""
        files = [path for folder in self.folders for path in sorted((folder / group).glob("*.yaml"))]
        loaded = {path.stem: OmegaConf.load(path) for path in files}
        return {name: node for name, node in loaded.items() if isinstance(node, DictConfig)}

    def label(self, group: str, node: Any) -> str:
        """The choice as the user would write it, e.g. `model=lenet`."""
        choice = self.choices.get(group)
        if choice is None:
            choice = str(node.get("_target_", "?")).rpartition(".")[2] if isinstance(node, DictConfig) else "?"
        return f"{group}={choice}"
