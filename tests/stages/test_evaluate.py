"""The stage on real artifacts of small size: two policies, trained preference models, known truth."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from artifacts import save_verdicts
from jobs import typed

from morlaif.data.records import Pair, load_pairs, load_split, save_examples, save_pairs
from morlaif.errors import Damaged, UserError
from morlaif.evaluation.judges import side
from morlaif.evaluation.kept import kept_folder
from morlaif.evaluation.objectives import as_function
from morlaif.evaluation.results import ArmFacts
from morlaif.evaluation.settings import EvalSettings
from morlaif.feedback.quality import quality
from morlaif.feedback.records import Verdict
from morlaif.hardware import HardwareSettings
from morlaif.models.load import save_policy
from morlaif.models.scratch import build_causal_lm, train_tokenizer
from morlaif.models.settings import ScratchSettings
from morlaif.preference.settings import LoraPM
from morlaif.preference.train import train_pm
from morlaif.presets import preset
from morlaif.scalarize.functions import linear
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.registry import resolve
from morlaif.scalarize.settings import ScalarizerSettings
from morlaif.stages.evaluate import STAGE, ArmRead
from morlaif.stages.work import evaluate
from morlaif.toy import judge as toy
from morlaif.toy.world import human_utility, make_world
from morlaif.units.job import Job

ROOT = Path(__file__).parents[2]


class Named(str):
    """A principle of the toy world, known by its name."""

    @property
    def name(self) -> str:
        return str(self)

    @property
    def covers(self) -> tuple[str, ...]:
        return (self.name,)


PRINCIPLES = (Named("helpfulness"), Named("detail"))
NAMES = (*PRINCIPLES, "single")
ARM = ArmFacts("principles", [], "")
SCALARIZER = ScalarizerSettings(name="linear", function="morlaif.scalarize.functions.linear", params={})


def labels(pairs: list[Pair], name: str) -> list[Verdict]:
    """Exact labels of one principle (the mean for the baseline, the human's for the gold judge); one is unusable."""
    verdicts = []
    for pair in pairs:
        first, second = toy.truth(pair.messages, pair.first), toy.truth(pair.messages, pair.second)
        gap = first[name] - second[name] if name in first else sum(first.values()) - sum(second.values())
        p = pair.human if name == "gold" else 1 / (1 + np.exp(-gap))
        verdicts.append(Verdict(pair.id, float(p), 0.0, True, "rules", usd=0.01))
    return [Verdict.invalid(pairs[0].id, "rules", "nothing said"), *verdicts[1:]]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, Path]:
    """What stands before `evaluate`: all of it small, none of it made up but the curve."""
    root = tmp_path_factory.mktemp("artifacts")
    folders = {
        name: root / name
        for name in ("data", "sft", "respond", "ppo/multi", "ppo/single", "weigh/multi", "weigh/single")
    }
    folders |= {f"{stage}/{name}": root / stage / name for stage in ("feedback", "pm") for name in (*NAMES, "gold")}
    for folder in folders.values():
        folder.mkdir(parents=True)

    world = make_world(0, sft=0, train=24, eval=16)
    save_examples(folders["data"], world)
    pairs = {
        split: [Pair.of(e.messages, e.chosen, e.rejected, 1.0) if int(e.id, 16) % 2 else
                Pair.of(e.messages, e.rejected, e.chosen, 0.0) for e in world[split]]
        for split in ("train", "eval")
    }  # fmt: skip
    save_pairs(folders["respond"], pairs)

    tokenizer = train_tokenizer(
        [e.chosen for e in world["train"]] + [e.messages[0]["content"] for e in world["train"]], 320
    )
    shape = ScratchSettings(
        vocab_size=320, hidden_size=16, layers=1, heads=2, intermediate_size=32, max_positions=512, tie_embeddings=True,
        init_std=0.1,
    )  # fmt: skip
    for seed, name in enumerate(("sft", "ppo/multi", "ppo/single")):
        save_policy(build_causal_lm(shape, tokenizer, seed), tokenizer, folders[name])

    settings = LoraPM(**preset("pm", "toy") | {"epochs": 1})
    for name in (*NAMES, "gold"):
        verdicts = {split: labels(pairs[split], name) for split in pairs}
        save_verdicts(folders[f"feedback/{name}"], verdicts)
        measured = {split: quality(pairs[split], verdicts[split]) for split in pairs}
        (folders[f"feedback/{name}"] / "quality.json").write_text(json.dumps(measured))
        train_pm(
            pairs["train"], verdicts["train"], pairs["eval"], verdicts["eval"], folders["sft"] / "model", settings,
            principle=name, out=folders[f"pm/{name}"], seed=0,
        )  # fmt: skip
    for arm, names in (("multi", PRINCIPLES), ("single", ("single",))):
        ones = torch.ones(len(names))
        Objective(names, 0 * ones, ones, ones, ones, linear).save(folders[f"weigh/{arm}"] / "weights.json")
        curve = [{"step": step, "reward": step / 10, "kl": step / 5, "length": 8.0} for step in (1, 2, 3)]
        (folders[f"ppo/{arm}"] / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in curve))
    return folders


