from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from chat_server import ChatServer
from feedback_cases import make_pairs

from morlaif.data.records import Pair
from morlaif.feedback.settings import OpenAISettings, Principle, PrinciplesSettings, RulesSettings
from morlaif.presets import preset


@pytest.fixture
def principles() -> PrinciplesSettings:
    return PrinciplesSettings(**preset("principles", "paper12"))


@pytest.fixture
def helpfulness(principles: PrinciplesSettings) -> Principle:
    return principles.chosen[0]


@pytest.fixture
def rules() -> RulesSettings:
    return RulesSettings(**preset("feedback", "rules"))


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer() as running:
        yield running


@pytest.fixture
def settings_for():
    """Settings for a server, quick to lose patience; further keywords override the preset."""

    def make(server: ChatServer, **overrides: Any) -> OpenAISettings:
        quick = {"base_url": server.base_url, "provider": "test", "timeout": 5, "backoff": 0.01, "patience": 5}
        tree = (
            preset("feedback", "server")
            | quick
            | {"concurrency": 8, "survive_kill": False, "price": {"input": 1.0, "output": 10.0}}
        )
        return OpenAISettings(**(tree | overrides))

    return make


@pytest.fixture
def pairs() -> list[Pair]:
    """Thirty pairs whose responses state what they are worth, so that the server's judgement is known."""
    return make_pairs(30)
