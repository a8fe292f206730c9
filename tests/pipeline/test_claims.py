"""From finished runs to the table of claims: what each arm left, policies judged, verdicts, and the files of them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from composed import config
from rich.console import Console

from morlaif.claims.cells import Cell
from morlaif.claims.settings import ClaimsSettings
from morlaif.claims.spec import read_claim
from morlaif.pipeline.claims import NUMBERS, PAGE, Gathered, lay_down, table_of
from morlaif.units.integrity import write_manifest
from morlaif.units.store import Store

MESSAGES = [{"role": "user", "content": "Tell me about cats."}]
GOOD, BAD = "I can guide you to a full plan, with consent.", "I refuse to help, you idiot."
BEATS = """
statement: One <b>arm</b> beats the other.
source: us
paper: none
arms: {one: [], two: []}
estimate: {name: win_rate, first: one, second: two}
test: {kind: greater, than: 0.5}
"""
ACCURATE = """
statement: It is accurate.
source: us
paper: none
arms: {one: []}
estimate: {name: number, arm: one, file: evaluate/results.json, path: "pm.*"}
test: {kind: greater, than: 0.5}
"""
SETTINGS = ClaimsSettings(select="all", seeds=4, vary=("ppo.seed",), models={}, toy=(), alpha=0.05)


def make_run(root: Path, name: str, answers: list[str], pm: float, *, status: str = "succeeded") -> str:
    """A run folder and its evaluation in the store."""
    folder, digest = root / "runs" / name, f"e-{name}"
    folder.mkdir(parents=True)
    judge = config().eval.judge.model_dump(mode="json")
    about: dict[str, Any] = {
        "paths": {"store": str(root / "store")}, "seed": 0, "arms": {"select": ["morlaif"]},
        "eval": {"judge": judge, "confidence": 0.95, "resamples": 200},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(about))
    unit = {"name": "evaluate", "stage": "evaluate", "digest": digest, "state": "built", "error": None}
    (folder / "run.json").write_text(json.dumps({"status": status, "seconds": 1.0, "error": None, "units": [unit]}))
    out = root / "store" / "evaluate" / digest
    out.mkdir(parents=True)
    rows = [
        {"prompt_id": str(place), "messages": MESSAGES, "responses": {"morlaif": {"text": text}}}
        for place, text in enumerate(answers)
    ]
    (out / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (out / "results.json").write_text(json.dumps({"pm": {"a": pm, "b": pm + 0.02}, "kl": 2.0}))
    reads = {"principles": [{"name": "helpfulness", "covers": ["helpfulness"]}], "arms": []}
    write_manifest(
        out, {"stage": "evaluate", "digest": digest, "summary": {}, "seconds": 1.0, "version": 99, "reads": reads}
    )
    return name


@pytest.fixture
def tested(tmp_path):
    claims = []
    for name, text in (("beats", BEATS), ("accurate", ACCURATE)):
        (tmp_path / f"{name}.yaml").write_text(text)
        claims.append(read_claim(tmp_path / f"{name}.yaml"))
    runs = {}
    for seed in range(4):
        bad = seed + 1  # of eight prompts, on which the first arm is as bad as the second
        one = make_run(tmp_path, f"one-{seed}", [BAD] * bad + [GOOD] * (8 - bad), 0.9 + 0.01 * seed)
        status = "failed" if seed == 3 else "succeeded"
        two = make_run(tmp_path, f"two-{seed}", [BAD] * 8, 0.5, status=status)
        runs |= {Cell("beats", "one", seed, ()): one, Cell("beats", "two", seed, ()): two}
        runs[Cell("accurate", "one", seed, ())] = one
    return Gathered(claims, runs, tmp_path / "runs", Store(tmp_path / "store"))


@pytest.mark.slow
def test_claims_are_decided_on_what_their_runs_left(tested, tmp_path):
    console = Console(file=io.StringIO(), width=120)
    table = table_of(tested, {}, SETTINGS, config().hardware, console)
    beats, accurate = table
    assert beats.seeds == [0, 1, 2] and beats.missing == [3], "an arm that failed leaves its seed out"
    assert beats.parts[0].values == pytest.approx([15 / 16, 14 / 16, 13 / 16])
    assert accurate.parts[0].values == pytest.approx([0.91, 0.92, 0.93, 0.94])
    assert accurate.verdict == "supported" and accurate.p < accurate.adjusted == pytest.approx(2 * accurate.p)
    assert beats.kl == {"one": 2.0, "two": 2.0}

    lay_down(table, SETTINGS, tmp_path / "out", "morlaif sweep=claims", console)
    printed = console.file.getvalue()
    assert "accurate" in printed and "beats without seeds 3" in printed and "2 claims: " in printed
    page = (tmp_path / "out" / PAGE).read_text()
    assert "&lt;b&gt;arm" in page and "<b>arm" not in page, "what a file of the user's holds is text"
    numbers = json.loads((tmp_path / "out" / NUMBERS).read_text())
    assert [row["name"] for row in numbers["claims"]] == ["beats", "accurate"] and numbers["alpha"] == 0.05


@pytest.mark.slow
def test_a_claim_that_cannot_be_counted_says_why_and_spoils_no_other(tested):
    one, other = tested.known
    other.estimator.first["path"] = "pm.z"
    table = table_of(tested, {one.name: "there is no judge"}, SETTINGS, config().hardware, Console(file=io.StringIO()))
    assert table[0].untested == "there is no judge" and table[0].verdict is None
    assert "there is no 'z'" in table[1].untested and not table[1].parts
