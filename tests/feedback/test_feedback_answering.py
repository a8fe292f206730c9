"""Verdicts belong to the model that gave them, whatever stands at the address now."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path

import pytest
from chat_server import ChatServer
from servers import llama_cpp, public, vllm

from morlaif.errors import MachineError, UserError
from morlaif.feedback import reach
from morlaif.feedback.answering import settle
from morlaif.feedback.judge import open_judge
from morlaif.feedback.label import label_with
from morlaif.feedback.ledger import Ledger


def run(pairs, principle, settings, ledger, **more):
    reach._seen.clear()
    judge = open_judge(settings, ledger=ledger, seed=0, **more)
    return label_with(judge, pairs, lambda _: (principle,)), judge.usage


@pytest.fixture
def ledger(tmp_path) -> Path:
    reach._seen.clear()
    return tmp_path / "ledger.sqlite"


@pytest.mark.slow
@pytest.mark.parametrize("survive", [False, True])
def test_another_model_behind_the_address_has_none_of_the_verdicts(
    survive, server, pairs, helpfulness, settings_for, ledger
):
    settings = settings_for(server, model="judge", model_alias="any", survive_kill=survive)
    llama_cpp(server, "/models/one.gguf", size=485)
    first, usage = run(pairs[:4], helpfulness, settings, ledger)
    assert server.received == 8 and usage.served["name"] == "/models/one.gguf" and usage.served["size"] == 485
    llama_cpp(server, "/models/two.gguf", size=246)
    _, usage = run(pairs[:4], helpfulness, settings, ledger)
    assert usage.recalled == 0 and server.received == 16 and usage.served["size"] == 246
    llama_cpp(server, "/models/one.gguf", size=485)
    again, usage = run(pairs[:4], helpfulness, settings, ledger)
    assert again == first and usage.recalled == 4 and server.received == 16


@pytest.mark.slow
def test_the_same_name_with_other_weights(server, pairs, helpfulness, settings_for, ledger):
    vllm(server, "judge", "org/one")
    run(pairs[:2], helpfulness, settings_for(server, model="judge"), ledger)
    vllm(server, "judge", "org/two")
    _, usage = run(pairs[:2], helpfulness, settings_for(server, model="judge"), ledger)
    assert server.received == 8 and usage.served["root"] == "org/two"


@pytest.mark.parametrize("cached", [False, True])
def test_a_name_that_is_not_served_ends_at_once(cached, server, pairs, helpfulness, settings_for, ledger):
    llama_cpp(server, "/models/qwen.gguf")
    settings = settings_for(server, model="qwen")
    if cached:
        run(pairs[:2], helpfulness, settings, ledger)
        llama_cpp(server, "/models/gemma.gguf")
    sent = server.received
    with pytest.raises(UserError, match=r"feedback\.model='\w+': the server at .* serves '/models/\w+\.gguf'") as error:
        run(pairs[:2], helpfulness, settings if cached else settings_for(server, model="nonsense"), ledger)
    assert server.received == sent
    if cached:  # what is known of the other can still be taken, if that is what is meant
        pinned = str(error.value).split("feedback.served=")[1].split()[0]
        assert run(pairs[:2], helpfulness, settings_for(server, model="qwen", served=pinned, model_alias="any"), ledger)


@pytest.mark.slow
def test_replies_under_another_name(server, pairs, helpfulness, settings_for, ledger):
    """Where the server lists nothing, its replies tell."""
    server.calls_itself = "other-model"
    settings = settings_for(server, model="judge")
    with pytest.raises(UserError, match=r"answers as 'other-model'.*feedback\.model_alias='\[other-model\]'"):
        run(pairs, helpfulness, settings, ledger)
    with Ledger(ledger) as opened:
        assert len(opened) == 0 and opened.spent() > 0  # nothing kept, and what it cost is counted
    allowed = settings_for(server, model="judge", model_alias=["other-model"])
    _, usage = run(pairs[:2], helpfulness, allowed, ledger)
    assert usage.served["name"] == "other-model"


@pytest.mark.slow
def test_a_change_in_the_middle_of_a_run(server, pairs, helpfulness, settings_for, ledger):
    def fault(n, body):
        server.calls_itself = f"gpt-x-2026-0{1 + (n >= 9)}-01"

    server.fault = fault
    settings = settings_for(server, model="gpt-x", concurrency=1)
    with pytest.raises(UserError, match=r"answers as 'gpt-x-2026-02-01' now, .* by 'gpt-x-2026-01-01'"):
        run(pairs, helpfulness, settings, ledger)
    assert server.received == 10
    with Ledger(ledger) as opened:
        assert len(opened) == 9
    # a later run finds the same, and the dated name goes on with none of the other's verdicts
    with pytest.raises(UserError, match="by 'gpt-x-2026-01-01'"):
        run(pairs, helpfulness, settings, ledger)
    _, usage = run(pairs[:2], helpfulness, settings_for(server, model="gpt-x-2026-02-01"), ledger)
    assert usage.recalled == 0
    both = settings_for(server, model="gpt-x", model_alias=["gpt-x-2026-01-01", "gpt-x-2026-02-01"])
    run(pairs[:8], helpfulness, both, ledger)


@pytest.mark.slow
def test_a_dated_name_is_the_name_itself(server, pairs, helpfulness, settings_for, ledger):
    public(server, "gpt-x", "gpt-x-mini")
    server.calls_itself = "gpt-x-2026-01-01"
    _, usage = run(pairs[:2], helpfulness, settings_for(server, model="gpt-x"), ledger)
    assert usage.served["name"] == "gpt-x-2026-01-01" and usage.served["id"] is None
    server.calls_itself = "gpt-x"  # some gateways give now the one, now the other
    run(pairs[:4], helpfulness, settings_for(server, model="gpt-x"), ledger)
    assert server.received == 8


@pytest.mark.slow
def test_a_server_that_is_gone_leaves_what_it_answered(pairs, helpfulness, settings_for, ledger):
    with ChatServer() as server:
        llama_cpp(server, "/models/one.gguf")
        settings = settings_for(server, model="one")
        first, _ = run(pairs[:3], helpfulness, settings, ledger)
    again, usage = run(pairs[:3], helpfulness, settings, ledger)
    assert again == first and usage.recalled == 3
    assert len(usage.warnings) == 1 and "Going on with what is known of one.gguf-" in usage.warnings[0]
    with pytest.raises(MachineError, match=r"feedback\.patience=0\.5 s"):
        run(pairs[:4], helpfulness, settings_for(server, model="one", patience=0.5), ledger)


@pytest.mark.slow
def test_a_silent_server_with_two_models_behind_it(pairs, helpfulness, settings_for, ledger):
    with ChatServer() as server:
        settings = settings_for(server, model="judge", model_alias="any")
        for name in ("one", "two"):
            llama_cpp(server, f"/models/{name}.gguf")
            run(pairs[:2], helpfulness, settings, ledger)
    models = r"verdicts of 2 models .*\(one\.gguf-\w+, two\.gguf-\w+\): feedback\.served="
    with pytest.raises(UserError, match=models) as e:
        run(pairs[:2], helpfulness, settings, ledger)
    name = str(e.value).split("(one")[1].split(",")[0]
    _, usage = run(pairs[:2], helpfulness, settings.model_copy(update={"served": f"one{name}"}), ledger)
    assert usage.recalled == 2


@pytest.mark.slow
@pytest.mark.parametrize("paid", [True, False])
def test_answers_from_before_servers_were_asked(paid, server, pairs, helpfulness, settings_for, ledger):
    price = {"input": 1.0, "output": 1.0} if paid else {"input": 0.0, "output": 0.0}
    settings = settings_for(server, model="judge", model_alias="any", price=price)
    run(pairs[:3], helpfulness, settings, ledger)  # the server tells nothing, as none was asked then
    vllm(server, "judge", "org/one")
    _, usage = run(pairs[:3], helpfulness, settings, ledger)
    assert server.received == (6 if paid else 12) and usage.recalled == (3 if paid else 0)
    assert paid or "from before servers were asked" in usage.warnings[0]
    vllm(server, "judge", "org/two")  # they were the other's
    _, usage = run(pairs[:3], helpfulness, settings, ledger)
    assert usage.recalled == 0
    vllm(server, "judge", "org/one")
    _, usage = run(pairs[:3], helpfulness, settings, ledger)
    assert usage.recalled == 3


def test_what_a_plan_knows_and_what_a_run_finds(server, pairs, helpfulness, settings_for, ledger):
    llama_cpp(server, "/models/one.gguf")
    planned = settle(settings_for(server, model="judge", model_alias="any"), ledger)
    assert planned.served.startswith("one.gguf-")
    llama_cpp(server, "/models/two.gguf")
    with pytest.raises(UserError, match=r"model answers there now: two\.gguf-\w+, where one\.gguf-\w+ is meant"):
        run(pairs[:2], helpfulness, planned, ledger)
    assert server.received == 0
    server.told.clear()
    reach._seen.clear()
    assert settle(settings_for(server), ledger).served == ""  # asked, and not told
    vllm(server, "Qwen/Qwen2.5-7B-Instruct", "org/one")
    with pytest.raises(UserError, match="names its model only now"):
        run(pairs[:2], helpfulness, settings_for(server, served=""), ledger)


@pytest.mark.slow
def test_a_server_that_loads_is_waited_for_where_that_helps(server, settings_for, ledger):
    server.told["/v1/models"] = (503, {"error": {"message": "Loading model"}})
    heard: list[str] = []
    assert settle(settings_for(server, model="one"), ledger, say=heard.append).served == ""

    def loaded() -> None:
        llama_cpp(server, "/models/one.gguf")

    reach._seen.clear()
    threading.Timer(0.3, loaded).start()
    settled = settle(settings_for(server, model="one"), ledger, patience=30, say=heard.append)
    assert settled.served.startswith("one.gguf-")
    assert "503 Loading model); waiting, for 30 s at most" in heard[-1]


def test_the_digest_holds_who_answers(server, settings_for):
    from morlaif.settings import identity

    plain = identity(settings_for(server))
    assert "served" not in plain and plain == identity(settings_for(server, served=""))
    assert identity(settings_for(server, served="one-12")) != plain
    assert identity(settings_for(server, model_alias="any")) == plain


def restarted(server: ChatServer, away: float, tell) -> ChatServer:
    """Another server at the same port, after a while, that loads for a while."""
    port = server.port
    server.kill()
    time.sleep(away)
    again = ChatServer(port=port)
    again.fault = lambda n, body: (503, {"message": "Loading model"}) if not again.told.get("/props") else None
    again.told["/v1/models"] = (503, {"error": {"message": "Loading model"}})
    threading.Timer(away, lambda: tell(again)).start()
    return again


@pytest.mark.slow
@pytest.mark.parametrize("survive", [False, True])
@pytest.mark.parametrize("other", [False, True])
def test_a_restart_in_the_middle(survive, other, helpfulness, pairs, settings_for, ledger):
    """The run waits, and goes on if the same model has come back; another one ends it before it is asked anything."""
    servers = [ChatServer(delay=0.05)]
    llama_cpp(servers[0], "/models/one.gguf")
    settings = settings_for(servers[0], model="judge", model_alias="any", survive_kill=survive, patience=30, retries=1)

    def restart() -> None:
        while servers[0].received < 20:
            time.sleep(0.01)
        tell = lambda server: llama_cpp(server, f"/models/{'two' if other else 'one'}.gguf")  # noqa: E731
        servers.append(restarted(servers[0], 0.5, tell))

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        if other:
            with pytest.raises(UserError, match=r"another model answers there now: two\.gguf"):
                run(pairs, helpfulness, settings, ledger)
            assert not servers[1].answered
        else:
            verdicts, usage = run(pairs, helpfulness, settings, ledger)
            assert all(verdict.valid for verdict in verdicts) and usage.retries > 0
    finally:
        thread.join()
        for server in servers[1:]:
            server.close()


@pytest.mark.slow
def test_what_one_unit_has_reached_another_waits_for(helpfulness, pairs, settings_for, ledger):
    """A unit that has not reached the server itself gives it as long as one that has."""
    server = ChatServer()
    settings = settings_for(server, patience=30, retries=1)
    run(pairs[:2], helpfulness, settings, ledger)
    port = server.port
    server.kill()
    again: list[ChatServer] = []
    timer = threading.Timer(0.3, lambda: again.append(ChatServer(port=port)))
    timer.start()
    verdicts, usage = run(pairs[:4], helpfulness, settings, ledger)
    assert all(verdict.valid for verdict in verdicts) and usage.retries > 0
    again[0].close()


@pytest.mark.slow
def test_loading_gets_all_patience_even_before_the_first_answer(helpfulness, pairs, settings_for, ledger):
    with ChatServer(lambda n, body: (503, {"message": "Loading model"}) if n < 6 else None) as server:
        verdicts, usage = run(pairs[:2], helpfulness, settings_for(server, retries=0, patience=30), ledger)
        assert all(verdict.valid for verdict in verdicts) and usage.retries == 6
    said = r"away or not ready .*patience=1 s \(Loading model\).*is kept"
    server = ChatServer(lambda n, body: (503, {"message": "Loading model"}, {"retry-after": "9"}))
    with server, pytest.raises(MachineError, match=said):
        run(pairs[:2], helpfulness, settings_for(server, patience=1), ledger.with_name("other"))


def test_what_time_outs_say(helpfulness, pairs, settings_for, ledger):
    with ChatServer(lambda n, body: "hang") as server:
        settings = settings_for(server, timeout=0.3, retries=1)
        said = r"2 tries of feedback\.timeout=0\.3 s.*feedback\.concurrency=8.*max_tokens"
        with pytest.raises(MachineError, match=said):
            run(pairs[:1], helpfulness, settings, ledger)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ((307, {}, {"location": "https://b.example/v1/chat/completions"}), "redirects to https://b.example/v1. Give"),
        ("page", r"a page of HTML in place of JSON.*feedback\.base_url"),
        ((404, {"message": "File Not Found"}), r"want /v1 at its end"),
        ((407, {"message": "no"}), "the proxy wants a name and password"),
    ],
)
def test_what_no_waiting_mends_is_reported_at_once(fault, said, helpfulness, pairs, settings_for, ledger):
    with ChatServer(lambda n, body: fault) as server:
        with pytest.raises(UserError, match=said) as error:
            run(pairs, helpfulness, settings_for(server), ledger)
        assert server.received == 1 and "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["deep", "huge", "tokens", "empty", "list", "content", "usage", "high", "none", "long"]
)
def test_replies_of_all_kinds_of_nonsense(name, helpfulness, pairs, settings_for, ledger):
    """One line in the end, or the next try's good answer; never another error."""
    choice = {"message": {"role": "assistant", "content": "A"}}
    bodies = {
        "deep": b"[" * 200_000,
        "huge": json.dumps({"choices": [choice], "usage": {"prompt_tokens": 10**30}}).encode(),
        "tokens": b'{"choices": [{"message": {"content": "A"}}], "usage": {"prompt_tokens": 1e999}}',
        "empty": b'{"choices": []}',
        "list": b"[1, 2]",
        "content": json.dumps({"choices": [{"message": {"content": 7}}]}).encode(),
        "usage": json.dumps({"choices": [choice], "usage": "much"}).encode(),
        "high": b'{"choices": [{"message": {}, "logprobs": {"content": [{"token": "A", "logprob": "x"}]}}]}',
        "none": b"{}",
        "long": b" " * (17 << 20),
    }
    with ChatServer(lambda n, body: ("raw", bodies[name]) if n < 2 else None) as server:
        verdicts, usage = run(pairs[:1], helpfulness, settings_for(server), ledger)
        assert verdicts[0].valid and usage.retries == 2
    said = r"no usable answer after 2 tries \(unreadable reply.*feedback\.base_url"
    if name == "long":
        said = r"no usable answer after 2 tries \(a reply of more than 16 MiB.*feedback\.base_url"
    with ChatServer(lambda n, body: ("raw", bodies[name])) as server, pytest.raises(UserError, match=said) as told:
        run(pairs[:1], helpfulness, settings_for(server, retries=1), ledger.with_name("other"))
    assert not re.search("(Key|Type|Index|Attribute|Value|Recursion)Error|Traceback", str(told.value))


@pytest.mark.slow
def test_a_batch_of_another_model_stays_to_be_collected(pairs, helpfulness, settings_for, ledger):
    from batch_server import BatchServer

    with BatchServer() as server:
        public(server, "gpt-x")
        batch = {"discount": 0.5, "max_requests": 100, "max_bytes": 10**6, "max_enqueued_tokens": None, "poll": 0.01}
        batch |= {"wait": None, "rounds": 2}
        settings = settings_for(server, model="gpt-x", delivery="batch", batch=batch, logprobs="always")
        server.calls_itself = "other"
        with pytest.raises(UserError, match="answers as 'other'"):
            run(pairs[:3], helpfulness, settings, ledger)
        sent = len(server.batches)
        allowed = settings.model_copy(update={"model_alias": ("other",)})
        verdicts, _ = run(pairs[:3], helpfulness, allowed, ledger)
        assert all(verdict.valid for verdict in verdicts) and len(server.batches) == sent == 1
