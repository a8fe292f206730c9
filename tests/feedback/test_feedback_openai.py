"""The real client against a real server that misbehaves."""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from chat_server import POSITION_BIAS, ChatServer, judged_gap
from feedback_cases import make_pairs

from morlaif.data.records import Pair
from morlaif.errors import MachineError, UserError
from morlaif.feedback.arithmetic import soft_label
from morlaif.feedback.chat import retry_after
from morlaif.feedback.judge import open_judge
from morlaif.feedback.label import label, label_with
from morlaif.feedback.ledger import Ledger

KEY = "sk-test-0123456789abcdef"


def run(pairs, principle, settings, tmp_path, on_progress=None):
    judge = open_judge(settings, ledger=tmp_path / "ledger.sqlite", seed=0)
    return label_with(judge, pairs, lambda _: (principle,), on_progress), judge.usage


def expected(pair: Pair) -> tuple[float, float]:
    """The gaps in both orders that the server's rule gives."""

    def text(a: str, b: str) -> str:
        return f"\nOption A\n| {a}\n\nOption B\n| {b}\n"

    return judged_gap(text(pair.first, pair.second)), judged_gap(text(pair.second, pair.first))


def assert_labels(pairs, verdicts):
    for pair, verdict in zip(pairs, verdicts, strict=True):
        forward, backward = expected(pair)
        assert verdict.pair_id == pair.id and verdict.valid and verdict.reason is None
        assert (verdict.d_forward, verdict.d_backward) == pytest.approx((forward, backward))
        assert verdict.p_first == pytest.approx(soft_label(forward, backward))
        assert verdict.bias == pytest.approx(POSITION_BIAS)


def faulty(*faults):
    """The first requests fail as told, one after another; the rest go well."""
    told = iter(faults)
    return lambda n, body: next(told, None)


@pytest.mark.slow
def test_labels_from_log_probabilities_in_both_orders(server, pairs, helpfulness, settings_for, tmp_path):
    seen = []
    verdicts, usage = run(pairs, helpfulness, settings_for(server), tmp_path, lambda *a, **k: seen.append((a, k)))
    assert_labels(pairs, verdicts)
    assert server.received == 2 * len(pairs) and max(server.answered.values()) == 1
    assert usage.requests == 60 and usage.method == "logprob" and not usage.warnings
    assert usage.input_tokens == 6000 and usage.usd == pytest.approx(60 * (100 * 1.0 + 1 * 10.0) / 1e6)
    body = server.bodies[0]
    assert body["temperature"] == 0 and body["logprobs"] is True and body["top_logprobs"] == 20
    assert body["max_tokens"] == 1 and body["messages"][0]["role"] == "system"
    assert seen[-1][0] == (30, 30) and seen[-1][1]["usd"] == pytest.approx(usage.usd)
    assert 1 < server.most_in_flight <= 8


@pytest.mark.slow
def test_what_the_ledger_knows_is_never_asked_again(server, pairs, helpfulness, settings_for, tmp_path):
    first, _ = run(pairs[:20], helpfulness, settings_for(server), tmp_path)
    again, usage = run(pairs, helpfulness, settings_for(server), tmp_path)
    assert again[:20] == first
    assert server.received == 60 and usage.requests == 20 and usage.recalled == 20
    moved = settings_for(server, base_url="http://127.0.0.1:9/v1", timeout=1)  # not the address but the name counts
    assert run(pairs, helpfulness, moved, tmp_path)[0] == again
    run(pairs[:1], helpfulness, settings_for(server, model="another"), tmp_path)
    assert server.received == 62