def arms_of(names, principles) -> tuple[ArmRead, ...]:
    """`single` has the constitution's labels, any other those of the principles."""
    of = {name: ("constitution", ("single",)) if name == "single" else ("principles", (*principles,)) for name in names}
    return tuple(ArmRead(name=n, labels=of[n][0], models=of[n][1], title=None, method="ppo") for n in names)


def run(inputs, out: Path, arms=("multi", "single"), principles=PRINCIPLES, judge="rules", **changes) -> dict:
    out.mkdir()
    tree = preset("eval", "toy") | {
        "prompts": 10,
        "scored": 10,
        "max_new_tokens": 8,
        "resamples": 200,
        "samples": 10,
        "batch_size": 4,
    }
    scalarizers = {name: preset("scalarizer", name) for name in ("linear", "max_min", "bernoulli_nash")}
    settings = EvalSettings(
        **tree | {"scalarizers": scalarizers, "judge": {"source": judge} if isinstance(judge, str) else judge} | changes
    )
    chosen = {"principles": principles, "arms": arms_of(arms, principles)}
    job = Job(
        "evaluate", "evaluate", "0" * 16,
        *typed(STAGE, {"eval": settings, "scalarizer": SCALARIZER, **chosen}, inputs),
        out=out, keep=out, ledger=out / "ledger.sqlite", seed=5,
        hardware=HardwareSettings(**preset("hardware", "cpu")), on_progress=lambda *_: None,
    )  # fmt: skip
    evaluate.build(job)
    read = {name: json.loads((out / f"{name}.json").read_text()) for name in ("results", "details")}
    for name in ("samples", "responses"):
        read[name] = [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]
    return read


@pytest.fixture(scope="module")
def made(inputs, tmp_path_factory):
    return run(inputs, tmp_path_factory.mktemp("evaluate") / "out")


@pytest.mark.slow
def test_results_have_the_promised_shape(made):
    results = made["results"]
    assert set(results["pm_accuracy"]) == set(PRINCIPLES)
    assert set(results["win_rate"]) == {"multi_vs_sft", "single_vs_sft", "multi_vs_single"}
    for rate in (*results["win_rate"].values(), *results["pm_accuracy"].values()):
        assert 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1 and rate["n"] > 0
    assert results["reward"] == {"first": 0.1, "last": 0.3} and results["kl"] == 0.6
    assert set(results["length"]) == {"sft", "multi", "single"}
    assert set(results["objective_accuracy"]) == {"multi", "single", "ceiling"}
    assert 0.5 < results["objective_accuracy"]["ceiling"]["truth"]["value"] < 1, "two principles are not all of it"


@pytest.mark.slow
def test_win_rates_follow_from_the_responses_by_the_hidden_utility(made):
    def utility(row, policy):
        worth = human_utility(row["messages"], row["responses"][policy]["text"])
        assert row["responses"][policy]["utility"] == pytest.approx(worth, abs=1e-6)
        return worth

    assert len(made["samples"]) == 10
    for key, (first, second) in {
        "multi_vs_sft": ("multi", "sft"), "multi_vs_single": ("multi", "single"), "single_vs_sft": ("single", "sft"),
    }.items():  # fmt: skip
        gaps = np.array([utility(row, first) - utility(row, second) for row in made["samples"]])
        assert made["results"]["win_rate"][key]["value"] == pytest.approx(side(gaps).mean())
        if second == "sft":
            assert made["details"]["utility_change"][first]["value"] == pytest.approx(gaps.mean())


