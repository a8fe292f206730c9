"""The page with sliders: it moves on the grid, shows what was answered there, and saves what a person chooses."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from browsed import with_script

from morlaif.steer.choices import read_choices
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


# Moves a slider, chooses the second of two answers three times, passes one over, saves, and goes back.
PERSON = r"""
const kept = {};
URL.createObjectURL = (blob) => { kept.text = blob.text(); return "data:,"; };
HTMLAnchorElement.prototype.click = function () { kept.name = this.download; };
addEventListener("load", async () => {
  const facts = {};
  const said = (name) => document.getElementById(name).textContent;
  const shown = (name) => getComputedStyle(document.querySelector(name)).display !== "none";
  const slider = document.getElementById("w0");
  slider.value = 4;
  slider.dispatchEvent(new Event("input"));
  facts.moved = document.querySelector(".answer").textContent;
  facts.early = document.getElementById("save").disabled;
  document.getElementById("choose").click();
  facts.hidden = [shown("#sliders"), shown("p.choose"), shown("p.slide")];
  facts.weights = document.querySelector("main").textContent.includes("%");
  facts.picked = [];
  for (let k = 0; k < 3; k++) {
    const sides = document.querySelectorAll(".side");
    facts.picked.push([...sides].map((side) => side.querySelector(".answer").textContent));
    sides[1].querySelector("button").click();
  }
  document.querySelector("button.plain").click();
  facts.count = said("count");
  facts.wide = document.documentElement.scrollWidth > innerWidth;
  document.getElementById("save").click();
  document.getElementById("choose").click();
  facts.back = [shown("#sliders"), document.querySelector(".answer").textContent];
  const out = document.createElement("pre");
  out.id = "out";
  out.textContent = JSON.stringify({ facts, name: kept.name, text: await kept.text });
  document.body.append(out);
});
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
@pytest.mark.parametrize("width", [1280, 400])
def test_a_person_chooses_and_the_file_is_read(tmp_path: Path, width: int) -> None:
    file = tmp_path / "page.html"
    file.write_text(with_script(page(), PERSON))
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         "--virtual-time-budget=20000", f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900",
         "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=170,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    out = json.loads(html.unescape(re.findall(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)[0]))
    facts = out["facts"]
    assert facts["moved"] == "answer at (4, 0, 0)" and facts["early"] and out["name"] == "choices.jsonl"
    assert facts["hidden"] == [False, True, False] and not facts["weights"] and not facts["wide"]
    assert facts["count"] == "3 choices" and facts["back"] == [True, "answer at (4, 0, 0)"]
    (tmp_path / "choices.jsonl").write_text(out["text"])
    found = read_choices(tmp_path / "choices.jsonl", NAMES)
    assert [list(one.texts) for one in found] == facts["picked"] and [one.liked for one in found] == [1, 1, 1]
    assert all(one.texts[0] != one.texts[1] for one in found)
    assert [str(tuple(int(x) for x in own)) for one in found for own in one.values or ()] == [
        text.removeprefix("answer at ") for one in found for text in one.texts
    ]
    for row in map(json.loads, out["text"].splitlines()):
        assert all(sum(own["weights"].values()) == pytest.approx(1) for own in row["answers"])
