"""`tests/plugin`, a package outside the tree, as if it were installed."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path

import pytest

from morlaif import presets, registry

PLUGIN = Path(__file__).parents[1] / "plugin"


def record(folder: Path) -> None:
    """What `pip install` leaves of the package's name and entry points, so that `importlib.metadata` finds them."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    home = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    home.mkdir(parents=True)
    (home / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items()), ""]
    (home / "entry_points.txt").write_text("\n".join(lines))


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Install it for one test, in this process; returns the PYTHONPATH under which another process has it too."""
    record(folder)
    for place in (folder, PLUGIN):
        monkeypatch.syspath_prepend(place)
    forget()
    return f"{PLUGIN}:{folder}"


def forget() -> None:
    """What was installed when this process last looked."""
    importlib.invalidate_caches()
    registry.forget()
    presets.installed.cache_clear()
