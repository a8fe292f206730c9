"""Fronts: which units they mean, and what one way's unit makes of a tiny policy."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import online
import pytest
import torch
from composed import config

from morlaif.data.records import different_prompts, load_split
from morlaif.errors import UserError
from morlaif.evaluation.fronts import WayFront
from morlaif.evaluation.judges import true_scores, utilities
from morlaif.evaluation.pareto import hypervolume
from morlaif.evaluation.policies import respond
from morlaif.evaluation.results import load
from morlaif.evaluation.settings import RulesJudge
from morlaif.models.load import load_policy, save_policy
from morlaif.planning.contents import Contents
from morlaif.planning.plan import plan
from morlaif.report.data import load_fronts
from morlaif.stages.front import STAGE
from morlaif.stages.work import front
from morlaif.steer.conditioning import Steering
from morlaif.steer.front import SoupSettings
from morlaif.steer.simplex import grid, name_of
from morlaif.steer.soup import merge_policies
from morlaif.units.unit import seed_of

# --- the plan -------------------------------------------------------------------------------------------------------


def planned(*overrides: str):
    return plan(config("experiment=front", *overrides), Contents(None)).by_name


@pytest.fixture(scope="module")
def whole():
    return planned()


@pytest.mark.slow
def test_nine_points_take_nine_policies_the_soup_two_of_them_and_one_that_is_told_weights_itself(whole):
    trained = [name for name in whole if name.startswith("ppo/front-")]
    assert len(trained) == 10
    soup = {unit.name for unit in whole["front/soup"].of("ppo")}
    direct = {unit.name for unit in whole["front/direct"].of("ppo")}
    assert soup == {"ppo/front-detail", "ppo/front-conciseness"} and direct == {*trained} - {"ppo/front-conditioned"}
    (one,) = whole["front/conditioned"].of("ppo")
    assert one.name == "ppo/front-conditioned" and one.reads.ppo.steer.kind == "lora"
    assert whole["front/soup"].reads.points == whole["front/direct"].reads.points
    weights = whole["weigh/front-detail3-conciseness5"].reads.weights
    assert weights.values == {"detail": 0.375, "conciseness": 0.625} and weights.method == "given"


@pytest.mark.slow
def test_a_front_changes_no_unit_of_the_run_itself(whole):
    without = planned("front=none")
    assert not [name for name in without if "front" in name]
    own = {name: unit.digest for name, unit in without.items() if name != "report"}
    assert {name: whole[name].digest for name in own} == own


def test_a_point_is_one_unit_whatever_the_grid(whole):
    coarser = planned("front.steps=4")
    shared = [name for name in coarser if name.startswith(("ppo/front-", "weigh/front-"))]
    assert len(shared) == 12
    assert all(coarser[name].digest == whole[name].digest for name in shared)


@pytest.mark.slow
def test_an_objective_may_be_a_group(whole):
    found = planned(
        "principles.select=null", "front.objectives=[safe,conciseness]", "+front.groups.safe=[toxicity,ethicality]"
    )
    weights = found["weigh/front-safe1-conciseness1"].reads.weights
    assert weights.values == {"toxicity": 0.25, "ethicality": 0.25, "conciseness": 0.5}
    assert [unit.name for unit in found["front/soup"].of("pm")] == ["pm/toxicity", "pm/ethicality", "pm/conciseness"]
    assert "pm/front" not in " ".join(found)


def test_without_direct_training_corners_alone_are_trained():
    found = planned("front.ways=[soup]", "front.steps=10")
    assert [name for name in found if name.startswith("ppo/front-")] == [
        "ppo/front-detail", "ppo/front-conciseness",
    ]  # fmt: skip
    assert len(found["front/soup"].reads.points) == 11 and "front/direct" not in found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["front.objectives=[detail,concisenes]"],
            "no principle 'concisenes' in this run. Did you mean 'conciseness'?",
        ),
        (["front.arm=rlaif"], "front.arm=rlaif: its labels are constitution; weights need labels: principles"),
        (["front.arm=lcb"], "front.arm=lcb: changes preference models, which all points share"),
        (["front.arm=conditioned"], "its policy takes weights; front.conditioned is for it"),
        (["front.conditioned=morlaif"], "front.conditioned=morlaif: its policy takes no weights"),
        (["front.arm=morlaiff"], "front.arm: no arm 'morlaiff'. Did you mean 'morlaif'?"),
        (["front.arm=best_of_n"], "front.ways: soup merges weights, and best_of_n leaves no model"),
        (["front.objectives=[detail]"], "names one objective"),
        (["front.objectives=[detail,conciseness,empathy]", "front.steps=40"], "861 points for 3 objectives"),
        (["front.ways=[soup,straight]"], "front.ways"),
        (["front.scalarizer=linar"], "scalarizer"),
        (["front.objectives=[b1,conciseness]", "+front.groups.b1=[detail]"], "a letter at both ends"),
        (["reward=judge"], "take reward=pm"),
    ],
)
def test_mistakes_are_told_before_anything_is_built(overrides, line):
    with pytest.raises(UserError) as found:
        planned(*overrides)
    assert line in str(found.value)


# --- the unit -------------------------------------------------------------------------------------------------------

OBJECTIVES = ("detail", "conciseness")
COVERS = {name: (name,) for name in OBJECTIVES}
POINTS = {name_of(point, OBJECTIVES): point for point in grid(2, 2)}


def scores(prompts: list, responses: list[str]) -> np.ndarray:
    return np.array([online.letters(prompts, responses), online.spaces(prompts, responses)], dtype=float).T


@pytest.fixture(scope="module")
def needs(tmp_path_factory) -> dict[str, Path]:
    """A policy at each point: SFT's own for detail, others a little beside it."""
    root = tmp_path_factory.mktemp("store")
    made = online.folders(root)
    for seed, name in enumerate(POINTS):
        model, tokenizer = load_policy(made["sft"])
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.05 * (name != "detail"))
        made[f"ppo/front-{name}"] = root / name
        save_policy(model, tokenizer, made[f"ppo/front-{name}"])
        manifest = {"seconds": 60.0, "summary": {"episodes": 100}}
        (made[f"ppo/front-{name}"] / "manifest.json").write_text(json.dumps(manifest))
    return made