@pytest.mark.slow
def test_a_policy_has_one_win_rate_whatever_principles_a_run_uses(inputs, made, tmp_path):
    """The same single-model policy, in runs whose own principles are others."""
    for k, chosen in enumerate((PRINCIPLES[:1], PRINCIPLES[1:])):
        other = run(inputs, tmp_path / str(k), principles=chosen)
        for key in ("single_vs_sft", "multi_vs_single"):
            assert other["results"]["win_rate"][key] == made["results"]["win_rate"][key]
        assert other["results"]["yardstick"] == made["results"]["yardstick"]
        assert other["details"]["utility_change"] == made["details"]["utility_change"]
    fewer = run(inputs, tmp_path / "fewer", prompts=6, scored=6, samples=6)["results"]["yardstick"]
    first = made["results"]["yardstick"]
    assert (fewer["judge_id"], fewer["count"], first["count"]) == (first["judge_id"], 6, 10)
    assert fewer["id"] != first["id"] and fewer["prompts"] != first["prompts"]


def test_samples_carry_every_models_score_relative_to_sft(made):
    sft = np.array([[row["responses"]["sft"]["scores"][name] for name in NAMES] for row in made["samples"]])
    assert sft.mean(axis=0) == pytest.approx(np.zeros(3), abs=2e-3) and sft.std(axis=0) == pytest.approx(
        np.ones(3), abs=2e-3
    )
    for row in made["samples"]:
        assert set(row["responses"]) == {"sft", "multi", "single"}
        assert set(row["responses"]["multi"]["truth"]) == set(PRINCIPLES)


def test_details_hold_what_the_report_needs(made):
    details = made["details"]
    assert details["names"] == list(NAMES) and details["prompts"] == 10
    assert np.shape(details["correlation"]["labels"]) == np.shape(details["correlation"]["scores"]) == (3, 3)
    assert set(details["score_change"]["multi"]) == set(NAMES) and set(details["true_change"]["single"]) == set(
        PRINCIPLES
    )
    assert details["responses"]["sft"]["tokens"] <= 8
    assert details["weights"]["single"]["names"] == ["single"]


def test_details_lay_the_labels_of_the_principles_side_by_side(inputs, made):
    details = made["details"]
    related = details["labels"]
    assert related["names"] == list(PRINCIPLES) and related["halo"] is None
    pairs = load_pairs(inputs["respond"], "train")
    p = np.array([[verdict.p_first for verdict in labels(pairs, name)] for name in PRINCIPLES], dtype=float)
    a, b = p[:, ~np.isnan(p).any(axis=0) & (p != 0.5).all(axis=0)]
    assert related["agreement"][0][1] == related["agreement"][1][0] == pytest.approx(((a > 0.5) == (b > 0.5)).mean())
    assert related["human"]["detail"]["kappa"] == details["label_quality"]["detail"]["train"]["kappa_human"]
    assert related["cost"]["detail"]["usd"] == pytest.approx(0.01 * (23 + 15))  # one of each split is unusable
    assert details["judge"]["cost"] == {}


@pytest.mark.slow
def test_fewer_scored_prompts_and_pairs_change_no_win_rate(inputs, made, tmp_path):
    fewer = run(inputs, tmp_path / "out", scored=4, samples=4, pairs=6)
    assert fewer["results"]["win_rate"] == made["results"]["win_rate"]
    assert fewer["details"]["pairs"] == 6 and len(fewer["samples"]) == 4
    assert {moved["n"] for moved in fewer["details"]["score_change"]["multi"].values()} == {4}
    assert {moved["n"] for moved in fewer["details"]["true_change"]["multi"].values()} == {10}
    with pytest.raises(ValueError, match="`scored` is 4"):
        run(inputs, tmp_path / "other", scored=4)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(inputs, made, tmp_path):
    assert run(inputs, tmp_path / "again") == made


@pytest.mark.slow
def test_human_labels_come_from_the_data_where_responses_were_sampled(inputs, made, tmp_path):
    unlabelled = {
        split: [replace(p, human=None) for p in load_pairs(inputs["respond"], split)] for split in ("train", "eval")
    }
    save_pairs(tmp_path / "respond", unlabelled)
    sampled = run(inputs | {"respond": tmp_path / "respond"}, tmp_path / "out")
    accuracy = sampled["results"]["objective_accuracy"]
    assert accuracy["multi"]["human"]["n"] == 16
    assert accuracy["multi"]["truth"] == made["results"]["objective_accuracy"]["multi"]["truth"]


