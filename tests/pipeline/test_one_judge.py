"""One judge for labels and evaluation by one path, and what is settled by the model that a run is given."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from composed import config

sys.path.insert(0, str(Path(__file__).parents[1] / "feedback"))

from chat_server import ChatServer
from servers import public, vllm

from morlaif.errors import UserError
from morlaif.feedback import reach
from morlaif.feedback.answering import remember, settle
from morlaif.feedback.ledger import Ledger
from morlaif.pipeline.preflight import Preflight
from morlaif.planning.settle import settled
from morlaif.usage import with_judge

pytestmark = pytest.mark.slow  # most compose a config of their own

LOCAL = ("experiment=local", "data.path=d.jsonl")


def problems(*overrides: str) -> list[str]:
    return Preflight().problems(config(*LOCAL, *overrides))


def test_an_address_means_a_server_and_a_preset_that_is_given_stays():
    assert with_judge(["judge.path=http://here:1/v1"])[1:] == ["judge=server"]
    assert with_judge(["judge.path=https://api.openai.com/v1"])[1:] == ["judge=openai"]
    for words in (["judge.path=folder"], ["judge.path=http://here:1", "judge=none"], ["seed=1"]):
        assert with_judge(words) == words


def test_one_path_serves_feedback_and_evaluation():
    local = config(*LOCAL, "model.path=m", "judge.path=j")
    assert local.feedback.path == local.eval.judge.engine.path == "j"
    served = config(*LOCAL, "model.path=m", "judge=server", "judge.path=http://here:1/v1", "judge.api_key_env=KEY")
    for judge in (served.feedback, served.eval.judge.engine):
        assert (judge.base_url, judge.model, judge.api_key_env) == ("http://here:1/v1", "auto", "KEY")


def test_a_judge_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 9)
    own = ("model.path=./gone", "stages=[evaluate]")
    lines = problems(*own, "judge.path=./nowhere")
    assert sum("judge" in line for line in lines) == 1
    assert any(line.startswith("judge.path='./nowhere': no such folder") for line in lines)
    lines = problems(*own)
    assert [line for line in lines if "judge" in line] == [
        "judge.path: give the judge: a folder in Hugging Face format, a hub id, or the URL of a server"
    ]
    lines = problems(*own, "judge=server", "judge.path=http://127.0.0.1:9/v1")
    (line,) = [line for line in lines if "127.0.0.1" in line]
    assert line.startswith("judge.path=http://127.0.0.1:9/v1: nothing listens there")


@pytest.mark.parametrize(
    ("name", "template", "method"),
    [
        ("m", None, "lora"),
        ("m-it", "{{ messages }}", "none"),
        ("m-Base", "{{ messages }}", "lora"),
        (None, None, "lora"),
    ],
)  # fmt: skip
def test_a_model_with_a_template_of_its_own_is_taken_as_it_is(tmp_path, name, template, method):
    folder = tmp_path / (name or "gone")
    if name:
        folder.mkdir()
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template} if template else {}))
    told: list[str] = []
    made = settled(config(*LOCAL, f"model.path={folder}"), told.append)
    assert made.sft.method == method and len(told) == (name is not None)
    assert settled(config(*LOCAL, f"model.path={folder}", "sft=none")).sft.method == "none"
    assert settled(config(*LOCAL, f"model.path={folder}", "sft=lora")).sft.method == "lora"


def test_auto_is_what_it_is_settled_as(tmp_path):
    auto, lora = (settled(config(*LOCAL, f"model.path={tmp_path}", f"sft={name}")).sft for name in ("auto", "lora"))
    assert auto == lora


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer() as running:
        yield running


def test_the_one_model_of_a_server_needs_no_name(server, tmp_path):
    judge = config(*LOCAL, "model.path=m", "judge=server", f"judge.path={server.base_url}").feedback
    ledger = tmp_path / "ledger.sqlite"

    def name() -> str:
        reach._seen.clear()
        return settle(judge, ledger).model

    vllm(server, "mine", "/models/mine")
    assert name() == "mine"
    public(server, "one", "two")
    with pytest.raises(UserError, match=r"feedback\.model=auto: .* serves 'one', 'two'\. Name the one"):
        name()
    server.told["/v1/models"] = {"object": "list", "data": []}
    with pytest.raises(UserError, match="lists no model"):
        name()


def test_a_server_that_is_away_is_called_as_it_was_when_it_answered(server, tmp_path):
    judge = config(*LOCAL, "model.path=m", "judge=server", f"judge.path={server.base_url}").feedback
    vllm(server, "mine", "/models/mine")
    reach._seen.clear()
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        known = settle(judge, ledger.path)
        remember(ledger, known, reach.look(known).served)
    server.close()
    reach._seen.clear()
    away = settle(judge, tmp_path / "ledger.sqlite")
    assert (away.model, away.served) == ("mine", known.served)
    with pytest.raises(UserError, match=r"nothing listens|no answer"):
        settle(judge, tmp_path / "other.sqlite")