def made(root: Path, needs: dict[str, Path], way: str, monkeypatch, **more) -> Path:
    monkeypatch.setattr(front, "scorer", lambda job, models: scores)
    corners = [f"ppo/front-{name}" for name in OBJECTIVES]
    own = {n: f for n, f in needs.items() if way != "soup" or n in ("data", "sft", *corners)}
    own.pop("weigh/arm", None)
    own |= {f"pm/{name}": root for name in OBJECTIVES}  # which `scores` stands for
    job = online.job(
        STAGE, f"front/{way}", root, own, way=way,
        objectives={name: (name,) for name in OBJECTIVES}, covers=COVERS, points=POINTS, trained=(),
        models=dict(zip(OBJECTIVES, OBJECTIVES, strict=True)), answers=online.ANSWERING,
        judge=RulesJudge(source="rules"), truth=True, reference=-2.0, resamples=100, confidence=0.95,
        soup=SoupSettings(merge="delta", by_depth=None) if way == "soup" else None, **more,
    )  # fmt: skip
    front.build(job)
    return job.out


def prompts(needs: dict[str, Path]) -> list:
    return list(different_prompts(load_split(needs["data"], "eval"))[: online.ANSWERING.prompts])


def texts(out: Path, name: str) -> list[str]:
    rows = [json.loads(line) for line in (out / "grid.jsonl").read_text().splitlines()]
    return [row["points"][name]["text"] if name != "sft" else row["sft"] for row in rows]


@pytest.fixture(scope="module")
def found(tmp_path_factory, needs) -> dict[str, Path]:
    with pytest.MonkeyPatch.context() as patch:
        return {way: made(tmp_path_factory.mktemp(way), needs, way, patch) for way in ("soup", "direct")}


