"""Criteria of a response's own, rated by a server in one request."""

from __future__ import annotations

import pytest
from chat_server import ChatServer

from morlaif.feedback.judge import open_checklist
from morlaif.feedback.rating import to_score
from morlaif.feedback.rubric import Checklist


@pytest.mark.slow
@pytest.mark.parametrize("logprobs", [True, False])
def test_a_server_rates_all_criteria_in_one_request_and_its_answer_is_kept(
    logprobs, principles, settings_for, tmp_path
):
    criteria = tuple(principles.criterion(principle) for principle in principles.chosen[:3])
    asked = [Checklist.of([{"role": "user", "content": "Q"}], f"answer {k}", criteria[: k + 1]) for k in range(3)]
    with ChatServer(logprobs=logprobs) as server:
        settings = settings_for(server, votes=2, logprobs="always" if logprobs else "never")

        def rate():
            rater = open_checklist(settings, ledger=tmp_path / "l", highest=10)
            return {row.response: ratings for row, ratings in rater.judge(asked)}, rater.usage

        found, usage = rate()
        for k in range(3):
            assert found[f"answer {k}"].scores == pytest.approx([to_score(3 + i, 10) for i in range(k + 1)])
        assert server.received == usage.requests == (3 if logprobs else 6)
        assert sum(ratings.usd for ratings in found.values()) == pytest.approx(usage.usd) and usage.usd > 0
        again, later = rate()
        assert later.requests == 0
        assert {k: r.scores for k, r in again.items()} == {k: r.scores for k, r in found.items()}
        body = server.bodies[-1]
        assert next(iter(body["response_format"]["json_schema"]["schema"]["properties"])) == "c1"
        assert "- c1: How much does the reply do" in body["messages"][-1]["content"]