def test_the_same_question_at_once_is_asked_once(server, pairs, helpfulness, settings_for, tmp_path):
    server.delay = 0.05
    comparisons = pairs[:2] * 5
    verdicts, usage = run(comparisons, helpfulness, settings_for(server), tmp_path)
    assert_labels(comparisons, verdicts)
    assert server.received == 4 == usage.requests


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        500, 503, (503, {}, {"retry-after": "0.01"}), 408, 409, "drop", "malformed", "truncated", ("hang", 6.0), "drip",
        (200, {}), (429, {}), (429, {}, {"retry-after": "0.02"}), (429, {}, {"retry-after-ms": "20"}),
    ],
)  # fmt: skip
def test_passing_trouble_passes(fault, pairs, helpfulness, settings_for, tmp_path):
    with ChatServer(faulty(None, fault, fault, fault)) as server:
        slow = fault == "drip" or (isinstance(fault, tuple) and fault[0] == "hang")
        timeout = 3.0 if slow else 30.0  # on a busy machine an answer may take a second
        verdicts, usage = run(pairs[:6], helpfulness, settings_for(server, timeout=timeout), tmp_path)
        assert_labels(pairs[:6], verdicts)
        assert server.received == 15 and usage.requests == 12 and usage.retries + usage.waits == 3


@pytest.mark.slow
def test_retry_after_is_obeyed_by_all(pairs, helpfulness, settings_for, tmp_path):
    with ChatServer(faulty(None, (429, {}, {"retry-after": "0.5"}))) as server:
        verdicts, usage = run(pairs[:10], helpfulness, settings_for(server, concurrency=2), tmp_path)
        assert_labels(pairs[:10], verdicts)
        assert usage.waits == 1
        gaps = [b - a for a, b in itertools.pairwise(server.times)]
        assert max(gaps) >= 0.49  # a silence of the whole client
        assert gaps.index(max(gaps)) <= 3


def test_retry_after_headers():
    assert retry_after({}) is None
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert retry_after({"retry-after": "-3"}) == 0.0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({"retry-after": "inf"}) is None
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    assert 25 < retry_after({"retry-after": later}) <= 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ((429, {"code": "insufficient_quota", "message": "You exceeded your quota"}), "no credit left"),
        ((429, {"type": "insufficient_quota"}), "no credit left"),
        (402, "no credit left"),
        ((401, {"code": "invalid_api_key", "message": f"Wrong API key: {KEY}"}), r"the key was refused.*MORLAIF_TEST"),
        ((400, {"message": "API key not valid."}), "the key was refused"),
        (403, "the key was refused"),
        ((404, {"code": "model_not_found", "message": "no model"}), r"no such model or address.*feedback\.model"),
        ((400, {"message": "Unknown field 'foo'"}), "refused with status 400.*Unknown field 'foo'"),
    ],
)
def test_what_cannot_be_mended_ends_at_once(fault, said, pairs, helpfulness, settings_for, tmp_path, monkeypatch):
    monkeypatch.setenv("MORLAIF_TEST_KEY", KEY)
    with ChatServer(lambda n, body: fault) as server:
        settings = settings_for(server, api_key_env="MORLAIF_TEST_KEY")
        with pytest.raises(UserError, match=said) as error:
            run(pairs, helpfulness, settings, tmp_path)
        assert server.received == 1
        assert "\n" not in str(error.value) and KEY not in str(error.value)
        assert settings.model in str(error.value)


@pytest.mark.slow
def test_the_end_of_the_credit_keeps_what_was_paid(pairs, helpfulness, settings_for, tmp_path):
    broke = (429, {"code": "insufficient_quota"})
    with ChatServer(lambda n, body: broke if n >= 25 else None, delay=0.01) as server:
        with pytest.raises(UserError, match="no credit left"):
            run(pairs, helpfulness, settings_for(server), tmp_path)
        assert server.received <= 25 + 2 * 8
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            assert len(ledger) == 25  # every good reply, also those on their way when the first refusal came
        server.fault = lambda n, body: None
        verdicts, _ = run(pairs, helpfulness, settings_for(server), tmp_path)
        assert_labels(pairs, verdicts)
        assert max(server.answered.values()) == 1 and len(server.answered) == 60


@pytest.mark.slow
def test_the_budget_is_a_hard_cap_over_all_runs(pairs, helpfulness, settings_for, tmp_path):
    cost = (100 * 1.0 + 10.0) / 1e6  # of one request
    with ChatServer() as server:
        for budget, most in ((30 * cost, 30), (30 * cost, 30), (45 * cost, 45)):
            with pytest.raises(UserError, match=r"feedback\.budget_usd=.* is reached: .*over all runs"):
                run(pairs, helpfulness, settings_for(server, budget_usd=budget), tmp_path)
            assert most - 15 < server.received <= most
            with Ledger(tmp_path / "ledger.sqlite") as ledger:
                assert ledger.spent() <= budget and len(ledger) == server.received
        verdicts, _ = run(pairs, helpfulness, settings_for(server, budget_usd=100 * cost), tmp_path)
        assert_labels(pairs, verdicts)
        assert server.received == 60


