"""Judges in both orders: the toy world's truth, a preference model, a language model behind a real server."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from morlaif.errors import UserError
from morlaif.evaluation.judges import EngineJudge, ScoreJudge, UtilityJudge, side, true_scores, utilities
from morlaif.evaluation.settings import OpenAIJudge
from morlaif.presets import preset
from morlaif.statistics import win_rate
from morlaif.toy import judge as toy
from morlaif.toy.world import HUMAN_WEIGHTS, make_world

ROOT = Path(__file__).parents[2]
ASK = [{"role": "user", "content": "Which one is better?"}]


def load_chat_server():
    spec = importlib.util.spec_from_file_location("chat_server", ROOT / "tests/feedback/chat_server.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ChatServer


@pytest.fixture
def ask_server(tmp_path, monkeypatch):
    """ask(server, first, second) -> Judgement, with the settings that `eval=default` holds."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-not-real")
    tree = preset("eval", "default")["judge"]
    costs = []

    def ask(server, first, second):
        engine = tree["engine"] | {"base_url": server.base_url, "concurrency": 4, "retries": 0}
        settings = OpenAIJudge(**tree | {"engine": engine})
        judge = EngineJudge(settings, ledger=tmp_path / "ledger.sqlite", seed=0, on_progress=lambda *_, **__: None)
        judgement = judge.compare([ASK] * len(first), first, second)
        costs.append(dict(judge.cost))
        return judgement

    ask.costs = costs
    return ask


def test_side():
    assert side(np.array([2.0, -1e-12, 1e-12, -3.0])).tolist() == [1, 0.5, 0.5, 0]


def test_truth_is_the_toy_judge_averaged_over_what_a_principle_covers():
    rows = make_world(0, sft=0, train=0, eval=6)["eval"]
    prompts, texts = [row.messages for row in rows], [row.chosen for row in rows]
    covers = {"detail": ("detail",), "kindness": ("empathy", "toxicity")}
    scores = true_scores(prompts, texts, covers)
    for i, row in enumerate(rows):
        truth = toy.truth(row.messages, row.chosen)
        assert scores[i].tolist() == [truth["detail"], (truth["empathy"] + truth["toxicity"]) / 2]
    assert true_scores([], [], covers).shape == (0, 2)
    with pytest.raises(UserError, match="Did you mean 'empathy'"):
        true_scores(prompts, texts, {"x": ("empaty",)})


def test_the_worlds_judge_prefers_the_higher_human_utility_in_both_orders():
    rows = make_world(1, sft=0, train=0, eval=40)["eval"]
    prompts, chosen, rejected = zip(*((row.messages, row.chosen, row.rejected) for row in rows), strict=True)
    judge = UtilityJudge()
    verdict = judge.compare(prompts, chosen, rejected)
    for i, row in enumerate(rows):
        truth = (toy.truth(row.messages, text) for text in (row.chosen, row.rejected))
        worth, other = (sum(HUMAN_WEIGHTS[name] * value for name, value in own.items()) for own in truth)
        gap = 0 if abs(worth - other) < 1e-9 else worth - other
        assert verdict.forward[i] == verdict.backward[i] == (0.5 if gap == 0 else float(gap > 0))
        assert utilities([row.messages], [row.chosen])[0] == pytest.approx(worth)
    swapped = judge.compare(prompts, rejected, chosen)
    assert (swapped.forward == 1 - verdict.forward).all()
    assert (judge.compare(prompts, chosen, chosen).forward == 0.5).all()


def test_a_preference_model_judges_by_its_difference():
    judge = ScoreJudge(lambda prompts, texts: np.array([float(text) for text in texts]))
    verdict = judge.compare([ASK] * 3, ["2", "0", "1"], ["0", "2", "1"])
    assert verdict.forward == pytest.approx([0.880797, 0.119203, 0.5], abs=1e-6)
    assert (verdict.forward == verdict.backward).all() and verdict.valid.all()


@pytest.mark.slow
def test_a_language_model_is_asked_in_both_orders_and_its_position_bias_is_seen(ask_server):
    with load_chat_server()() as server:  # gives 0.4 of log-odds to whichever stands first
        first, second = ["worth 3.0", "worth 1.0", "worth 1.2", "same"], ["worth 1.0", "worth 3.0", "worth 1.0", "same"]
        verdict = ask_server(server, first, second)
        asked = server.received
        again = ask_server(server, first, second)
    gap = np.array([2, -2, 0.2])
    assert verdict.forward[:3] == pytest.approx(1 / (1 + np.exp(-(gap + 0.4))), abs=1e-3)
    assert verdict.backward[:3] == pytest.approx(1 / (1 + np.exp(-(gap - 0.4))), abs=1e-3)
    assert (verdict.forward[3], verdict.backward[3], verdict.valid.all()) == (0.5, 0.5, True), (
        "equal texts need no judge"
    )
    assert server.received == asked, "the ledger answers the second time"
    assert (again.forward == verdict.forward).all()
    cost, remembered = ask_server.costs
    assert cost["input_tokens"] == 3 * 200 and cost["usd"] > 0, "three verdicts of two answers"
    assert cost == remembered, "what an answer took, whoever asked for it"
    rate = win_rate(verdict.forward, verdict.backward, verdict.valid, seed=0)
    assert (rate.rate.value, rate.flip_rate, rate.tie) == (0.5, 0.25, 0.5)
    assert any("serves the person" in str(body["messages"]) for body in server.bodies)


@pytest.mark.slow
def test_an_unusable_answer_is_invalid_and_left_out(ask_server):
    with load_chat_server()(lambda n, body: "chatter" if "worth 7.0" in str(body["messages"]) else None) as server:
        verdict = ask_server(server, ["worth 3.0", "worth 7.0"], ["worth 1.0", "worth 1.0"])
    assert verdict.valid.tolist() == [True, False]
    assert win_rate(verdict.forward, verdict.backward, verdict.valid, seed=0).invalid == 1
