"""A command line taken apart: overrides, and the flags that are Hydra's own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import final

from hydra._internal.utils import get_args_parser

from pffdst.core.program import command_line

__all__ = ["CommandLine", "key_of"]

# Each is all that a command line does; Hydra takes one of them.
_COMMANDS = ("--run", "--multirun", "--cfg", "--info")


def key_of(line: str) -> str:
    """The key of an override as it was typed, `+`, `++` and `~` included."""
    return line.split("=", 1)[0].strip()


@final
@dataclass(frozen=True)
class CommandLine:
    """The arguments after the program's name, `argv`.

    `--key=value`, as a W&B agent writes it, is the override `key=value`, unless it is a flag of Hydra's.
    """

    argv: tuple[str, ...]

    @classmethod
    def of(cls, argv: Sequence[str]) -> CommandLine:
        """Reads `--key=value` as `key=value`."""
        flags = {name for action in get_args_parser()._actions for name in action.option_strings}
        return cls(tuple(_undashed(token, flags) for token in argv))

    @cached_property
    def _parsed(self) -> tuple[argparse.Namespace, list[str]]:
        return get_args_parser().parse_known_intermixed_args(list(self.argv))

    @property
    def args(self) -> argparse.Namespace:
        """Hydra's flags."""
        return self._parsed[0]

    @property
    def overrides(self) -> list[str]:
        """Everything that is no flag; what follows an unknown flag is an override all the same."""
        return [*self.args.overrides, *(token for token in self._parsed[1] if not token.startswith("-"))]

    @property
    def unknown(self) -> list[str]:
        """Flags that there are not."""
        return [token for token in self._parsed[1] if token.startswith("-")]

    @property
    def places(self) -> list[str]:
        """The words that name folders of configurations: what is trusted is said on every command line anew."""
        own = self.args.config_dir
        searched = [line for line in self.overrides if key_of(line) == "hydra.searchpath"]
        return [*searched, *(["--config-dir", own] if own is not None else [])]

    @property
    def multirun(self) -> bool:
        """Whether it starts a sweep."""
        return bool(self.args.multirun) or "hydra.mode=MULTIRUN" in self.overrides

    @property
    def asks(self) -> bool:
        """Whether it asks for help or for completion, whatever else it says."""
        args = self.args
        return bool(args.help or args.hydra_help or args.shell_completion or args.experimental_rerun is not None)

    @property
    def shows(self) -> bool:
        """Whether it shows something and runs nothing."""
        return self.asks or self.args.cfg is not None or self.args.info is not None

    @property
    def searches(self) -> bool:
        """Whether it starts a search."""
        return not self.shows and self.search is not None

    @property
    def search(self) -> str | None:
        """The search it names."""
        chosen = [line.partition("=")[2] for line in self.overrides if key_of(line) == "search"]
        return chosen[-1] if chosen and chosen[-1] != "null" else None

    def handed_on(self, overrides: Sequence[str], config_dir: Path) -> list[str]:
        """The arguments for Hydra with these overrides in the place of its own, and the user's own folder named.

        Overrides come first: `--info` takes an optional word and would swallow one that follows it.
        """
        kept, own = set(self.overrides), self.own_configs(config_dir)
        flags = [token for token in self.argv if token not in kept]
        named = own is not None and self.args.config_dir is None
        return [*overrides, *flags, *(["--config-dir", str(own)] if named else [])]

    def own_configs(self, config_dir: Path) -> Path | None:
        """The user's own folder of configurations: `--config-dir`, else `configs` in the working directory.

        None where there is no folder beside `config_dir`.
        """
        if self.args.config_dir is not None:
            return Path(self.args.config_dir)
        here = Path("configs")
        return here if here.is_dir() and not here.samefile(config_dir) else None

    def problems(self) -> list[str]:
        """Flags that there are not, or that do not go together."""
        found = [_dashed(token) for token in self.unknown]
        commands = [flag for flag in _COMMANDS if getattr(self.args, flag.strip("-"))]
        if self.multirun and self.shows:
            found.append("-m has many configurations, --cfg and --info show one: leave -m out and write single values")
        elif len(commands) > 1:
            found.append(f"{' and '.join(commands)} do not go together: write one of them")
        if self.args.resolve and not self.args.cfg:
            found.append("--resolve goes with --cfg: write --cfg job --resolve")
        if self.multirun and self.search is not None:
            instead = command_line("train", [f"search={self.search}"])
            found.append(f"-m and search do not go together; write {instead}")
        return found


def _undashed(token: str, flags: set[str]) -> str:
    return token[2:] if token.startswith("--") and "=" in token and key_of(token) not in flags else token


def _dashed(token: str) -> str:
    bare = token.lstrip("-")
    return f"{token}: no such flag; settings have no dashes: write {bare if '=' in bare else f'{bare}=...'}"
