"""The page with sliders, in a browser where there is one: it moves on the grid, and shows what was answered there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from morlaif.steer.page import Cell, GridPage
from morlaif.steer.simplex import grid

NAMES = ("detail", "conciseness", "kind_words")
PROMPTS = [[{"role": "user", "content": "Why </script><i>is</i> it so?"}]]


def page() -> str:
    answers = {point: [Cell(f"answer at {point}", tuple(float(k) for k in point))] for point in grid(3, 4)}
    return GridPage("a run: conditioned", NAMES, 4, (2, 1, 1), PROMPTS, answers).render()


def test_it_holds_all_and_runs_no_text() -> None:
    text = page()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])  # type: ignore[index]
    assert len(data["cells"]) == 15 and data["prompts"] == PROMPTS
    assert text.count("</script>") == 2 and "<i>is" not in text and "http" not in text.replace("http-equiv", "")
    assert text.count('type="range"') == 3 and ">kind words<" in text


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_a_slider_moves_the_others_along_the_grid(tmp_path: Path) -> None:
    """`move` alone, for each slider, from each point, to each place: a point of the grid, the others in proportion."""
    source = Path(__file__).parents[2].joinpath("morlaif/steer/page.js").read_text()
    move = re.search(r"function move.*?\n}\n", source, re.S)
    assert move is not None
    program = (
        "let data = {steps: 4}; let points;" + move[0] + "const out = [];"
        f"for (const start of {json.dumps(grid(3, 4))}) for (let k = 0; k < 3; k++) for (let v = 0; v <= 4; v++) "
        "{ points = start.slice(); move(k, v); out.push([start, k, v, points]); } console.log(JSON.stringify(out));"
    )
    found = json.loads(subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True).stdout)
    for start, k, v, points in found:
        assert sum(points) == 4 and min(points) >= 0 and points[k] == v
        one, two = (j for j in range(3) if j != k)
        if v == start[k]:
            assert points == start
        if start[one] == 0 and start[two] > 0:
            assert points[one] == 0
