"""A judge, a data format and a reward of another package: one run with all three, and what each mistake is told."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import cli
import pytest
from composed import config, told
from scipy.special import expit

from morlaif.data.check import data_problems
from morlaif.data.load import input_files, load
from morlaif.data.records import Message
from morlaif.errors import UserError
from morlaif.evaluation.judges import EngineJudge
from morlaif.planning.plan import plan
from morlaif.reward.settings import check, layout
from morlaif.reward.sources import open_reward

pytestmark = pytest.mark.slow  # most compose a config of their own

TINY = [
    "data=tabs", "respond=pairs", "feedback=shorter", "reward=plain", "principles.count=1", "sft.max_steps=3",
    "weights.prompts=8", "ppo.steps=1", "ppo.rollouts=8", "ppo.max_new_tokens=8", "ppo.eval_prompts=0",
    "ppo.eval_every=0", "ppo.samples=0", "ppo.keep=last", "hardware.workers=1",
]  # fmt: skip
ROWS = "prompt\tbetter\tworse\n" + "".join(
    f"How is {i}?\tFine, {i}.\tIt is not so very fine, {i}.\n" for i in range(40)
)


@pytest.fixture
def file(tmp_path) -> Path:
    made = tmp_path / "pairs.tsv"
    made.write_text(ROWS)
    return made


def digests(*overrides: str) -> dict[str, str]:
    return {unit.name: unit.digest for unit in plan(config(*overrides)).units}


def test_all_three_in_one_run(plugin, file):
    """Rows become pairs, the judge labels them, a preference model learns that, and PPO learns from the reward."""
    env = {"PYTHONPATH": os.pathsep.join([plugin, str(Path(__file__).parents[1])])}
    done = cli.morlaif([*TINY, f"data.path={file}", "stages=[ppo]"], file.parent, env, 150)
    assert done.returncode == 0, done.stdout + done.stderr
    store = file.parent / "store"
    manifest = json.loads(next(store.glob("data/*/manifest.json")).read_text())
    assert manifest["summary"]["rows"] == 40 and manifest["summary"]["pairs"] == 40
    (quality,) = store.glob("feedback/*/quality.json")
    found = json.loads(quality.read_text())
    assert found["judge"] == "shorter" and found["train"]["agreement_human"]["value"] == 1.0
    assert len(list(store.glob("pm/*/manifest.json"))) == 1  # of the baseline; the reward needs none
    (metrics,) = file.parent.glob("runs/*/metrics.jsonl")
    steps = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert any("score/plain" in row["metrics"] for row in steps if row["unit"] == "ppo/morlaif")


def test_editing_code_builds_anew_what_runs_it_and_nothing_else(edited, file):
    command = [*TINY, f"data.path={file}"]
    before = digests(*command)
    edited("judge", "/ self.words", "/ self.words + 0.0")
    judge = digests(*command)
    assert {name for name in before if before[name] != judge[name]} >= {"feedback/single", "pm/single", "ppo/rlaif"}
    assert all(before[name] == judge[name] for name in ("data", "sft", "respond", "ppo/morlaif"))
    edited("reward", "<= self", "< self")
    reward = digests(*command)
    assert reward["ppo/morlaif"] != judge["ppo/morlaif"] and reward["feedback/single"] == judge["feedback/single"]
    edited("tabs", "[skip:]", "[skip : 30]")
    assert digests(*command)["data"] != reward["data"]


def test_a_judge_of_another_package_compares_policies(edited, tmp_path):
    path = "morlaif_plugin.judge.Shorter"
    command = ["eval=plugin", f"eval.judge.engine.source={path}", "+eval.judge.engine.params.words=5"]
    settings = config(*command).eval.judge
    judge = EngineJudge(settings, ledger=tmp_path / "ledger.sqlite", seed=0, on_progress=lambda *_, **__: None)
    asked: list[list[Message]] = [[{"role": "user", "content": "?"}]] * 2
    verdict = judge.compare(asked, ["short", "same"], ["not so very short", "same"])
    assert judge.name == f"plugin:{path}" and verdict.valid.all()
    assert verdict.forward == pytest.approx([expit(3 / 5), 0.5]) and verdict.backward == pytest.approx(verdict.forward)
    before = digests(*command)
    edited("judge", "/ self.words", "/ self.words + 0.0")
    after = digests(*command)
    assert {name for name in before if before[name] != after[name]} == {"evaluate", "report"}


def test_rows_of_another_package_are_read_as_all_rows_are(plugin, file):
    settings = config("data=tabs", f"data.path={file}", "data.eval_size=8", "data.eval_fraction=null").data
    assert input_files(settings) == [file] and list(data_problems(settings, pairs=True)) == []
    loaded = load(settings, seed=0)
    assert (len(loaded.splits["train"]), len(loaded.splits["eval"]), loaded.rows) == (32, 8, 40)
    assert loaded.splits["train"][0].chosen.startswith("Fine, ")
    file.write_text(ROWS + "How is this?\tFine.\n")
    (problem,) = data_problems(settings)
    assert re.fullmatch(
        rf"data\.path: {file}, after row 40: 'morlaif_plugin\.tabs\.rows' cannot read it: not enough values.*", problem
    )
    file.write_text(ROWS + "How is this?\tFine.\tFine.\n")
    (problem,) = data_problems(settings)
    assert f"data.path: {file}, row 41: " in problem


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("data=tabs", "data.path: null; 'morlaif_plugin.tabs.rows' reads a file, as in data.path=my.file"),
        ("data=tabs data.path=none.tsv", "data.path: 'none.tsv': there is no such file; name a file, relative to"),
        ("data=plugin", "data.source: give the dotted path of a function that gives rows"),
        ("data=tabs data.path={file} ++data.params.skp=1", "data.params.skp: 'morlaif_plugin.tabs.rows' has no such "
                                                           "parameter (it has: skip). Did you mean 'skip'?"),
        ("data=tabs data.path={file} data.params.skip=x", "data.params.skip of 'morlaif_plugin.tabs.rows': value"),
        ("reward=plugin", "reward.kind: give the dotted path of a reward"),
        ("reward=plain reward.kind=morlaif_plugin.reward.Plan", "'morlaif_plugin.reward' has no 'Plan'. Did you mean "
                                                                "'Plain'?"),
        ("reward=plain ++reward.params.leters=3", "reward.params.leters: 'morlaif_plugin.reward.Plain' has no"),
        ("feedback=plugin", "feedback.source: give the dotted path of a judge"),
        ("eval=plugin", "eval.judge.engine.source: give the dotted path of a judge"),
        ("eval=plugin eval.judge.engine.source=morlaif_plugin.judge.Shorter", "eval.judge.engine.params"),
        ("feedback=shorter ++feedback.params.word=3", "feedback.params.word: 'morlaif_plugin.judge.Shorter' has no"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_before_anything_is_built(plugin, file, overrides, says):
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        plan(config(*overrides.replace("{file}", str(file)).split()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (
            "reward.kind=pmm",
            "reward.kind='pmm': should be pm, judge, cascade, rubric, function, discriminator or mixture. "
            "Did you mean 'pm'? One of",
        ),
        (
            "data.source=jsnl",
            "data.source='jsnl': should be toy, jsonl or hub. Did you mean 'jsonl'? One of",
        ),
    ],
)
def test_a_slip_in_a_name_of_ours_is_still_one(command, says):
    assert told(command).startswith(says)


def test_a_reward_is_made_once_and_may_stand_in_a_mixture(plugin, tmp_path):
    reward = config("reward=plain").reward
    check(reward, config().feedback)
    scores = open_reward(layout(reward, ["a"]), models=lambda names: None, criteria={}, feedback=None, ledger=tmp_path)
    assert scores([[], []], ["plain words", "uncommonly plain"]).tolist() == [[1.0], [0.5]]
    assert scores.take_facts() == {}
    plain = "plain: {kind: morlaif_plugin.reward.Plain, names: [plain], params: {letters: 6}}"
    parts = f"+reward.parts={{pm: {{kind: pm, principles: null, written: {{}}, draw: null}}, {plain}}}"
    mixture = config(
        "reward=mixture", "~reward.parts", "~reward.weights", parts, "+reward.weights={pm: 1, plain: 2}"
    ).reward
    assert layout(mixture, ["helpfulness"]).names == ["helpfulness", "plain"]