def test_a_limit_that_never_lifts(pairs, helpfulness, settings_for, tmp_path):
    with ChatServer(lambda n, body: (429, {}, {"retry-after": "3"})) as server:
        with pytest.raises(UserError, match=r"rate limited for longer than feedback\.patience=1 s"):
            run(pairs, helpfulness, settings_for(server, patience=1), tmp_path)
        assert server.received == 1


def test_a_server_that_is_not_there(server, pairs, helpfulness, settings_for, tmp_path):
    nowhere = settings_for(server, base_url="http://127.0.0.1:9/v1")
    with pytest.raises(MachineError, match=r"no answer after 5 tries.*Check that the server runs"):
        run(pairs, helpfulness, nowhere, tmp_path)


def test_a_missing_key_is_named_before_anything_is_sent(
    server, pairs, helpfulness, settings_for, tmp_path, monkeypatch
):
    monkeypatch.delenv("MORLAIF_TEST_KEY", raising=False)
    with pytest.raises(UserError, match="environment variable MORLAIF_TEST_KEY is not set"):
        run(pairs, helpfulness, settings_for(server, api_key_env="MORLAIF_TEST_KEY"), tmp_path)
    assert server.received == 0


def test_the_key_is_sent_and_written_nowhere(server, pairs, helpfulness, settings_for, tmp_path, monkeypatch):
    monkeypatch.setenv("MORLAIF_TEST_KEY", KEY + "\n")
    run(pairs[:5], helpfulness, settings_for(server, api_key_env="MORLAIF_TEST_KEY"), tmp_path)
    assert server.authorization == {f"Bearer {KEY}"}
    assert KEY not in json.dumps(server.bodies)
    assert all(KEY.encode() not in file.read_bytes() for file in Path(tmp_path).rglob("*") if file.is_file())


@pytest.mark.slow
def test_without_log_probabilities_votes_are_taken_and_it_is_reported(
    pairs, helpfulness, settings_for, tmp_path, caplog
):
    with ChatServer(logprobs=False) as server, caplog.at_level(logging.WARNING):
        settings = settings_for(server, votes=4)
        verdicts, usage = run(pairs[:10], helpfulness, settings, tmp_path)
        assert server.received == 1 + 2 * 4 * 10  # one to find out
        assert usage.method == "vote" and len(usage.warnings) == 1
        assert "gives no log-probabilities: labels come from 4 sampled letters" in caplog.text
        allowed = [math.log((a + 0.5) / (4 - a + 0.5)) for a in range(5)]
        assert all(v.valid and min(abs(v.d_forward - x) for x in allowed) < 1e-9 for v in verdicts)
        decided = [(v, p) for v, p in zip(verdicts, pairs, strict=False) if abs(expected(p)[0]) > 2]
        assert sum((v.p_first - 0.5) * expected(p)[0] > 0 for v, p in decided) >= 0.8 * len(decided) > 0
        assert "logprobs" not in server.bodies[-1] and server.bodies[-1]["temperature"] == 1.0
        again, usage = run(pairs[:10], helpfulness, settings, tmp_path)
        assert again == verdicts and usage.requests == 0 and server.received == 81


@pytest.mark.slow
def test_a_model_that_refuses_log_probabilities(pairs, helpfulness, settings_for, tmp_path):
    def fault(n, body):
        return (400, {"message": "logprobs is not supported with this model"}) if "logprobs" in body else None

    with ChatServer(fault) as server:
        verdicts, usage = run(pairs[:4], helpfulness, settings_for(server, votes=1), tmp_path)
        assert usage.method == "vote" and all(v.valid for v in verdicts) and server.received == 9
        with pytest.raises(UserError, match=r"feedback\.logprobs=never"):
            run(pairs[:4], helpfulness, settings_for(server, logprobs="always", model="other"), tmp_path)


