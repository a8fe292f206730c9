"""A wheel built from the project carries every YAML and template and runs from an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # Out of a copy: setuptools writes into the tree that it builds.
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=150)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_carries_every_data_file(installed):
    for tree, place in (
        (ROOT / "conf", "morlaif/conf"),
        (ROOT / "sweeps", "morlaif/sweeps"),
        (ROOT / "morlaif", "morlaif"),
    ):
        for file in tree.rglob("*"):
            if (
                file.suffix in (".py", ".yaml", ".html", ".css", ".js", ".j2", ".jinja", ".jsonl")
                and "__pycache__" not in file.parts
            ):
                assert (installed / place / file.relative_to(tree)).is_file(), file


def test_runs_from_an_empty_folder(installed, tmp_path):
    code = (
        "import sys, morlaif; assert morlaif.__file__.startswith(sys.argv.pop()); from morlaif.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "dry_run=true", str(installed)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ppo/morlaif" in done.stdout
