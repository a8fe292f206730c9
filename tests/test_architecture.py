"""The arrows of the design: cli → pipeline → stages → library, and never up."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

from morlaif.stages.known import ALONE, NAMES

PACKAGE = Path(__file__).parents[1] / "morlaif"
LIBRARY = (
    "data",
    "dpo",
    "evaluation",
    "feedback",
    "models",
    "preference",
    "report",
    "reward",
    "rl",
    "scalarize",
    "steer",
    "toy",
)
ABOVE_LIBRARY = (
    "morlaif.cli", "morlaif.config", "morlaif.launch", "morlaif.pipeline", "morlaif.planning", "morlaif.stages",
    "morlaif.units",
)  # fmt: skip


def imports(file: Path) -> set[str]:
    """Every module that a file names in an import, at its top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def offenders(rooms: tuple[str, ...], forbidden: tuple[str, ...]) -> list[str]:
    files = [file for room in rooms for file in sorted((PACKAGE / room).rglob("*.py"))]
    assert files
    return [
        f"{file.relative_to(PACKAGE)} imports {name}"
        for file in files
        for name in sorted(imports(file))
        if any(name == bad or name.startswith(bad + ".") for bad in forbidden)
    ]


# What may be imported by all that stands on a floor above it; what shares a floor knows nothing of its neighbours.
FLOORS = (
    {"errors", "naming", "pages", "ranks", "settings", "signals", "source", "statistics", "texts"},
    {"batches", "contents", "dotted", "files", "hardware", "keys", "pace", "params", "presets", "sharded", "variance"},
    {"devices", "reference", "registry", "searchpath"},
    {"data", "scalarize", "tracking"},
    {"models", "toy"},
    {"steer"},
    {"feedback", "rl"},
    {"preference"},
    {"evaluation", "reward"},
    {"dpo"},
    {"online"},
    {"claims", "report", "systems"},
    {"memory"},
    {"units"},
    {"stages"},
    {"arms"},
    {"config"},
    {"planning", "usage", "worlds"},
    {"launch"},
    {"pipeline"},
    {"compose"},
    {"made", "mistakes", "side_by_side"},
    {"claim_runs"},
    {"cli"},
    {"__main__"},
)
HEAVY, FIGURES = ("torch", "transformers", "datasets", "openai"), ("scipy", "matplotlib")


def modules() -> dict[str, set[str]]:
    """Each module of the package and which others it imports, at its top or inside a function."""
    files = {
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): file
        for file in PACKAGE.rglob("*.py")
    }
    return {name: {n for n in imports(file) if n in files and n != name} for name, file in files.items()}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.slow
def test_no_import_runs_up():
    floors = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    found = modules()
    assert {room(name) for name in found} - {""} == floors.keys()
    up = [
        f"{name} imports {other}"
        for name, others in found.items()
        for other in others
        if room(name) and room(other) and room(name) != room(other)
        if floors[room(other)] >= floors[room(name)]
    ]
    assert not up


@pytest.mark.slow
def test_no_files_import_each_other_in_a_circle():
    sorter = graphlib.TopologicalSorter(modules())
    sorter.prepare()  # raises CycleError, which names them


@pytest.mark.slow
def test_the_library_imports_neither_hydra_nor_what_is_above_it():
    assert not offenders(LIBRARY, ("hydra", "omegaconf", *ABOVE_LIBRARY))


@pytest.mark.slow
def test_stages_import_neither_hydra_nor_the_pipeline():
    forbidden = ("hydra", "omegaconf", "morlaif.cli", "morlaif.pipeline", "morlaif.planning")
    assert not offenders(("stages",), forbidden)


@pytest.mark.slow
def test_only_the_entrypoint_imports_hydra():
    rooms = ("pipeline", "launch", "memory", "planning", "stages", "units", *LIBRARY)
    assert not offenders(rooms, ("hydra",))


def test_who_launches_and_who_counts_memory_name_no_stage():
    """They ask the stage's own object."""
    known = {*NAMES, ALONE.name}
    named = {
        f"{file.relative_to(PACKAGE)}:{node.lineno} names {node.value}"
        for room in ("launch", "memory", "units")
        for file in (PACKAGE / room).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and node.value in known
    }
    assert not named


def test_ppo_knows_nothing_of_feedback():
    assert not offenders(("rl",), ("morlaif.feedback", "morlaif.reward", "morlaif.toy", "morlaif.report"))


def test_scalarizers_know_tensors_alone():
    rooms = tuple(f"morlaif.{room}" for room in LIBRARY if room != "scalarize")
    assert not offenders(("scalarize",), (*rooms, "transformers", "peft", "trl", "datasets"))


@pytest.mark.slow
def test_the_library_works_without_hydra():
    """Import all of it in a process in which hydra cannot be imported; nothing above it may come along."""
    modules = sorted(
        "morlaif." + str(file.relative_to(PACKAGE).with_suffix("")).replace("/", ".").removesuffix(".__init__")
        for room in LIBRARY
        for file in (PACKAGE / room).rglob("*.py")
    )
    code = f"""
import importlib, sys
sys.modules["hydra"] = None
for name in {modules!r}:
    importlib.import_module(name)
above = [name for name in sys.modules if name.startswith({ABOVE_LIBRARY!r})]
assert not above, above
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "unneeded"),
    [(["--cfg", "job"], (*HEAVY, *FIGURES)), (["--help"], (*HEAVY, *FIGURES)), (["dry_run=true"], HEAVY)],
)
def test_asking_imports_nothing_heavy(arguments, unneeded, tmp_path):
    code = f"""
import atexit, os, sys
sys.argv = ["morlaif", *{arguments!r}]
def check():
    heavy = [name for name in {unneeded!r} if name in sys.modules]
    if heavy:
        print("imported", heavy, file=sys.stderr)
        os._exit(77)
atexit.register(check)
from morlaif.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []  # asking leaves nothing behind


@pytest.mark.slow
def test_a_stage_that_reads_no_model_imports_neither_transformers_nor_tests_of_hypotheses(tmp_path):
    code = """
import atexit, os, sys
sys.argv = ["morlaif", "experiment=smoke", "stages=[data]", "data.sft=20", "hardware.workers=1"]
def check():
    if {"transformers", "scipy.stats"} & sys.modules.keys():
        os._exit(77)
atexit.register(check)
from morlaif.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=170, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_chat_templates_are_rendered_at_one_border():
    """Elsewhere they would have no bounds."""
    using = ("apply_chat_template(", "SandboxedEnvironment(", "from_string(")
    found = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        for text in [file.read_text()]
        if any(name in text for name in using)
    }
    assert found == {"data/template.py"}
