"""What raters said, against numbers worked out by hand and the `krippendorff` package."""

from __future__ import annotations

import json

import krippendorff
import numpy as np
import pytest
from human_cases import COMPARISONS, answer, make_rows, prefers

from morlaif.evaluation.human.answers import read
from morlaif.evaluation.human.items import make_study
from morlaif.evaluation.human.summary import raters_of, summarise, unblinded
from morlaif.statistics import wilson

HOW = {"resamples": 200, "confidence": 0.95}
ZEBRA = prefers("zebra", "on_topic")


def summary(study, *files: str, max_failed: float = 0.34) -> dict:
    key = study.key()
    ratings = read({f"{k}.json": text for k, text in enumerate(files)}, key)
    return summarise(ratings, raters_of(ratings, key, max_failed), key, **HOW)


def by_prompt(answers: dict[str, str]):
    """A rule: "win", "tie" or "loss" of the policy on a prompt; prompts that are not named stay unanswered."""

    def rule(item, _):
        said = answers.get(item["prompt_id"])
        return said and {"tie": "tie", "win": ZEBRA(item, ""), "loss": prefers("yak", "ibex")(item, "")}[said]

    return rule


def test_shares_by_hand():
    """Two raters, five prompts: (win, win) (win, tie) (tie, loss) (loss, —), and one with equal responses."""
    rows = make_rows(5)
    rows[4]["responses"]["yak"] = rows[4]["responses"]["zebra"]
    study = make_study(rows, COMPARISONS[:1], prompts=5, repeats=0, checks=0, seed=0)
    p = [row["prompt_id"] for row in rows]
    ann = answer(study, "Ann", by_prompt({p[0]: "win", p[1]: "win", p[2]: "tie", p[3]: "loss"}))
    bob = answer(study, "Bob", by_prompt({p[0]: "win", p[1]: "tie", p[2]: "loss"}))
    found = summary(study, ann, bob)["comparisons"]["policy_vs_single"]
    # wins 1 + ½ + 0 + 0 + 0, ties 0 + ½ + ½ + 0 + 1, losses 0 + 0 + ½ + 1 + 0, of five prompts
    assert (found["win"], found["tie"], found["loss"]) == pytest.approx((0.3, 0.4, 0.3))
    assert found["intervals"]["rate"]["value"] == pytest.approx((1 + 0.75 + 0.25 + 0 + 0.5) / 5)
    assert (found["n"], found["ratings"], found["identical"]) == (5, 7, 1)
    for interval in found["intervals"].values():
        assert 0 <= interval["low"] < interval["value"] < interval["high"] <= 1
    for level in ("nominal", "ordinal"):
        table = np.array([[1, 1, 0.5, 0], [1, 0.5, 0, np.nan]])
        oracle = krippendorff.alpha(reliability_data=table, level_of_measurement=level)
        assert found["agreement"][level]["value"] == pytest.approx(oracle)
        assert found["agreement"][level]["n"] == 3


def test_how_far_a_judge_agrees_with_the_raters():
    """Six prompts: raters say win, win, loss, loss, tie, and one is not rated; the judge win, loss, loss, tie, win,
    win."""
    rows = make_rows(6)
    study = make_study(rows, COMPARISONS[:1], prompts=6, repeats=0, checks=0, seed=0)
    p = [row["prompt_id"] for row in rows]
    ann = answer(study, "Ann", by_prompt(dict(zip(p, ["win", "win", "loss", "loss", "tie"], strict=False))))
    key = study.key()
    ratings = read({"ann.json": ann}, key)
    judged = {"policy_vs_single": dict(zip(p, [1.0, 0.0, 0.0, 0.5, 1.0, 1.0], strict=True))}
    found = summarise(ratings, raters_of(ratings, key, 1.0), key, **HOW, judged=judged)
    judge = found["comparisons"]["policy_vs_single"]["judge"]
    assert (judge["value"], judge["n"]) == (pytest.approx((1 + 0 + 1 + 0.5) / 4), 4), "a tie of the raters' has no side"
    assert judge["kappa"]["n"] == 3 and judge["kappa"]["value"] == pytest.approx((2 / 3 - 4 / 9) / (1 - 4 / 9))
    silent = summarise(ratings, raters_of(ratings, key, 1.0), key, **HOW, judged={"policy_vs_single": {p[0]: None}})
    assert silent["comparisons"]["policy_vs_single"]["judge"]["value"] is None
    assert (
        "judge" not in summarise(ratings, raters_of(ratings, key, 1.0), key, **HOW)["comparisons"]["policy_vs_single"]
    )


def test_unanimous_raters(study):
    found = summary(study, answer(study, "Ann", ZEBRA), answer(study, "Bob", ZEBRA))
    one = found["comparisons"]["policy_vs_sft"]
    assert (one["win"], one["n"]) == (1.0, 20)
    assert one["intervals"]["win"]["low"] == pytest.approx(wilson(1.0, 20).low)  # no claim of certainty
    assert found["consistency"]["value"] == 1 and found["consistency"]["n"] == 8
    assert found["agreement"]["nominal"]["value"] is None  # all say one thing: α is not defined
    assert found["side_a"]["value"] == 0.5
    assert found["seconds"] == {"median": 10.0, "mean": 10.0, "total": 10.0 * 2 * len(study.items)}


def test_who_always_chooses_one_side_is_inconsistent_and_wins_nothing(study):
    found = summary(study, answer(study, "Ann", lambda *_: "a", check=ZEBRA))
    assert found["consistency"]["value"] == 0 and found["side_a"]["value"] == 1
    assert [one["intervals"]["rate"]["value"] for one in found["comparisons"].values()] == [0.5, 0.5]


def test_who_fails_the_known_pairs_is_left_out(study):
    ann = answer(study, "Ann", ZEBRA)
    bob = answer(study, "Bob", prefers("yak", "ibex", "off_topic"))
    cid = answer(study, "Cid", prefers("yak", "ibex"), check=lambda *_: "tie")
    found = summary(study, ann, bob, cid)
    assert [(r["name"], r["checks"], r["failed"], r["kept"]) for r in found["raters"]] == [
        ("rater 1", 8, 0, True), ("rater 2", 8, 8, False), ("rater 3", 8, 8, False)
    ]  # fmt: skip
    assert found["comparisons"]["policy_vs_single"]["win"] == 1
    kept = summary(study, ann, bob, cid, max_failed=1.0)
    assert kept["comparisons"]["policy_vs_single"]["win"] == pytest.approx(1 / 3)
    assert "Ann" not in json.dumps(found)


def test_the_share_that_may_fail_is_allowed(study):
    known = [id_ for id_, item in study.key()["items"].items() if item["kind"] == "check"]
    ann = answer(study, "Ann", ZEBRA, check=lambda item, id_: "tie" if id_ in known[:2] else ZEBRA(item, id_))
    assert summary(study, ann, max_failed=0.25)["raters"][0]["kept"]
    assert not summary(study, ann, answer(study, "Bob", ZEBRA), max_failed=0.24)["raters"][0]["kept"]


def test_every_answer_is_traced_to_its_policy(study):
    key = study.key()
    ratings = read({"ann.json": answer(study, "Ann", ZEBRA)}, key)
    rows = unblinded(ratings, raters_of(ratings, key, 0.5), key)
    assert len(rows) == len(study.items)
    assert {(row["kind"], row["preferred"]) for row in rows} == {
        ("pair", "zebra"), ("repeat", "zebra"), ("check", "on_topic")
    }  # fmt: skip
