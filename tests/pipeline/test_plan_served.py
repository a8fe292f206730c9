"""Which model answers behind a server is part of a digest, where the server tells."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from composed import config

sys.path.insert(0, str(Path(__file__).parents[1] / "feedback"))

from chat_server import ChatServer
from servers import llama_cpp

from morlaif.errors import UserError
from morlaif.feedback import reach
from morlaif.feedback.answering import remember
from morlaif.feedback.ledger import Ledger
from morlaif.pipeline.served import asked, with_served
from morlaif.planning.plan import plan
from morlaif.units.store import Store


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer() as running:
        llama_cpp(running, "/models/one.gguf")
        yield running


@pytest.fixture
def planned(server, tmp_path):
    """planned(*overrides) -> digests by unit, what was said, and what `served` became."""

    def make(*overrides: str):
        reach._seen.clear()
        address = f"feedback.base_url={server.base_url}"
        made = config("feedback=server", address, "feedback.model=one", f"paths.store={tmp_path}", *overrides)
        said: list[str] = []
        settled = with_served(made, said.append, wait=False)
        return {unit.name: unit.digest for unit in plan(settled).units}, said, settled.feedback.served

    return make


@pytest.mark.slow
def test_another_model_makes_other_units_and_the_same_one_the_same(server, planned):
    first, said, _ = planned("feedback.model_alias=any")
    assert not said
    llama_cpp(server, "/models/two.gguf", size=7)
    other, _, _ = planned("feedback.model_alias=any")
    differ = {name for name in first if first[name] != other[name]}
    assert {"feedback/helpfulness", "feedback/single", "pm/helpfulness", "ppo/morlaif", "evaluate"} <= differ
    assert not {"data", "sft", "respond"} & differ
    llama_cpp(server, "/models/one.gguf")
    assert planned("feedback.model_alias=any")[0] == first
    with pytest.raises(UserError, match=r"feedback\.model='nonsense'"):
        planned("feedback.model=nonsense")


@pytest.mark.slow
def test_a_server_that_is_gone_changes_nothing(server, planned, tmp_path):
    first, _, served = planned()
    overrides = ("feedback=server", "feedback.model=one", f"feedback.base_url={server.base_url}")
    with Ledger(Store(tmp_path).ledger) as ledger:
        remember(ledger, config(*overrides, f"feedback.served={served}").feedback, None)
    server.close()
    again, said, _ = planned()
    assert again == first and "Going on with what is known of one.gguf-" in said[0]


@pytest.mark.slow
def test_a_run_that_asks_nobody_looks_nowhere(server, planned):
    planned("stages=[respond]")
    planned("reward=judge", "reward.engine=null", "arms.select=[morlaif]", "stages=[sft]")
    assert not server.looked


@pytest.mark.slow
def test_every_server_of_a_run_is_found():
    engine = "reward.engine.base_url=http://a/v1"
    made = config("reward=judge_server", engine, "reward.engine.model=m", "feedback=server", "arms.select=[morlaif]")
    assert [".".join(path) for path, _ in asked(made)] == ["reward.engine"]  # no pair is labelled
    assert [".".join(path) for path, _ in asked(config("feedback=server"))] == ["feedback"]
