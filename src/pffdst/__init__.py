"""PFFDST: federated dynamic sparse training with parameter freezing, measured in real bytes."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pffdst.models.saved import load as load

__all__ = ["load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports `pffdst.load`, which needs torch, on first use."""
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pffdst.models.saved import load

    return load
