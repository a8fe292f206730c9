"""The form in a browser: answered by a script, saved, read again; not a word on the console."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from browsed import with_script

from morlaif.evaluation.human.answers import read
from morlaif.evaluation.human.form import render

pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")

# Answers by keys and buttons, goes back once, comes back after somebody else, and saves both files.
RATER = r"""
const saved = {};
const wait = () => new Promise((done) => setTimeout(done, 5));
const key = (name) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
const said = (name) => document.getElementById(name).textContent;
URL.createObjectURL = (blob) => { saved[blob.type] = blob.text(); return "data:,"; };
HTMLAnchorElement.prototype.click = function () { saved[this.download] = true; };
function begin(name) {
  document.getElementById("rater").value = name;
  document.getElementById("who").requestSubmit();
}
addEventListener("load", async () => {
  const seen = [], facts = {};
  begin("  Ann   B ");
  for (let k = 0; k < 3; k++) { key(String(k + 1)); await wait(); }
  begin("Bob");
  facts.other = said("h-rate");
  begin("ann b"); // read from the browser's storage again
  facts.resumed = said("h-rate");
  key("Backspace");
  facts.pressed = document.querySelector("[aria-pressed=true]").dataset.answer;
  document.querySelector("#more summary").click();
  document.getElementById("comment").value = 'so, "so"';
  document.getElementById("comment").dispatchEvent(new Event("input"));
  document.getElementById("comment").focus();
  key("1");
  facts.typing = said("h-rate");
  document.getElementById("next").click();
  while (!document.getElementById("rate").hidden) {
    seen.push(said("prompt"));
    document.querySelector("[data-answer=b]").click();
    await wait();
  }
  facts.end = said("summary");
  facts.twice = seen.filter((text, k) => k && text === seen[k - 1]).length;
  facts.wide = document.documentElement.scrollWidth > innerWidth;
  document.getElementById("json").click();
  document.getElementById("csv").click();
  const out = document.createElement("pre");
  out.id = "out";
  const files = { json: await saved["application/json"], csv: await saved["text/csv"] };
  out.textContent = JSON.stringify({ facts, names: Object.keys(saved), ...files });
  document.body.append(out);
});
"""


def browse(page: Path, profile: Path, width: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         "--virtual-time-budget=20000", f"--user-data-dir={profile}", f"--window-size={width},900",
         "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_a_rater_answers_comes_back_and_saves(study, tmp_path, width):
    page = tmp_path / "form.html"
    page.write_text(with_script(render(study, "Which?", "Read."), RATER))
    done = browse(page, tmp_path / "profile", width)
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    out = json.loads(html.unescape(re.findall(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)[0]))
    count = len(study.items)
    assert out["facts"] == {
        "other": f"Pair 1 of {count}", "resumed": f"Pair 4 of {count}", "pressed": "b", "typing": f"Pair 3 of {count}",
        "end": f"All {count} pairs are answered. Save the file and give it to whoever sent you this form. Thank you.",
        "twice": 0, "wide": False,
    }  # fmt: skip
    assert f"answers-ann-b-{study.form[:6]}.json" in out["names"]
    by_json = read({"ann.json": out["json"]}, study.key())["Ann B"]
    by_csv = read({"ann.csv": out["csv"]}, study.key())["Ann B"]
    assert len(by_json) == count and {k: r.answer for k, r in by_csv.items()} == {
        k: r.answer for k, r in by_json.items()
    }  # fmt: skip
    assert [r.answer for r in by_json.values()][:4] == ["a", "tie", "b", "b"]
    assert [r.comment for r in by_csv.values() if r.comment] == ['so, "so"']
    assert all(r.seconds >= 0 for r in by_json.values())


@pytest.mark.slow
def test_each_rater_has_an_order_of_their_own(study, tmp_path):
    """The same name has the same order everywhere, whatever its case."""
    script = """
    addEventListener("load", () => {
      const seen = {};
      for (const name of ["Ann", "ann", "Bob"]) {
        document.getElementById("rater").value = name;
        document.getElementById("who").requestSubmit();
        const mine = [];
        while (!document.getElementById("rate").hidden) {
          mine.push(document.getElementById("a").textContent + document.getElementById("b").textContent);
          document.getElementById("next").click();
        }
        seen[name] = mine;
        localStorage.clear();
      }
      const out = document.createElement("pre");
      out.id = "out";
      out.textContent = JSON.stringify(seen);
      document.body.append(out);
    });
    """
    page = tmp_path / "form.html"
    page.write_text(with_script(render(study, "Which?", "Read."), script))
    done = browse(page, tmp_path / "profile", 800)
    seen = json.loads(html.unescape(re.findall(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)[0]))
    assert seen["Ann"] == seen["ann"] != seen["Bob"]
    assert sorted(seen["Ann"]) == sorted(seen["Bob"]) == sorted(item.a + item.b for item in study.items)
