"""A teacher behind a server: asked for a completion of each prompt, once, and paid once."""

from __future__ import annotations

import json

import pytest
from chat_server import ChatServer, completion

from morlaif.feedback.ledger import Ledger
from morlaif.online.settings import TeacherSettings
from morlaif.online.teachers import completions
from morlaif.presets import preset

PROMPTS = [[{"role": "user", "content": f"Question {i}?"}] for i in range(5)]


def answering(n: int, body: dict) -> tuple:
    """A line and a second one; a refusal to the question about 2."""
    reply = completion(body, f"To {body['messages'][-1]['content']}\nAnd more.", None)
    if "2" in body["messages"][-1]["content"]:
        reply["choices"][0]["message"] |= {"content": None, "refusal": "no"}
    return "raw", json.dumps(reply).encode()


def ask(settings_for, server: ChatServer, ledger, **changes) -> list:
    values = preset("teacher", "server", sampling={"max_new_tokens": 7, "temperature": 0.5, "stop": ["\n"]}, **changes)
    values["teacher"]["engine"] = settings_for(server).model_dump(mode="json")
    settings = TeacherSettings(**values)
    return completions(settings, PROMPTS, seed=0, ledger=ledger, identity="", load=lambda: None)


@pytest.mark.slow
def test_each_prompt_is_sent_as_it_is_and_paid_once(tmp_path, settings_for):
    with ChatServer(answering) as server:
        made = ask(settings_for, server, tmp_path / "ledger.sqlite")
        whole = [messages for i, messages in enumerate(PROMPTS) if i != 2]  # what is refused is left out
        assert [one.messages for one in made] == whole
        assert [one.text for one in made] == [f"To Question {i}?" for i in (0, 1, 3, 4)]  # cut at the stop text
        body = server.bodies[0]
        assert body["messages"] in PROMPTS and body["temperature"] == 0.5 and body["max_tokens"] == 7
        assert body["stop"] == ["\n"] and "logprobs" not in body
        assert server.received == 5 and sum(one.usd for one in made) > 0
        assert ask(settings_for, server, tmp_path / "ledger.sqlite") == made
        assert not [n for n, one in enumerate(server.bodies) if n >= 5 and one["messages"] != PROMPTS[2]]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.spent() >= sum(one.usd for one in made)
