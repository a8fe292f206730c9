# ruff: noqa: E402
"""Units that label for one another: a joint request, and principles asked pair by pair."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from datasets import load_from_disk

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "feedback"))

from chat_server import ChatServer
from feedback_cases import make_pairs
from jobs import typed

from morlaif.data.records import save_pairs
from morlaif.feedback.settings import Company, OpenAISettings, PrinciplesSettings, shared_reads
from morlaif.hardware import HardwareSettings
from morlaif.presets import preset
from morlaif.stages.feedback import STAGE, FeedbackReads
from morlaif.stages.work import feedback
from morlaif.units.job import Job
from morlaif.units.unit import Unit


@pytest.fixture
def principles():
    return PrinciplesSettings(**preset("principles", "paper12")).chosen[:3]


def settings(server: ChatServer, **overrides) -> OpenAISettings:
    quick = {
        "base_url": server.base_url,
        "provider": "test",
        "logprobs": "always",
        "concurrency": 8,
        "survive_kill": False,
    }
    return OpenAISettings(**preset("feedback", "server") | quick | overrides)


def build(tmp_path: Path, name: str, config: dict) -> dict:
    out, keep = tmp_path / name / "out", tmp_path / name / "keep"
    out.mkdir(parents=True)
    keep.mkdir()
    job = Job(
        "feedback", f"feedback/{name}", "0" * 16, *typed(STAGE, config, {"respond": tmp_path / "respond"}), out, keep,
        tmp_path / "ledger.sqlite", 0, hardware(), lambda *_: None,
    )  # fmt: skip
    feedback.build(job)
    return json.loads((out / "quality.json").read_text())


def hardware() -> HardwareSettings:
    return HardwareSettings(**preset("hardware", "cpu"))


@pytest.fixture
def responded(tmp_path):
    pairs = make_pairs(24)
    save_pairs(tmp_path / "respond", {"train": pairs[:20], "eval": pairs[20:]})
    return tmp_path


@pytest.mark.slow
def test_joint_units_share_their_requests_and_report_the_halo(responded, principles):
    with ChatServer() as server:
        config = settings(server, mode="joint", joint={"audit_fraction": 0.4, "max_tokens": 400})
        reads = shared_reads(config, principles)
        asked = []
        for principle in principles:
            found = build(responded, principle.name, {"feedback": config, "principle": principle, **reads})
            asked.append(server.received)
            assert found["halo"]["pairs"] > 3 and found["halo"]["same_side"]["n"] > 9
            assert found["train"]["validity"]["value"] == 1.0
        assert asked[0] == asked[2] == 2 * 24 + 2 * 3 * found["halo"]["pairs"]  # all is asked by the first unit
        labels = load_from_disk(str(responded / principles[0].name / "out" / "verdicts" / "train"))
        assert len(labels) == 20 and min(labels["p_first"]) > 0


@pytest.mark.slow
def test_pair_by_pair_the_first_unit_asks_for_all(responded, principles):
    with ChatServer() as server:
        config = settings(server, order="pair")
        reads = shared_reads(config, principles)
        assert isinstance(reads["company"], Company)
        for principle in principles:
            build(responded, principle.name, {"feedback": config, "principle": principle, **reads})
            assert server.received == 3 * 48


def test_company_changes_no_digest_but_a_joint_request_does(principles):
    with ChatServer() as server:
        plain, joint = settings(server, order="pair"), settings(server, mode="joint")

        def digest(config, company) -> str:
            reads = {"feedback": config, "principle": principles[0], **shared_reads(config, company)}
            return Unit(STAGE, "feedback/x", FeedbackReads(seed=0, **reads)).digest

        assert digest(plain, principles) == digest(plain, principles[:1])
        assert digest(joint, principles) != digest(joint, principles[:2])
        assert digest(joint, principles) == digest(joint, principles[::-1])
        assert shared_reads(plain.model_copy(update={"order": "principle"}), principles) == {}
