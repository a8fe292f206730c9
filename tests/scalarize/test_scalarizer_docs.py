"""`docs/scalarizers.md` says what the code says: its tables are recomputed here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from morlaif import presets
from morlaif.scalarize.registry import resolve
from morlaif.scalarize.settings import ScalarizerSettings

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf" / "scalarizer"
PRESETS = sorted(path.stem for path in CONF.glob("*.yaml"))
TWELVE = (
    "helpfulness", "toxicity", "empathy", "detail", "bias", "context",
    "relevance", "factuality", "sycophancy", "ethicality", "conciseness", "understandability",
)  # fmt: skip
STEPS = (1.0, 2.0, 4.0, 8.0)


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the table under a heading, by the name in their first cell."""
    section = (ROOT / "docs" / "scalarizers.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:2] == "| "]
    return {row[0].strip("`"): row[1:] for row in rows[1:]}


def preset(name: str):
    return resolve(ScalarizerSettings(**presets.preset("scalarizer", name)))


def test_every_scalarizer_is_in_both_tables() -> None:
    assert sorted(table("Which, and why")) == sorted(table("What a change of one score does")) == PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_properties_are_the_declared_ones(name: str) -> None:
    p = preset(name).properties
    said = ["yes" if flag else "no" for flag in (p.monotone, p.symmetric, p.homogeneous)]
    assert table("Which, and why")[name][2:6] == [*said, p.bounds]


@pytest.mark.parametrize("name", PRESETS)
def test_changes_are_what_the_function_gives(name: str) -> None:
    rows = torch.zeros(9, 12, dtype=torch.float64)
    for k, step in enumerate(STEPS):
        rows[1 + k, 0], rows[5 + k, 1] = step, -step
    value = preset(name)(rows, TWELVE)
    found = (value - value[0])[1:].tolist()
    assert [float(cell) for cell in table("What a change of one score does")[name]] == pytest.approx(found, abs=6e-4)


def test_the_papers_two_that_fall_do_so_as_published() -> None:
    """The figures that show why properties are declared: raise one of twelve equal scores by 0, 1, 2, 4, 8."""
    changes = table("What a change of one score does")
    assert changes["soft_max_min"][:4] == ["0.032", "0.024", "0.007", "0.000"]
    assert changes["uncertainty_weighted"][:4] == ["0.045", "0.014", "-0.278", "-1.778"]