@pytest.mark.slow
def test_unusable_replies_are_invalid_and_counted(pairs, helpfulness, settings_for, tmp_path):
    def fault(n, body):
        text = body["messages"][-1]["content"]
        return "refusal" if "Question 3?" in text else "chatter" if "Question 4?" in text else None

    with ChatServer(fault) as server:
        verdicts, _ = run(pairs, helpfulness, settings_for(server), tmp_path)
        assert [v.reason for v in verdicts if not v.valid] == ["refusal", "no letter"]
        bad = verdicts[3]
        assert bad.p_first is None and bad.bias is None and bad.d_forward is None
        assert_labels(pairs[:3] + pairs[5:], verdicts[:3] + verdicts[5:])
        run(pairs, helpfulness, settings_for(server), tmp_path)
        assert server.received == 60  # known to be unusable
        server.fault = lambda n, body: None
        mended, _ = run(pairs, helpfulness, settings_for(server, ask_again=True), tmp_path)
        assert_labels(pairs, mended)
        assert server.received == 64


@pytest.mark.slow
def test_a_refusal_at_the_start_tells_nothing_about_log_probabilities(pairs, helpfulness, settings_for, tmp_path):
    with ChatServer(faulty("refusal", (400, {"code": "content_filter", "message": "no"}))) as server:
        verdicts, usage = run(pairs, helpfulness, settings_for(server), tmp_path)
        assert sorted(v.reason for v in verdicts if not v.valid) == ["refusal", "rejected: no"]
        assert usage.method == "logprob" and server.received == 58


@pytest.mark.slow
@pytest.mark.parametrize(
    ("question", "error"),
    [
        (5, {"code": "context_length_exceeded", "message": "too long"}),
        (0, {"code": 400, "message": "This model's maximum context length is 2048 tokens. However"}),  # vLLM
        (0, {"code": 400, "message": "the request exceeds the available context size"}),  # llama.cpp
    ],
)
def test_one_question_that_the_server_will_not_take(pairs, helpfulness, settings_for, tmp_path, question, error):
    """It is left out, even if it is the first that is asked."""

    def fault(n, body):
        return (400, error) if f"Question {question}?" in body["messages"][-1]["content"] else None

    with ChatServer(fault) as server:
        verdicts, _ = run(pairs, helpfulness, settings_for(server), tmp_path)
        found = [(i, v.reason) for i, v in enumerate(verdicts) if not v.valid]
        assert found == [(question, f"rejected: {error['message']}")]


@pytest.mark.slow
def test_too_few_valid_verdicts_stop_the_work(helpfulness, settings_for, tmp_path):
    with ChatServer(lambda n, body: "chatter" if n % 3 else None) as server:
        with pytest.raises(UserError, match=r"only \d+ of 100 verdicts are valid .*× no letter.*min_validity=0.5"):
            run(make_pairs(400), helpfulness, settings_for(server), tmp_path)
        assert server.received < 250


def test_it_works_inside_a_running_event_loop(server, pairs, helpfulness, settings_for, tmp_path):
    import asyncio

    async def notebook():
        return label(pairs[:3], helpfulness, settings_for(server), ledger=tmp_path / "l", seed=0)

    assert_labels(pairs[:3], asyncio.run(notebook()))


def test_closing_the_stream_early_stops_asking(server, helpfulness, settings_for, tmp_path):
    from morlaif.feedback.records import Comparison

    server.delay = 0.01
    judge = open_judge(settings_for(server), ledger=tmp_path / "l", seed=0)
    stream = judge.judge(Comparison.of(pair, helpfulness) for pair in make_pairs(200))
    next(stream)
    stream.close()
    assert server.received < 60


