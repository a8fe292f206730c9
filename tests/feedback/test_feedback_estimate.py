from __future__ import annotations

import pytest

from morlaif.feedback.chunks import PairChunks
from morlaif.feedback.estimate import estimate
from morlaif.feedback.label import draw, label
from morlaif.feedback.ledger import Ledger
from morlaif.feedback.tokens import count

FIXED = {"logprobs": "always", "requests_per_minute": 600}


@pytest.mark.slow
def test_what_is_estimated_is_what_is_asked(server, pairs, helpfulness, settings_for, tmp_path):
    settings, table = settings_for(server, **FIXED), PairChunks.of(pairs)
    told = estimate("u", settings, lambda _: (helpfulness,), table, ledger=tmp_path / "l")
    assert server.received == 0 and not (tmp_path / "l").exists()  # nothing is sent, nothing made
    label(pairs, helpfulness, settings_for(server, logprobs="always"), ledger=tmp_path / "l", seed=0)
    assert told.verdicts == 30 and told.known == 0 and told.requests == server.received == 60
    written = [sum(count(m["content"], "x") + 4 for m in body["messages"]) for body in server.bodies]
    assert told.input_tokens == sum(written) and told.output_tokens == 60
    assert told.usd == pytest.approx((sum(written) * 1.0 + 60 * 10.0) / 1e6)
    assert told.seconds == pytest.approx(6.0, rel=0.05)


@pytest.mark.slow
def test_what_the_ledger_knows_costs_nothing(server, pairs, helpfulness, settings_for, tmp_path):
    settings, table = settings_for(server, **FIXED), PairChunks.of(pairs)
    label(pairs[:20], helpfulness, settings_for(server, logprobs="always"), ledger=tmp_path / "l", seed=0)
    told = estimate("u", settings, lambda _: (helpfulness,), table, ledger=tmp_path / "l")
    assert told.known == 20 and told.requests == 20
    other = estimate(
        "u", settings_for(server, **FIXED, mode="cot"), lambda _: (helpfulness,), table, ledger=tmp_path / "l"
    )
    assert other.known == 0 and other.output_tokens == 60 * 400
    with Ledger(tmp_path / "l") as ledger:
        assert len(ledger) == 40


@pytest.mark.slow
def test_joint_and_votes_and_batches(server, pairs, principles, settings_for, tmp_path):
    chosen, table = principles.chosen, PairChunks.of(pairs)

    def total(field, together=(), **overrides):
        settings = settings_for(server, **FIXED | overrides)
        units = [
            estimate(p.name, settings, lambda _, p=p: (p,), table, ledger=tmp_path / "l", together=together)
            for p in chosen
        ]
        return sum(getattr(unit, field) for unit in units)

    audited = {"audit_fraction": 0.0, "max_tokens": 400}
    assert total("requests") == 12 * 60
    assert total("requests", logprobs="never", votes=5) == 5 * 12 * 60
    assert total("requests", chosen, mode="joint", joint=audited) == pytest.approx(60)
    assert total("requests", chosen, mode="joint", joint=audited | {"audit_fraction": 0.5}) == pytest.approx(
        60 + 12 * 30
    )
    assert total("input_tokens", chosen, mode="joint", joint=audited) < 0.4 * total("input_tokens")
    half = settings_for(server).batch.model_copy(update={"discount": 0.5}).model_dump()
    assert total("usd", delivery="batch", batch=half) == pytest.approx(0.5 * total("usd"))


def test_before_there_are_pairs_their_number_is_enough_and_it_is_reported(server, principles, settings_for, tmp_path):
    assign = draw(principles.constitution, 2, seed=0)
    told = estimate("single", settings_for(server), assign, 1000, ledger=tmp_path / "l")
    assert told.verdicts == 2000 and told.requests == 4000 and told.usd > 0
    assert any("not built yet" in note for note in told.notes)
    assert any("log-probabilities is not known" in note for note in told.notes)


def test_rules_cost_nothing(rules, helpfulness, tmp_path):
    told = estimate("u", rules, lambda _: (helpfulness,), 100, ledger=tmp_path / "l")
    assert told.verdicts == 100 and told.requests == told.usd == 0
