"""The batch interface, through the real client."""

from __future__ import annotations

import json

import pytest
from batch_server import BatchServer

from morlaif.errors import MachineError, UserError
from morlaif.feedback.chunks import PairChunks
from morlaif.feedback.judge import open_judge
from morlaif.feedback.label import label, label_all, label_chunks, label_with
from morlaif.feedback.ledger import Ledger

QUICK = {
    "discount": 0.5, "max_requests": 1000, "max_bytes": 1_000_000, "max_enqueued_tokens": None,
    "poll": 0.01, "wait": None, "rounds": 4,
}  # fmt: skip


@pytest.fixture
def run(helpfulness, settings_for, tmp_path):
    def labels(server, pairs, batch=(), **overrides):
        overrides = {"logprobs": "always", "delivery": "batch", "batch": QUICK | dict(batch)} | overrides
        judge = open_judge(settings_for(server, **overrides), ledger=tmp_path / "ledger.sqlite", seed=0)
        return label_with(judge, pairs, lambda _: (helpfulness,)), judge.usage

    return labels


@pytest.fixture
def live(helpfulness, settings_for, tmp_path):
    """The labels that one request at a time gives."""

    def labels(server, pairs):
        return label(pairs, helpfulness, settings_for(server), ledger=tmp_path / "live.sqlite", seed=0)

    return labels


def same(verdicts, others) -> bool:
    return [(v.pair_id, v.p_first, v.bias) for v in verdicts] == [(v.pair_id, v.p_first, v.bias) for v in others]


@pytest.mark.slow
def test_a_batch_gives_the_labels_that_single_requests_give(run, live, pairs):
    with BatchServer() as server:
        verdicts, usage = run(server, pairs)
        assert server.received == 0 and len(server.batches) == 1 and server.lines == 60
        assert usage.usd == pytest.approx(60 * 0.5 * (100 * 1.0 + 10.0) / 1e6)
        assert same(verdicts, live(server, pairs))
        again, usage = run(server, pairs)
        assert again == verdicts and usage.recalled == 30 and len(server.batches) == 1


@pytest.mark.slow
def test_how_to_ask_is_found_out_by_one_live_question(run, pairs):
    with BatchServer() as server:
        verdicts, usage = run(server, pairs, logprobs="auto")
        assert server.received == 2 and server.lines == 58 and usage.method == "logprob"
        assert all(v.valid for v in verdicts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "files"),
    [({"max_requests": 25}, 3), ({"max_bytes": 30_000}, 3), ({"max_enqueued_tokens": 14_000, "max_requests": 10}, 6)],
)
def test_files_keep_within_the_limits(run, live, pairs, limit, files):
    open_at_once = []
    with BatchServer() as server:
        create = server._create

        def watch(body):
            made = create(body)
            open_at_once.append(
                sum(
                    len(server.files[b["input_file_id"]])
                    for b in server.batches.values()
                    if b["status"] == "in_progress"
                )
            )
            return made

        server._create = watch
        verdicts, _ = run(server, pairs, limit)
        assert same(verdicts, live(server, pairs)) and len(server.batches) == files and server.lines == 60
        sizes = [len(server.files[b["input_file_id"]]) for b in server.batches.values()]
        if "max_bytes" in limit:
            assert max(sizes) <= limit["max_bytes"]
        if "max_enqueued_tokens" in limit:
            assert max(open_at_once) / 3 <= limit["max_enqueued_tokens"]


@pytest.mark.slow
def test_a_run_can_stop_and_a_later_one_collects(run, live, pairs, tmp_path):
    with BatchServer(looks=10**9) as server:
        with pytest.raises(UserError, match=r"under way \(batch0\).*wait=0.05 s is over.*Run the same command later"):
            run(server, pairs, {"wait": 0.05})
        server.looks = 0
        server.batches["batch0"]["left"] = 0
        verdicts, _ = run(server, pairs)
        assert len(server.batches) == 1 and server.lines == 60 and same(verdicts, live(server, pairs))


@pytest.mark.slow
def test_a_batch_whose_number_was_never_learnt_is_found_by_its_name(run, live, pairs):
    with BatchServer() as server:
        server.die_after_create = True
        with pytest.raises(MachineError, match="no answer"):
            run(server, pairs, retries=0)
        server.die_after_create = False
        verdicts, _ = run(server, pairs)
        assert len(server.batches) == 1 and same(verdicts, live(server, pairs))


def test_a_batch_that_never_arrived_is_sent_again(run, pairs, tmp_path):
    with BatchServer() as server:
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            ledger.begin_batch("lost", [b"k" * 16], "test", "Qwen/Qwen2.5-7B-Instruct", "letter_by_logprobs", 10.0)
        verdicts, _ = run(server, pairs)
        assert all(v.valid for v in verdicts)
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            assert not ledger.on_its_way(b"k" * 16)


@pytest.mark.slow
def test_lines_that_expired_or_failed_in_passing_are_sent_again_and_only_they(run, live, pairs):
    def fate(n, body):
        return {3: "expired", 7: "server", 20: "expired", 61: "server"}.get(n)

    with BatchServer(fate) as server:
        verdicts, usage = run(server, pairs)
        assert server.lines == 64 and usage.retries == 4 and usage.requests == 60
        assert same(verdicts, live(server, pairs))


def test_a_line_that_is_refused_is_an_invalid_verdict(run, pairs):
    def fate(n, body):
        return "content_filter" if "Question 5?" in body["messages"][-1]["content"] else None

    with BatchServer(fate) as server:
        verdicts, _ = run(server, pairs)
        assert [(i, v.reason) for i, v in enumerate(verdicts) if not v.valid] == [(5, "rejected: no")]
        assert server.lines == 60


@pytest.mark.slow
def test_lines_that_never_succeed_are_given_up(run, pairs):
    with BatchServer(lambda n, body: "server" if "Question 5?" in body["messages"][-1]["content"] else None) as server:
        verdicts, _ = run(server, pairs)
        assert [(i, v.reason) for i, v in enumerate(verdicts) if not v.valid] == [(5, "not answered in time")]
        assert server.lines == 60 + 3 * 2


@pytest.mark.slow
def test_the_budget_holds_for_batches(run, pairs, tmp_path):
    with BatchServer() as server:
        with pytest.raises(UserError, match=r"feedback\.budget_usd=.* is reached"):
            run(server, pairs, {"max_requests": 10}, budget_usd=0.02)
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            assert 0 < ledger.spent() <= 0.02 and ledger.reserved() == 0


def test_joint_questions_go_by_batch_as_well(settings_for, principles, pairs, tmp_path):
    with BatchServer() as server:
        chosen, table = principles.chosen[:3], PairChunks.of(pairs[:4])
        settings = settings_for(server, logprobs="always", delivery="batch", batch=QUICK, mode="joint")
        judge = open_judge(settings, ledger=tmp_path / "l", seed=0, together=chosen)
        label_all(judge, table, chosen, tmp_path / "lock")
        assert server.lines == 8
        parts = [part for p in chosen for part in label_chunks(judge, table, lambda _, p=p: (p,))]
        assert all(part.valid.all() for part in parts) and judge.usage.requests == 8
        bodies = [json.loads(line) for line in next(iter(server.files.values())).splitlines()]
        assert len({row["custom_id"] for row in bodies}) == 8 and bodies[0]["url"] == "/v1/chat/completions"