@pytest.mark.slow
def test_each_point_is_answered_by_its_policy_with_the_evaluations_noise(found, needs, tmp_path):
    seed = seed_of(0, "evaluate")
    own = {name: needs[f"ppo/front-{name}"] for name in POINTS}
    merge_policies([own["detail"], own["conciseness"]], [0.5, 0.5], tmp_path)
    expected = {"soup": {**own, "detail1-conciseness1": tmp_path}, "direct": own}
    for way, folders in expected.items():
        for name, folder in {**folders, "sft": needs["sft"]}.items():
            answers = respond(partial(load_policy, folder), prompts(needs), online.ANSWERING, seed=seed)
            assert texts(found[way], name) == answers.texts, (way, name)
    assert texts(found["soup"], "detail1-conciseness1") != texts(found["direct"], "detail1-conciseness1")


def test_a_point_lies_where_its_answers_do(found, needs):
    way, questions = load(WayFront, found["soup"] / "front.json"), prompts(needs)
    before = true_scores(questions, texts(found["soup"], "sft"), COVERS)
    spread = np.where(before.std(axis=0) > 0, before.std(axis=0), 1.0)
    means = []
    for point in way.points:
        after = true_scores(questions, texts(found["soup"], point.name), COVERS)
        means.append(((after - before) / spread).mean(axis=0))
        assert [one.value for one in point.place.values()] == pytest.approx(means[-1].tolist())
        assert list(point.truth.values()) == pytest.approx(after.mean(axis=0).tolist())
        gap = utilities(questions, texts(found["soup"], point.name)) - utilities(questions, texts(found["soup"], "sft"))
        assert point.win_rate.value == pytest.approx(float(np.mean((np.sign(gap) + 1) / 2)))
    assert way.hypervolume.value == pytest.approx(hypervolume(means, [-2.0, -2.0]))
    first = way.points[0]  # SFT's own policy
    assert first.win_rate.value == 0.5 and [one.value for one in first.place.values()] == [0.0, 0.0]
    assert (way.cost.policies, way.cost.episodes, way.cost.seconds) == (2, 200, 120.0)


def test_ways_are_put_side_by_side(found):
    both = load_fronts(found, {"seed": 0, "resamples": 100, "confidence": 0.95})
    soup, direct = both.ways["soup"], both.ways["direct"]
    share = soup.hypervolume.value / direct.hypervolume.value
    assert both.against["soup"].relative.value == pytest.approx(share)
    assert both.against["soup"].cost == pytest.approx(2 / 3)


@pytest.mark.slow
def test_one_policy_for_all_weights_is_told_those_of_each_point(needs, tmp_path, monkeypatch):
    folder = tmp_path / "policy"
    save_policy(*load_policy(needs["sft"]), folder)
    steering = Steering("text", OBJECTIVES, (0.5, 0.5), 10)
    steering.write(folder)
    own = {"data": needs["data"], "sft": needs["sft"], "ppo/front-conditioned": folder}
    out = made(tmp_path, own, "conditioned", monkeypatch)
    for name, point in POINTS.items():
        told = dict(zip(OBJECTIVES, (part / sum(point) for part in point), strict=True))
        asked = [steering.told(one, told) for one in prompts(needs)]
        load = partial(load_policy, folder)
        answers = respond(load, asked, online.ANSWERING, seed=seed_of(0, "evaluate"))
        assert texts(out, name) == answers.texts
    assert texts(out, "detail") != texts(out, "conciseness")


@pytest.mark.slow
def test_a_killed_unit_goes_on_with_the_same_answers(found, needs, tmp_path, monkeypatch):
    def kill(step: int, total: int | None, metrics: dict) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, needs, "soup", monkeypatch, on_progress=kill)
    assert len(list((tmp_path / "keep").glob("*.jsonl"))) == 3
    out = made(tmp_path, needs, "soup", monkeypatch)
    for file in ("front.json", "grid.jsonl"):
        assert (out / file).read_text() == (found["soup"] / file).read_text()
    assert not (tmp_path / "keep" / "merged").exists()
