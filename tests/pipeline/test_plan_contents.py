"""What lies outside a run stands in its digests by content: models, judges, policies, functions, hub ids."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from composed import config

from morlaif.models import fingerprint
from morlaif.models.fingerprint import Commit
from morlaif.planning.contents import FILE, SPOKEN, Contents
from morlaif.planning.plan import plan

FILES = {
    "config.json": b'{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}',
    "model.safetensors": b"weights " * 500_000,  # past the first megabyte
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ 1 }}",
    "pytorch_model.bin": b"more",
    "own.py": b"",
    "custom_generate/generate.py": b"",
}
PLACES = {  # where a config names a model -> overrides, and the first unit that reads it
    "model.path": (["model=gpt2", "sft=none", "model.path={}"], "sft"),
    "pm.base": (["pm=toy_trunk", "pm.base={}"], "pm/helpfulness"),
    "pm.paths": (
        ["pm=pretrained", "principles.count=1", "arms.select=[morlaif]", "pm.paths={{helpfulness: {}}}"],
        "pm/helpfulness",
    ),
    "feedback": (["feedback=hf", "feedback.path={}"], "feedback/helpfulness"),
    "eval judge": (["eval=hf", "eval.judge.engine.path={}"], "evaluate"),
    "eval policy": (["+eval.policies.other={}"], "evaluate"),
    "reward judge": (["reward=judge", "feedback=hf", "feedback.path={}"], "weigh/morlaif"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "model"
    for name, data in FILES.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(data)
    return made


def digests(overrides: list[str], contents: Contents | None = None) -> dict[str, str]:
    return {unit.name: unit.digest for unit in plan(config(*overrides), contents or Contents(None)).units}


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_a_byte_anywhere_changes_the_digest_and_a_touch_does_not(folder, tmp_path, place):
    overrides, unit = PLACES[place]

    def digest(where: Path = folder) -> str:
        return digests([override.format(where) for override in overrides])[unit]

    before = digest()
    for name in FILES:
        os.utime(folder / name)
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert digest() == before == digest(tmp_path / "elsewhere")
    for name, data in FILES.items():
        state = (folder / name).stat()
        flipped = bytearray(data or b"\0")
        flipped[len(flipped) // 2] ^= 1
        (folder / name).write_bytes(flipped)
        os.utime(folder / name, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert digest() != before, name
        (folder / name).write_bytes(data)
    (folder / "README.md").write_text("words that no loader reads")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").write_text("x")
    assert digest() == before


@pytest.mark.slow
def test_what_comes_before_is_not_built_again(folder):
    overrides = [override.format(folder) for override in PLACES["pm.base"][0]]
    before = digests(overrides)
    (folder / "tokenizer.json").write_text("[]")
    after = digests(overrides)
    changed = {name.partition("/")[0] for name in before if before[name] != after[name]}
    assert changed == {"pm", "weigh", "ppo", "evaluate", "report"}


@pytest.mark.slow
def test_a_label_is_in_no_digest_of_what_is_computed():
    plain = digests([])
    named = digests(["model.name=other", "scalarizer.name=other"])
    assert {name for name in plain if plain[name] != named[name]} == {"evaluate", "report"}, "which print it"
    named = digests(["model.name=other"])
    assert {name for name in plain if plain[name] != named[name]} <= {"report"}


@pytest.mark.slow
def test_only_a_run_that_allows_code_is_another(folder):
    overrides = [override.format(folder) for override in PLACES["model.path"][0]]
    assert digests(overrides)["sft"] != digests([*overrides, "model.trust_remote_code=true"])["sft"]


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_rules.py").write_text(
        "from my_part import factor\n\n\ndef rule(r):\n    return factor * r.sum(-1)\n\n\n"
        "def reward(prompts, responses):\n    return [0.0 for _ in responses]\n"
    )
    (tmp_path / "my_part.py").write_text("factor = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("my_rules", "my_part"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


@pytest.mark.slow
@pytest.mark.parametrize("file", ["my_rules.py", "my_part.py"])
def test_the_source_of_a_user_s_function_counts(module, file):
    scalarizer = ["scalarizer.name=mine", "scalarizer.function=my_rules.rule", "scalarizer.params={}"]
    reward = ["reward=function", "reward.function=my_rules.reward", "reward.names=[mine]", "reward.params={}"]
    for overrides in (scalarizer, reward):
        before = digests(overrides)
        path = module / file
        path.write_text(path.read_text() + "#\n")
        after = digests(overrides)
        assert before["ppo/morlaif"] != after["ppo/morlaif"] and before["sft"] == after["sft"]


@pytest.mark.slow
def test_hub_ids_count_by_their_commit_and_that_commit_is_loaded(monkeypatch):
    commits = {"org/model": "a" * 40, "org/judge": "b" * 40, "org/other": "c" * 40, "org/data": "d" * 40}
    asked: list[str] = []

    def answer(id: str, revision: str | None, kind: str) -> Commit:
        asked.append(id)
        return Commit(commits[id])

    monkeypatch.setattr(fingerprint, "_ask", answer)
    overrides = [
        "model=gpt2", "model.path=org/model", "sft=none", "feedback=hf", "feedback.path=org/judge", "eval=hf",
        "eval.judge.engine.path=org/judge", "+eval.policies.x=org/other@v1", "data=hub", "data.id=org/data",
    ]  # fmt: skip
    made = plan(config(*overrides), Contents(None)).by_name
    assert made["sft"].reads.model.revision == "a" * 40
    assert made["feedback/helpfulness"].reads.feedback.revision == "b" * 40
    assert made["evaluate"].reads.eval.policies == {"x": f"org/other@{'c' * 40}"}
    assert made["data"].reads.data.revision == "d" * 40
    assert len(asked) == len(set(asked)), "each once"
    before = digests(overrides)
    commits["org/judge"] = "e" * 40
    after = digests(overrides)
    assert before["sft"] == after["sft"] and before["feedback/helpfulness"] != after["feedback/helpfulness"]


@pytest.mark.slow
def test_without_a_hub_the_cache_is_asked_and_else_nobody(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    overrides = ["model=gpt2", "model.path=org/model", "sft=none"]
    (made,) = (unit for unit in plan(config(*overrides), Contents(None)).units if unit.name == "sft")
    assert made.reads.contents == {"model.path": f"org/model@main+{SPOKEN}"}
    (tmp_path / "models--org--model" / "refs").mkdir(parents=True)
    (tmp_path / "models--org--model" / "refs" / "main").write_text("f" * 40)
    (made,) = (unit for unit in plan(config(*overrides), Contents(None)).units if unit.name == "sft")
    assert made.reads.contents == {"model.path": f"org/model@{'f' * 40}+{SPOKEN}"}


@pytest.mark.slow
def test_workers_have_the_digests_that_the_run_has(folder, tmp_path):
    """Whatever becomes of the files meanwhile."""
    overrides = [override.format(folder) for override in PLACES["model.path"][0]]
    contents = Contents(None)
    before = digests(overrides, contents)
    contents.save(tmp_path)
    (folder / "tokenizer.json").write_text("[]")
    assert digests(overrides, Contents.of_run(tmp_path, tmp_path / "store")) == before != digests(overrides)
    assert all(isinstance(value, str | None) for value in json.loads((tmp_path / FILE).read_text()).values())