CLIENT = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from feedback_cases import make_pairs
from morlaif.feedback.label import label
from morlaif.feedback.settings import OpenAISettings, Principle
settings = OpenAISettings.model_validate_json(sys.argv[2])
principle = Principle.model_validate_json(sys.argv[3])
print("begin", flush=True)
label(make_pairs(60), principle, settings, ledger=Path(sys.argv[4]), seed=0)
print("done", flush=True)
"""


@pytest.mark.slow
def test_without_a_detached_client_a_kill_costs_at_most_what_was_on_its_way(helpfulness, settings_for, tmp_path):
    with ChatServer(delay=0.03) as server:
        settings = settings_for(server, concurrency=6, timeout=20)
        here = str(Path(__file__).parent)
        arguments = [here, settings.model_dump_json(), helpfulness.model_dump_json(), str(tmp_path / "ledger.sqlite")]
        for enough in (20, 65):
            process = subprocess.Popen([sys.executable, "-c", CLIENT, *arguments], stdout=subprocess.PIPE, text=True)
            while server.received < enough and process.poll() is None:
                time.sleep(0.002)
            with server.lock:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
            process.stdout.close()
            deadline = time.monotonic() + 5
            while server.in_flight and time.monotonic() < deadline:
                time.sleep(0.005)
        pairs = make_pairs(60)
        verdicts, usage = run(pairs, helpfulness, settings, tmp_path)
        assert_labels(pairs, verdicts)
        twice = Counter(count for count in server.answered.values())
        assert len(server.answered) == 120
        # asked again: at most what was in flight at each of the two kills
        assert sum(server.answered.values()) - 120 <= 2 * 6 and max(twice) <= 3
        assert usage.recalled > 15
        unbroken, _ = run(pairs, helpfulness, settings, tmp_path / "other")
        assert unbroken == verdicts


@pytest.mark.slow
def test_with_a_detached_client_kills_cost_nothing_at_all(helpfulness, settings_for, tmp_path):
    """Replies on their way when the run is killed still reach the ledger: not one request beyond the ideal."""
    with ChatServer(delay=0.05) as server:
        settings = settings_for(server, concurrency=6, timeout=20, survive_kill=True)
        here = str(Path(__file__).parent)
        arguments = [here, settings.model_dump_json(), helpfulness.model_dump_json(), str(tmp_path / "ledger.sqlite")]
        for enough in (15, 65):
            process = subprocess.Popen([sys.executable, "-c", CLIENT, *arguments], stdout=subprocess.PIPE, text=True)
            while server.received < enough and process.poll() is None:
                time.sleep(0.002)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
        pairs = make_pairs(60)
        verdicts, usage = run(pairs, helpfulness, settings, tmp_path)
        assert server.received == 120 == len(server.answered) and set(server.answered.values()) == {1}
        assert_labels(pairs, verdicts)
        assert usage.requests < 60
        unbroken, _ = run(pairs, helpfulness, settings_for(server), tmp_path / "other")
        assert unbroken == verdicts


@pytest.mark.slow
def test_two_processes_at_once_ask_each_question_once(helpfulness, settings_for, tmp_path):
    with ChatServer(delay=0.02) as server:
        settings = settings_for(server, concurrency=6)
        here = str(Path(__file__).parent)
        arguments = [here, settings.model_dump_json(), helpfulness.model_dump_json(), str(tmp_path / "ledger.sqlite")]
        command = [sys.executable, "-c", CLIENT, *arguments]
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        assert [process.communicate(timeout=60)[0] for process in both] == ["begin\ndone\n"] * 2
        # one more to find out how to ask, perhaps
        assert server.received <= 121 and set(server.answered.values()) == {1}


def test_an_answer_that_another_process_wrote_right_after_the_look_is_not_asked_for_again(
    server, pairs, helpfulness, settings_for, tmp_path, monkeypatch
):
    settings = settings_for(server)
    verdicts, _ = run(pairs, helpfulness, settings, tmp_path / "theirs")
    received = server.received
    look, seen = Ledger.get, set()
    theirs = Ledger(tmp_path / "theirs" / "ledger.sqlite")

    def look_just_before_it_is_written(ledger, key):
        found = look(ledger, key)
        if found is None and ledger is not theirs and key not in seen:
            seen.add(key)
            with Ledger(ledger.path) as other:
                other.put(key, "openai", settings.who, look(theirs, key), theirs.raw(key))
        return found

    monkeypatch.setattr(Ledger, "get", look_just_before_it_is_written)
    again, usage = run(pairs, helpfulness, settings, tmp_path / "ours")
    assert len(seen) == 2 * len(pairs) and server.received == received and usage.requests == 0
    assert again == verdicts


@pytest.mark.slow
@pytest.mark.parametrize("fault", [(401, {"message": "no"}), (429, {"code": "insufficient_quota"})])
def test_a_detached_client_brings_bad_news_in_the_same_words(
    fault, server, pairs, helpfulness, settings_for, tmp_path, caplog
):
    server.fault = lambda n, body: fault if n > 20 else None
    said = []
    for survive in (True, False):
        server.received = 0
        with pytest.raises(UserError) as error:
            run(pairs, helpfulness, settings_for(server, survive_kill=survive), tmp_path / str(survive))
        said.append(str(error.value))
    assert said[0] == said[1]


@pytest.mark.slow
def test_a_detached_client_tells_of_votes_and_counters(pairs, helpfulness, settings_for, tmp_path, caplog):
    with ChatServer(logprobs=False) as server, caplog.at_level(logging.WARNING):
        verdicts, usage = run(pairs[:5], helpfulness, settings_for(server, votes=2, survive_kill=True), tmp_path)
        assert usage.method == "vote" and usage.requests == server.received == 21 and usage.usd > 0
        assert "gives no log-probabilities" in caplog.text and all(v.valid for v in verdicts)


@pytest.mark.slow
def test_the_budget_is_shared_by_processes_and_forgets_the_dead(server, pairs, helpfulness, settings_for, tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        gone = subprocess.Popen(["true"])
        gone.wait()
        owner = f"{os.uname().nodename} {gone.pid} x"
        assert ledger.reserve(owner, 0.9, 1.0, stale=60) and not ledger.reserve("other 1 y", 0.2, 1.0, stale=60)
        assert ledger.reserved() == 0.9
    verdicts, _ = run(pairs, helpfulness, settings_for(server, budget_usd=1.0), tmp_path)
    assert_labels(pairs, verdicts)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.reserved() == 0
        assert ledger.reserve("elsewhere 1 y", 0.5, 1.0, stale=60)
        assert ledger.reserve("elsewhere 2 y", 0.9, 1.0, stale=-1)  # forgotten, since it is older than that


@pytest.mark.slow
def test_a_killed_run_spends_nothing_more(helpfulness, settings_for, tmp_path):
    """Though all there is to ask has reached the client, it stops when the run is gone."""
    with ChatServer(delay=0.05) as server:
        settings = settings_for(server, concurrency=4, survive_kill=True)
        here = str(Path(__file__).parent)
        arguments = [here, settings.model_dump_json(), helpfulness.model_dump_json(), str(tmp_path / "ledger.sqlite")]
        process = subprocess.Popen([sys.executable, "-c", CLIENT, *arguments], stdout=subprocess.PIPE)
        while server.received < 10:
            time.sleep(0.002)
        process.kill()
        process.wait()
        process.stdout.close()
        time.sleep(1.0)
        assert server.received <= 10 + 2 * 8 and server.in_flight == 0


@pytest.mark.slow
def test_closing_the_stream_of_a_detached_client_early_stops_it(server, helpfulness, settings_for, tmp_path):
    from morlaif.feedback.records import Comparison

    server.delay = 0.02
    judge = open_judge(settings_for(server, survive_kill=True), ledger=tmp_path / "l", seed=0)
    stream = judge.judge(Comparison.of(pair, helpfulness) for pair in make_pairs(3000))
    next(stream)
    stream.close()
    assert server.received < 100 and server.in_flight == 0


def test_an_error_in_what_is_to_be_asked_comes_through_a_detached_client(server, helpfulness, settings_for, tmp_path):
    from morlaif.feedback.records import Comparison

    def comparisons():
        yield from (Comparison.of(pair, helpfulness) for pair in make_pairs(5))
        raise UserError("the pairs end here")

    judge = open_judge(settings_for(server, survive_kill=True), ledger=tmp_path / "l", seed=0)
    with pytest.raises(UserError, match="the pairs end here"):
        list(judge.judge(comparisons()))