@pytest.mark.slow
def test_the_baseline_alone(inputs, tmp_path):
    own = {name: folder for name, folder in inputs.items() if not name.endswith(("multi", "helpfulness", "detail"))}
    made = run(own, tmp_path / "out", arms=("single",))
    assert set(made["results"]["win_rate"]) == {"single_vs_sft"}
    assert set(made["results"]["pm_accuracy"]) == {"single"} == set(made["details"]["names"])
    assert made["details"]["judge"]["source"] == "rules"
    assert made["details"]["labels"]["names"] == ["single"]


@pytest.mark.slow
def test_a_gold_preference_model_judges_where_the_truth_is_unknown(inputs, tmp_path):
    made = run(inputs, tmp_path / "out", judge="pm")
    assert made["details"]["judge"]["accuracy"]["n"] > 0
    assert made["details"]["true_change"] is None and made["results"]["pm_truth_accuracy"] == {}
    assert set(made["results"]["objective_accuracy"]["multi"]) == {"human", "label"}
    assert made["samples"][0]["responses"]["sft"]["truth"] is None
    assert "gold" not in made["details"]["names"]


def test_no_held_out_prompts_is_reported_in_one_line(inputs, tmp_path):
    folder = tmp_path / "data"
    save_examples(folder, {"sft": [], "train": load_split(inputs["data"], "train"), "eval": []})
    with pytest.raises(UserError, match="split 'eval' is empty"):
        run(inputs | {"data": folder}, tmp_path / "out")


