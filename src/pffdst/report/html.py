"""The page: one file that includes its style, scripts and data, and makes no network requests."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from pffdst.core.errors import needs

__all__ = ["page"]

_SELF, _NONE = "'self'", "'none'"
_SCRIPTS = tuple(
    f"{name}.js"
    for name in ("stats", "dom", "state", "tables", "equal", "runs", "plots", "figures", "details", "pair", "app")
)


def page(data: Mapping[str, Any], *, live: bool = False) -> str:
    """The whole page; `live`: it asks its own server for changes, and for nothing else."""
    app = "\n".join(_part(name) for name in _SCRIPTS)
    scripts = {"APP": f'(() => {{\n"use strict";\n{app}\n}})();', "PLOTLY": _in_script(_plotly())}
    parts = {
        "POLICY": _policy(scripts, live=live),
        "TITLE": html.escape(f"{data['base']}: comparison of runs"),
        "STYLE": _part("style.css"),
        "LIVE": "live" if live else "still",
        "DATA": packed(data),
        **scripts,
    }
    first, *rest = _part("page.html").split("{{")
    return first + "".join(parts[name] + text for name, _, text in (piece.partition("}}") for piece in rest))


def _plotly() -> str:
    """The plotting library, as one script. UserError if it is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise needs("the page", error) from error
    return str(get_plotlyjs())


def packed(data: Mapping[str, Any]) -> str:
    """JSON, compressed, in base64: a fifth of its length, and text from a run cannot be taken for markup."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _part(name: str) -> str:
    return (files("pffdst.report") / "page" / name).read_text(encoding="utf-8")


def _in_script(source: str) -> str:
    """JavaScript that cannot close its own element."""
    return source.replace("</script", "<\\/script")


def _policy(scripts: Mapping[str, str], *, live: bool) -> str:
    """Only exactly these scripts run, whatever a run is called, and nothing is loaded."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts.values()]
    allowed = " ".join(f"'sha256-{mark}'" for mark in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        f"connect-src {_SELF if live else _NONE}; base-uri 'none'; form-action 'none'"
    )
