"""What clients on other machines learn about a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pffdst import __version__
from pffdst.data.dataset import Dataset

__all__ = ["brief"]

_AT_THE_SERVER: Final = (
    *("dataset", "partition", "engine", "logger", "metrics", "observers", "participation", "time", "server_optimizer"),
    *("paths", "search", "name", "tags", "label", "resume", "profile", "print_config"),
)


def brief(plain: Mapping[str, Any], dataset: Dataset) -> dict[str, Any]:
    """The resolved configuration, without what only the server needs, and the samples' form. JSON-serializable.

    `version` is pffdst's own: another one may have other classes, keys and defaults.
    """
    return {
        "version": __version__,
        "config": {key: value for key, value in plain.items() if key not in _AT_THE_SERVER},
        "data": {
            "name": dataset.name,
            "class_names": list(dataset.class_names),
            "crop": bool((plain.get("dataset") or {}).get("crop", False)),
            **dataset.inputs.words(),
        },
    }
