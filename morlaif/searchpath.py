"""Where Hydra finds presets besides `conf/`: `sweeps/`, installed packages, and the folder of `--config-dir`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from morlaif.presets import installed


class Presets(SearchPathPlugin):
    folder: ClassVar[str | None] = None  # of `--config-dir`, while we compose; Hydra's own command line adds it itself

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("morlaif", "pkg://morlaif.sweeps")
        for name, folder in installed().items():
            search_path.append(name, f"file://{folder}")
        if self.folder:
            search_path.append("command-line", f"file://{Path(self.folder).absolute()}")


@contextmanager
def with_folder(config_dir: str | None) -> Iterator[None]:
    Presets.folder = config_dir
    try:
        yield
    finally:
        Presets.folder = None