def test_an_objective_that_learnt_is_judged_as_it_stood_when_training_ended(tmp_path):
    names = ("toxicity", "helpfulness")
    scalarizer = ScalarizerSettings(**preset("scalarizer", "lagrangian"))
    ones = torch.ones(2)
    trained = Objective(names, 0 * ones, ones, ones, ones, resolve(scalarizer, names), "running", responses=50)
    folders = {name: tmp_path / name for name in ("weigh/multi", "ppo/multi")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    trained.save(folders["weigh/multi"] / "weights.json")
    scores = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1.0
    before = trained(scores)
    trained.observe(scores)
    needs = SimpleNamespace(**{stage: {"multi": folders[f"{stage}/multi"]} for stage in ("weigh", "ppo")})
    needs.policies = needs.ppo
    job = SimpleNamespace(needs=needs, reads=SimpleNamespace(scalarizer=scalarizer, arms=()))
    with pytest.raises(Damaged):  # never the untrained multipliers in silence
        evaluate._objective(job, "multi", ARM, names)
    (folders["ppo/multi"] / "objective.json").write_text(json.dumps(trained.state_dict()))
    turned = ("helpfulness", "toxicity")
    found = as_function(evaluate._objective(job, "multi", ARM, turned), turned)(scores.flip(1).numpy())
    assert np.array_equal(found, trained(scores).numpy()) and not np.allclose(found, before.numpy())


def test_an_objective_is_of_the_scalarizer_and_the_models_of_its_arm(tmp_path):
    names, ones = ("toxicity", "helpfulness"), torch.ones(2)
    usual, own = (ScalarizerSettings(**preset("scalarizer", name)) for name in ("linear", "max_min"))
    (tmp_path / "weigh").mkdir()
    Objective(names, 0 * ones, ones, ones, ones, resolve(usual, names)).save(tmp_path / "weigh" / "weights.json")
    arm = ArmRead(name="strict", labels="principles", models=(), title=None, method="ppo", scalarizer=own)
    needs = SimpleNamespace(weigh={"strict": tmp_path / "weigh"}, policies={})
    job = SimpleNamespace(needs=needs, reads=SimpleNamespace(scalarizer=usual, arms=(arm,)))
    models = ("helpfulness", "toxicity", "helpfulness@strict", "toxicity@strict")
    scores = np.array([[9.0, 9.0, 1.0, 4.0], [9.0, 9.0, 3.0, 2.0]])
    assert as_function(evaluate._objective(job, "strict", ARM, models), models)(scores).tolist() == [1.0, 2.0]
    shared = evaluate._objective(job, "strict", ARM, models[:2])
    assert as_function(shared, models)(scores).tolist() == [9.0, 9.0]


@pytest.mark.slow
def test_every_prompt_has_a_row_with_raw_scores_where_it_was_scored(inputs, made, tmp_path):
    assert [row["prompt_id"] for row in made["responses"]] == [row["prompt_id"] for row in made["samples"]]
    raw = np.array([[row["responses"]["sft"]["scores"][name] for name in NAMES] for row in made["responses"]])
    shown = np.array([[row["responses"]["multi"]["scores"][name] for name in NAMES] for row in made["samples"]])
    multi = np.array([[row["responses"]["multi"]["scores"][name] for name in NAMES] for row in made["responses"]])
    assert shown == pytest.approx((multi - raw.mean(axis=0)) / raw.std(axis=0), abs=1e-3)
    fewer = run(inputs, tmp_path / "out", scored=4, samples=4)["responses"]
    assert len(fewer) == 10 and fewer[3]["responses"]["sft"]["scores"]
    assert fewer[4]["responses"]["sft"]["scores"] is None
    assert fewer[9]["responses"]["sft"]["truth"] == made["responses"][9]["responses"]["sft"]["truth"]


def test_details_take_the_comparison_apart(made):
    details, results = made["details"], made["results"]
    cross = details["cross_accuracy"]
    assert cross["models"] == cross["labels"] == list(NAMES) and np.shape(cross["value"]) == (3, 3)
    assert set(details["scalarizer_accuracy"]) == {"linear", "max_min", "bernoulli_nash"}
    own = results["objective_accuracy"]["multi"]
    assert details["scalarizer_accuracy"]["linear"] == own and set(own) == {"human", "truth", "label"}
    assert details["ablation"]["nested"][-1]["accuracy"] == own, "all principles are the objective itself"
    assert details["ablation"]["nested"][0]["accuracy"] == details["single_principle"]["helpfulness"]
    assert set(details["length_controlled"]) == set(results["win_rate"])
    (pair,) = details["paired"]
    rates = results["win_rate"]
    difference = rates["multi_vs_sft"]["value"] - rates["single_vs_sft"]["value"]
    assert (pair["first"], pair["second"], pair["against"]) == ("multi", "single", "sft")
    assert pair["value"] == pytest.approx(difference)
    assert details["pareto"]["models"]["names"] == list(PRINCIPLES) and set(details["pareto"]["models"]["points"]) == {
        "sft",
        "multi",
        "single",
    }
    assert set(details["hacking"]) == {"multi", "single"} == set(details["sacrificed"]["truth"])
    assert details["hacking"]["multi"]["kl"] == 0.6
    assert details["budget"]["arms"]["multi"]["pms"] == 2 and "equal" in details["budget"]


@pytest.mark.slow
def test_an_arm_that_no_preference_model_rewards(inputs, tmp_path):
    """A judge is the reward: nothing was labelled, no model trained; win rates and the truth remain."""
    bare = {name: folder for name, folder in inputs.items() if not name.startswith(("pm/", "feedback/"))}
    made = run(bare, tmp_path / "out")
    results, details = made["results"], made["details"]
    assert set(results["win_rate"]) == {"multi_vs_sft", "single_vs_sft", "multi_vs_single"}
    assert results["pm_accuracy"] == {} and details["names"] == [] and details["ablation"] is None
    views = [view for view, found in details["pareto"].items() if found]
    assert set(results["objective_accuracy"]) == {"ceiling"} and views == ["truth"]
    assert details["sacrificed"]["pm"]["multi"] is None and details["sacrificed"]["truth"]["multi"]["principle"]
    assert made["responses"][0]["responses"]["multi"]["scores"] is None
    assert details["hacking"]["multi"]["length"]["sft"] <= 8 and details["budget"]["arms"]["multi"]["pms"] == 0


@pytest.mark.slow
def test_nothing_but_two_policies_and_prompts(inputs, tmp_path):
    """Neither truth nor human labels nor a baseline; and the judge is a language model that runs here."""
    rows = [replace(e, chosen=None, rejected=None) for e in load_split(inputs["data"], "eval")]
    save_examples(tmp_path / "data", {"sft": [], "train": [], "eval": rows})
    sampled = {s: [replace(p, human=None) for p in load_pairs(inputs["respond"], s)] for s in ("train", "eval")}
    save_pairs(tmp_path / "respond", sampled)
    own = {name: folder for name, folder in inputs.items() if not name.endswith("single")}
    engine = preset("feedback", "hf") | {"path": str(inputs["sft"] / "model"), "device": "cpu"}
    asked = {"source": "hf", "engine": engine, "question": "Which one is better?", "description": "Weigh everything."}
    judged = run(
        own | {"data": tmp_path / "data", "respond": tmp_path / "respond"},
        tmp_path / "out",
        arms=("multi",),
        judge=asked,
    )
    rate = judged["results"]["win_rate"]["multi_vs_sft"]
    assert rate["n"] + rate["invalid"] == 10 and judged["details"]["judge"]["name"].startswith("hf:")
    assert set(judged["results"]["objective_accuracy"]["multi"]) == {"label"}
    assert judged["details"]["regression"] is None and judged["details"]["ablation"]["ceiling_of"] == "labels"
    assert judged["details"]["judge"]["agreement"] is None and judged["results"]["yardstick"]["template"]
    assert judged["details"]["utility_change"] is None
    assert judged["details"]["true_change"] is None and judged["details"]["hacking"]["multi"]["hacked"] == []


@pytest.mark.slow
def test_policies_from_outside_and_a_benchmark_are_reported_beside_the_runs_own(inputs, tmp_path):
    rows = [
        {"prompt": e.messages, "chosen": e.chosen, "rejected": e.rejected, "subset": "ab"[i % 2]}
        for i, e in enumerate(load_split(inputs["data"], "eval"))
    ]
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outside = {"base": str(inputs["sft"] / "model"), "older": str(inputs["ppo/single"])}
    made = run(inputs, tmp_path / "out", policies=outside, rewardbench=str(tmp_path / "bench.jsonl"))
    rates, answers = made["results"]["win_rate"], made["responses"]
    assert {"multi_vs_base", "base_vs_sft", "multi_vs_older", "older_vs_sft"} < set(rates)
    assert rates["base_vs_sft"]["value"] == 0.5 and rates["base_vs_sft"]["tie"] == 1, "it is the SFT model"
    assert all(row["responses"]["older"]["text"] == row["responses"]["single"]["text"] for row in answers)
    assert rates["multi_vs_older"]["value"] == rates["multi_vs_single"]["value"]
    bench = made["details"]["rewardbench"]
    assert (
        bench["rows"] == 16
        and set(bench["models"]) == set(NAMES)
        and set(bench["models"]["detail"]["subsets"]) == {"a", "b"}
    )
    assert {"multi", "single", "max_min"} <= set(bench["objectives"])
    human = made["results"]["objective_accuracy"]["multi"]["human"]
    assert bench["objectives"]["multi"]["all"]["value"] == pytest.approx(human["value"]), "the same pairs"


@pytest.mark.slow
def test_policies_kept_on_the_way_answer_the_same_prompts(inputs, made, tmp_path):
    """A kept copy of the last policy stands where the last one does, one of SFT where nothing is gained."""
    here = dict(inputs)
    here["ppo/multi"] = tmp_path / "ppo" / "multi"
    shutil.copytree(inputs["ppo/multi"], here["ppo/multi"])
    shutil.copytree(inputs["sft"], kept_folder(here["ppo/multi"], 1))
    shutil.copytree(inputs["ppo/multi"] / "model", kept_folder(here["ppo/multi"], 2) / "model")
    found = run(here, tmp_path / "out", kept=True)
    assert found["results"] == made["results"]
    first, second = found["details"]["kept"]["multi"]
    assert (first["step"], second["step"]) == (1, 2) and found["details"]["kept"].keys() == {"multi"}
    assert first["win_rate"]["value"] == 0.5 and first["proxy"]["value"] == first["gold"]["value"] == 0
    assert second["kl"] == 0.6  # of the next step's rollouts, where no held-out prompts were asked
    assert second["win_rate"] == found["results"]["win_rate"]["multi_vs_sft"]
    assert second["gold"]["value"] == pytest.approx(found["details"]["utility_change"]["multi"]["value"])
    rows = [row["responses"] for row in found["responses"]]
    gained = [row["multi"]["scores"][name] - row["sft"]["scores"][name] for row in rows for name in PRINCIPLES]
    assert second["proxy"]["value"] == pytest.approx(sum(gained) / len(rows), abs=1e-5)
    assert not made["details"]["kept"]
