"""A method and a stage of another package: one run with both, and the line that answers each mistake."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import cli
import pytest
from composed import config

from morlaif.errors import UserError
from morlaif.memory.estimate import Item, StageMemory
from morlaif.pipeline.resources import stage_memories
from morlaif.planning.plan import plan

pytestmark = pytest.mark.slow  # most compose a config of their own

TINY = [
    "experiment=control", "+extra=lengths", "principles.count=2", "data.sft=60", "data.train=24", "data.eval=8",
    "sft.max_steps=3", "weights.prompts=8", "ppo.steps=1", "ppo.rollouts=8", "ppo.max_new_tokens=8",
    "ppo.shaping.missing_eos=none", "ppo.samples=0", "eval.prompts=6", "eval.max_new_tokens=8", "hardware.workers=1",
]  # fmt: skip
ARM, EXTRA = "arms.definitions.untouched", "extra.lengths"


def digests(*overrides: str) -> dict[str, str]:
    return {unit.name: unit.digest for unit in plan(config("experiment=control", "+extra=lengths", *overrides)).units}


def test_both_in_one_run_by_their_names_and_the_pages_show_them(plugin, tmp_path):
    """The policy that nothing trained is the SFT policy, first among the arms and without scores of its own."""
    env = {"PYTHONPATH": os.pathsep.join([plugin, str(Path(__file__).parents[1])])}
    named = [f"{ARM}.method=untouched", f"{EXTRA}.stage=lengths", "arms.select=[untouched,morlaif]"]
    done = cli.morlaif([*TINY, *named], tmp_path, env, 200)
    assert done.returncode == 0, done.stdout + done.stderr
    (lengths,) = tmp_path.glob("store/lengths/*/lengths.json")
    words = json.loads(lengths.read_text())
    assert words["sft"] == words["untouched"] and set(words) == {"sft", "untouched", "morlaif"}
    (folder,) = tmp_path.glob("runs/*")
    results = json.loads((folder / "results.json").read_text())
    assert results["win_rate"]["untouched_vs_sft"]["value"] == 0.5
    page = (folder / "report.html").read_text()
    assert "<td>1</td><td>0.000</td><td>0.000</td><td>–</td>" in page  # its only step, which counts no tokens
    compared = cli.morlaif(["stages=[compare]", "compare.runs=runs/*"], tmp_path, env, 100)
    assert compared.returncode == 0, compared.stdout + compared.stderr


def test_editing_their_code_builds_them_anew_and_nothing_before_them(edited):
    before = digests()
    edited("lengths", "mean(len", "mean(1 * len")
    lengths = digests()
    assert {name for name in before if before[name] != lengths[name]} == {"lengths", "report"}
    edited("untouched", '"reward": 0.0', '"reward": 1.0')
    method = digests()
    changed = {name for name in before if lengths[name] != method[name]}
    assert changed == {"untouched/untouched", "evaluate", "lengths", "report"}


def test_a_name_means_the_same_code_and_the_same_reads(plugin):
    units = {unit.name: unit for unit in plan(config("experiment=control", f"{ARM}.method=untouched")).units}
    assert type(units["untouched/untouched"].stage).__module__ == "morlaif_plugin.untouched"
    assert units["untouched/untouched"].digest == digests()["untouched/untouched"]


def test_the_stage_of_policies_is_that_of_every_method(plugin):
    assert {"ppo/morlaif", "untouched/untouched"} <= digests("stages=[ppo]").keys()
    assert "lengths" not in digests("stages=[evaluate]") and "lengths" in digests("stages=[report]")


def test_a_unit_of_ones_own_is_built_with_what_it_needs_alone(plugin):
    """`stages` names it by its key in `extra`, though the key is not the name of its stage."""
    needs = ["+extra.words={stage: lengths, needs: [evaluate], params: {}}", "~extra.lengths"]
    chosen = digests("stages=[words]", *needs)
    assert {"lengths/words", "evaluate"} <= chosen.keys() and "report" not in chosen
    assert chosen["lengths/words"] == digests(*needs)["lengths/words"], "the judge of the policies is another"
    assert config("experiment=control", "+extra=lengths", "stages=[lengths]").reached[-1] == "evaluate"
    with pytest.raises(UserError, match=r"no stage 'lenghts'\. Did you mean 'lengths'\?"):
        config("experiment=control", "+extra=lengths", "stages=[lenghts]")


def test_the_plan_asks_a_stage_of_ones_own_for_its_memory(plugin, monkeypatch):
    chosen = config("experiment=control", "+extra=lengths")
    made = plan(chosen)
    (own,) = [unit.stage for unit in made.units if unit.name == "lengths"]
    held = StageMemory("lengths", 1, (Item("model", 5.0, "five bytes"),), (), None, None, "a row")
    monkeypatch.setattr(type(own), "memory", lambda self, unit, machine: held)
    assert [one.device for one in stage_memories(chosen, made) if one.stage == "lengths"] == [5.0]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (f"{ARM}.method=untuched", f"{ARM}.method='untuched': no method 'untuched'. Did you mean 'untouched'? Known: "),
        (f"{ARM}.method=morlaif_plugin.lengths.Lengths", "expected a class that inherits morlaif.stages.scoring."),
        (f"+{ARM}.params={{lr: 1}}", f"{ARM}.params.lr: 'morlaif_plugin.untouched.Untouched' has no such parameter"),
        ("+arms.definitions.morlaif.params={lr: 1}", "morlaif.params.lr: 'morlaif.stages.ppo.PPO' has no"),
        (f"{EXTRA}.params.digits=x", f"{EXTRA}.params.digits of 'lengths': value should be a valid integer, got 'x'"),
        (f"+{EXTRA}.params.digts=1", f"{EXTRA}.params.digts: 'morlaif_plugin.lengths.Lengths' has no such parameter "
                                     "(it has: digits). Did you mean 'digits'?"),
        (f"{EXTRA}.needs=[evalute]", f"{EXTRA}.needs: the run has no unit 'evalute'. Did you mean 'evaluate'?"),
        (f"{EXTRA}.needs=[]", f"{EXTRA}.needs: LengthsNeeds.evaluate: expected one unit, got none"),
        (f"{EXTRA}.needs=[evaluate,data]", f"{EXTRA}.needs: LengthsNeeds declares no data"),
        (f"{EXTRA}.stage=morlaif_plugin.judge.Shorter", f"{EXTRA}.stage 'morlaif_plugin.judge.Shorter': expected a"),
        (f"{EXTRA}.stage=morlaif_plugin.lengths.Length", "has no 'Length'. Did you mean 'Lengths'?"),
        (f"{EXTRA}.stage=lenghts", f"{EXTRA}.stage: no stage 'lenghts'. Did you mean 'lengths'?"),
        (f"{EXTRA}.stage=morlaif.stages.report.Report", "its name, report, is that of a stage of ours"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_before_anything_is_built(plugin, overrides, says):
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        digests(*re.split(r" (?![^{]*\})", overrides))
    assert "\n" not in str(caught.value)
