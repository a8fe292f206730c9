"""Tests run offline, on the CPU, one thread each."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent / "support"))  # what tests of several rooms share

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

# How long an example takes says how busy the machine is, and which are drawn says nothing of a change.
settings.register_profile(
    "any machine", deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


MEMORY = Path("/dev/shm")  # where writing to disk, which tests of stores and ledgers mostly wait for, costs nothing


def roomy(folder: Path) -> bool:
    """Whether all that tests write fits into it."""
    return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > 6e9


def pytest_collection_finish() -> None:
    """A collection of garbage, which comes after each unit, need not read a million objects of imported libraries."""
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    """What libraries leave among temporary files goes when the tests end; those of pytest stay where they are."""
    if hasattr(config, "workerinput"):  # of xdist, whose environment has all this
        return
    root = str(MEMORY) if roomy(MEMORY) else tempfile.gettempdir()
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", root)
    folder = tempfile.mkdtemp(prefix="morlaif-tests-", dir=root)
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    # After multiprocessing has removed its own in it, whose priority is -100.
    Finalize(None, shutil.rmtree, args=(folder,), kwargs={"ignore_errors": True}, exitpriority=-200)


@pytest.fixture(scope="session", autouse=True)
def quick_compositions():
    import quick_hydra

    with quick_hydra.installed():
        yield


@pytest.fixture
def plugin(tmp_path_factory, monkeypatch):
    """`tests/plugin` as an installed package; the value is a PYTHONPATH under which another process has it too."""
    import plugged

    yield plugged.install(tmp_path_factory.mktemp("site"), monkeypatch)
    plugged.forget()


@pytest.fixture
def edited(plugin, tmp_path, monkeypatch):
    """Writes a module of the package anew, in a copy of it that comes first."""
    from plugged import PLUGIN

    home = tmp_path / "edited"
    shutil.copytree(PLUGIN, home)
    monkeypatch.syspath_prepend(home)

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "morlaif_plugin"]:
            del sys.modules[name]

    def edit(module: str, old: str, new: str) -> None:
        path = home / "morlaif_plugin" / f"{module}.py"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        forget()

    forget()
    yield edit
    forget()
