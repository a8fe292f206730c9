"""What is known of a server before a run: who answers there, and what would keep it from being asked."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading

import pytest
from chat_server import ChatServer
from servers import llama_cpp, ollama, public, vllm

from morlaif.feedback import reach
from morlaif.feedback.reach import look, server_problems
from morlaif.feedback.served import Served, allows, find, same


@pytest.fixture(autouse=True)
def _look_anew():
    reach._seen.clear()


def problems(settings, key="feedback", **more) -> list[str]:
    reach._seen.clear()
    found = list(server_problems(key, settings, **more))
    assert all("\n" not in line and line.startswith(f"{key}.") for line in found)
    return found


@pytest.mark.parametrize(
    ("asked", "name", "fits"),
    [
        ("gpt-x", "gpt-x", True), ("gpt-x", "gpt-x-2026-01-01", True), ("gpt-x", "GPT-X", True),
        ("model-latest", "model-2503", True), ("gpt-x-2026-01-01", "gpt-x-2026-01-01", True),
        ("qwen", "/models/qwen.gguf", True), ("qwen.gguf", "/models/qwen.gguf", True), ("a", "a:latest", True),
        ("org/model", "org/model@main", True), ("org/gpt-x", "gpt-x-2026-01-01", True),
        ("gpt-x", "gpt-x-mini", False), ("gpt-x", "gpt-x-7b", False), ("gpt-x-2026-01-01", "gpt-x-2025-01-01", False),
        ("gpt-x-2026-01-01", "gpt-x", False), ("one/model", "other/model", False), ("nonsense", "/m/qwen.gguf", False),
        ("a.b", "axb", False),
    ],
)  # fmt: skip
def test_names(asked, name, fits):
    assert same(asked, name) == fits == allows(asked, None, name)
    assert allows(asked, "any", name) and allows("else", (asked,), name) == fits


def test_what_tells_models_apart(server, settings_for):
    def id_of(model="qwen", **more) -> str:
        reach._seen.clear()
        return look(settings_for(server, model=model, **more)).served.id

    llama_cpp(server, "/models/qwen.gguf", size=485)
    first = id_of()
    assert first.startswith("qwen.gguf-") and id_of() == first and id_of("/models/qwen.gguf") == first
    llama_cpp(server, "/models/qwen.gguf", size=246)
    assert id_of() != first
    llama_cpp(server, "/models/qwen.gguf", template="another")
    assert id_of() != first
    llama_cpp(server, "/elsewhere/qwen.gguf")
    assert id_of() != first
    server.told["/props"] = (501, {})  # an older server, or one that shows less
    assert id_of().startswith("qwen.gguf-")
    server.told.clear()
    vllm(server, "judge", "org/one")
    one = id_of("judge")
    vllm(server, "judge", "org/two")
    assert one.startswith("judge-") and id_of("judge") != one
    server.told.clear()
    ollama(server, llama3="aa", other="bb")
    old = id_of("llama3")
    ollama(server, llama3="cc", other="bb")
    assert old and id_of("llama3") != old
    server.told.clear()
    public(server, "gpt-x", "gpt-x-mini")
    assert id_of("gpt-x") == ""  # the name is all that is told
    public(server, "whatever")
    renamed = id_of("gpt-x", model_alias="any")
    public(server, "another")
    assert renamed and id_of("gpt-x", model_alias="any") != renamed


def test_the_id_is_a_word_of_a_key():
    for name in ("/a b/c/ü=x,y.gguf", "...", "a" * 500, "日本"):
        id = Served(name, {"size": 1}).id
        assert id.isascii() and len(id) < 64 and set(id) <= set("abcdefghijklmnopqrstuvwxyz0123456789-._xy")


@pytest.mark.parametrize("models", [None, [], {}, {"data": None}, {"data": [1, {"id": 3}, {"id": " "}, {}]}, 7, "x"])
def test_lists_that_tell_nothing(models):
    assert find(models, "m", None, lambda path: None) is None


def test_a_model_that_is_not_served(server, settings_for):
    llama_cpp(server, "/models/qwen.gguf")
    (line,) = problems(settings_for(server, model="nonsense"))
    assert line.startswith("feedback.model='nonsense': the server at http://") and "serves '/models/qwen.gguf'" in line
    assert "feedback.model_alias=any" in line
    assert not problems(settings_for(server, model="nonsense", model_alias="any"))
    assert not problems(settings_for(server, model="nonsense", model_alias=["qwen"]))
    assert problems(settings_for(server, model="nonsense", model_alias=["gemma"]))
    assert not problems(settings_for(server, model="qwen"))
    public(server, "gpt-x", "gpt-x-mini", *(f"m{i}" for i in range(20)))
    (line,) = problems(settings_for(server, model="gpt-x-nano"), "eval.judge.engine")
    assert "Did you mean 'gpt-x-mini'?" in line and "and 16 more" in line
    assert line.startswith("eval.judge.engine.model='gpt-x-nano'")


def test_a_folder_that_a_server_loads_when_asked(server, settings_for):
    public(server, "org/cached")
    assert not problems(settings_for(server, model="/models/folder"))
    vllm(server, "judge", "org/one")  # it serves what it lists
    assert problems(settings_for(server, model="/models/folder"))


def test_the_variable_of_the_key(server, settings_for, monkeypatch):
    monkeypatch.delenv("MORLAIF_TEST_KEY", raising=False)
    settings = settings_for(server, api_key_env="MORLAIF_TEST_KEY")
    (line,) = problems(settings)
    assert line.startswith("feedback.api_key_env: the environment variable MORLAIF_TEST_KEY is not set")
    assert not server.looked
    for value in ("two\nlines", "schlüssel"):
        monkeypatch.setenv("MORLAIF_TEST_KEY", value)
        (line,) = problems(settings)
        assert "no key has" in line and value not in line


def test_a_key_that_is_refused(server, settings_for, monkeypatch):
    key = "sk-proj-0123456789abcdef"
    monkeypatch.setenv("MORLAIF_TEST_KEY", key)
    server.told["/v1/models"] = (401, {"error": {"message": f"Incorrect API key: {key}, sk-proj-****cdef"}})
    (line,) = problems(settings_for(server, api_key_env="MORLAIF_TEST_KEY"))
    assert "the key in MORLAIF_TEST_KEY was refused" in line and key not in line and "cdef" not in line
    (line,) = problems(settings_for(server, api_key_env=None))
    assert "the server wants a key" in line
    server.told["/v1/models"] = (403, {"error": {"message": "Missing scopes: model.read"}})
    assert not problems(settings_for(server))
    server.fault = lambda n, body: (403, {"message": "not for you"})  # questions too
    (line,) = problems(settings_for(server))
    assert "forbids it: the key in MORLAIF_TEST_KEY may not ask (not for you)" in line or "it wants a key" in line
    assert server.bodies[-1] == {}  # no question was paid for


@pytest.mark.parametrize("status", [500, 505, 520])
def test_a_server_that_is_ill_is_not_at_a_wrong_path(status, server, settings_for):
    public(server, "gpt-x")
    healthy = server.told["/v1/models"]
    server.told |= {"/v1/models": (status, {"error": {"message": "out of memory"}}), "/models": healthy}
    found = look(settings_for(server, model="gpt-x"))
    assert found.state == "away" and f"the server is ill, and answers {status} (out of memory)" in found.line


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_that_lists_no_models_is_asked(status, server, settings_for):
    server.told["/v1/models"] = (status, {"error": {"message": "no"}})
    assert look(settings_for(server)).state == "up" and not server.bodies


def test_addresses_where_nothing_answers(settings_for, server):
    with socket.socket() as taken:  # bound, and never listening
        taken.bind(("127.0.0.1", 0))
        gone = settings_for(server, base_url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        (line,) = problems(gone)
        assert "nothing listens there (connection refused)" in line
        assert not problems(gone, away_is_one=False)
    (line,) = problems(settings_for(server, base_url="http://no-such-host.invalid/v1"))
    assert "no host 'no-such-host.invalid' is known" in line or "no answer" in line


@pytest.mark.parametrize("how", ["hang", "drip"])
def test_servers_that_hang(how, server, settings_for):
    server.told["/v1/models"] = how
    found = look(settings_for(server), limit=0.3)
    assert found.state == "away" and "no answer within 0.3 s" in found.line


def test_one_that_closes_without_a_word(settings_for, server):
    def close_all(listening: socket.socket) -> None:
        while True:
            try:
                listening.accept()[0].close()
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=close_all, args=(listening,), daemon=True).start()
        address = f"//127.0.0.1:{listening.getsockname()[1]}/v1"
        (line,) = problems(settings_for(server, base_url=f"http:{address}"))
        assert "the connection was closed without an answer" in line and "https://" in line
        assert len(problems(settings_for(server, base_url=f"https:{address}"))) == 1


def test_https_where_http_is_spoken(server, settings_for):
    (line,) = problems(settings_for(server, base_url=server.base_url.replace("http:", "https:")))
    assert "Give http:// in place of https://" in line


@pytest.mark.parametrize("path", ["", "/", "/v1/chat/completions", "/v1/models", "/v1/v1", "/api"])
def test_wrong_paths(path, server, settings_for):
    public(server, "gpt-x")
    (line,) = problems(settings_for(server, model="gpt-x", base_url=server.base_url.removesuffix("/v1") + path))
    assert f"no such path at this server. Did you mean {server.base_url}?" in line
    server.told.clear()  # no list anywhere: it may still answer
    assert not problems(settings_for(server, model="gpt-x"))


def test_pages_and_redirects(server, settings_for):
    server.told["/v1/models"] = (200, b"<!DOCTYPE html><html><body>Sign in</body></html>")
    (line,) = problems(settings_for(server))
    assert "an HTML page in place of JSON" in line
    server.told["/v1/models"] = (200, b"[" * 100_000)
    assert "in place of JSON" in problems(settings_for(server))[0]
    server.told["/v1/models"] = (308, b"", {"location": "https://elsewhere.example/v1/models"})
    assert "redirects to https://elsewhere.example/v1. Give that address." in problems(settings_for(server))[0]


def test_money_that_is_spent(server, settings_for):
    server.told["/v1/models"] = (429, {"error": {"code": "insufficient_quota", "message": "You exceeded it"}})
    assert "no credit left (You exceeded it)" in problems(settings_for(server))[0]
    server.told["/v1/models"] = (429, {"error": {"code": "rate_limit_exceeded", "message": "slow down"}})
    assert not problems(settings_for(server))


def test_a_server_that_loads_is_no_problem(server, settings_for):
    server.told["/v1/models"] = (503, {"error": {"message": "Loading model", "code": 503}})
    assert not problems(settings_for(server))
    found = look(settings_for(server))
    assert found.state == "loading" and "not ready yet (503 Loading model)" in found.line


def test_proxies_carry_no_request_to_this_machine(server, settings_for, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://name:secret@127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    public(server, "gpt-x")
    assert not problems(settings_for(server, model="gpt-x"))
    (line,) = problems(settings_for(server, base_url="http://judge.example/v1"))
    assert "through the proxy http://127.0.0.1:9" in line and "secret" not in line


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://", "no address"), ("http://:80/v1", "no address"), ("http://a:99999/v1", "no address"),
        ("http://[::1/v1", "no address"), ("http://a b/v1", "no address"), ("http://u:p@a/v1", "name and password"),
        ("http://a/v1?x=1", "without '[?]'"), ("http://a:port/v1", "no address"),
    ],
)  # fmt: skip
def test_what_is_no_address(url, said, server, settings_for):
    with pytest.raises(ValueError, match=said):
        settings_for(server, base_url=url)


@pytest.mark.slow
def test_looking_needs_neither_torch_nor_a_client():
    heavy = "{'torch', 'openai', 'httpx2', 'numpy'}"
    code = f"import sys, morlaif.feedback.reach; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_one_run_looks_once(settings_for):
    with ChatServer() as server:
        public(server, "gpt-x")
        settings = settings_for(server, model="gpt-x")
        assert [look(settings).state for _ in range(3)] == ["up"] * 3 and len(server.looked) == 1
