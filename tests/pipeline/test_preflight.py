"""All that would stop a run is told at once, before anything is built, and only of what the run is still to build."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from composed import config

from morlaif import devices
from morlaif.config import Config
from morlaif.errors import MachineError, UserError
from morlaif.models import fingerprint
from morlaif.pipeline import preflight
from morlaif.pipeline.fits import fit_problems
from morlaif.pipeline.preflight import Preflight
from morlaif.planning.plan import plan
from morlaif.tracking import check
from morlaif.units.store import Store

NOBODY = "base_url=http://127.0.0.1:9/v1"  # the port of `discard`, where nothing listens


LORA = ("ppo.policy.kind=lora", "ppo.critic.kind=adapter")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty folder, no key and no hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def made(*overrides: str) -> Config:
    return config(*overrides)


def problems(*overrides: str) -> list[str]:
    return Preflight().problems(made(*overrides))


def test_a_run_of_the_toy_world_has_none():
    assert problems() == []


@pytest.mark.slow
def test_everything_is_reported_at_once():
    lines = problems(
        "feedback=openai", "eval=hf", "data=jsonl", "data.path=gone.jsonl", "model=gpt2", "model.path=./gone",
        "pm=lora", "pm.base=./gone_too", "+eval.policies.other=./gone_as_well", "eval.rewardbench=gone.jsonl",
        "weights.zero=[detial]", "ppo.rollout=vllm",
    )  # fmt: skip
    for key in (
        "feedback.api_key_env", "eval.judge.engine.path", "data.path", "model.path", "pm.base", "eval.policies.other",
        "eval.rewardbench", "weights.zero", "ppo.rollout",
    ):  # fmt: skip
        assert sum(line.startswith((f"{key}=", f"{key}:")) for line in lines) == 1, (key, lines)
    assert len(lines) == 9 and all("\n" not in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["feedback=openai"], "feedback.api_key_env: the environment variable OPENAI_API_KEY is not set"),
        (["feedback=server", f"feedback.{NOBODY}"], "feedback.base_url=http://127.0.0.1:9/v1: nothing listens there"),
        (
            ["reward=judge_server", "reward.engine.model=x", f"reward.engine.{NOBODY}"],
            "reward.engine.base_url=http://127.0.0.1:9/v1: nothing listens there",
        ),
        (["feedback=hf", "feedback.path=./gone"], "feedback.path='./gone': no such folder"),
        (["feedback=jsonl"], "feedback.path: give the file of verdicts"),
        (["feedback=jsonl", "feedback.path=gone.jsonl"], "feedback.path: 'gone.jsonl': there is no such file"),
        (["eval=hf"], "eval.judge.engine.path: give the judge's folder"),
        (["model=gpt2"], "model.path='gpt2': no such folder here, the hub's cache does not have it"),
        (["pm=pretrained"], "pm.paths: no reward model for 'helpfulness'"),
        (
            ["pm=pretrained", "pm.paths={helpfulness: ./gone}", "principles.count=1", "arms.select=[morlaif]"],
            "pm.paths.helpfulness='./gone': no such folder",
        ),
        (["reward=function", "reward.function=nowhere.function"], "reward.function 'nowhere.function': no module"),
        (["scalarizer.function=nowhere.function"], "scalarizer.function 'nowhere.function': no module"),
        (
            ["eval.scalarizers.soft_max_min.params.temperature=-1"],
            "eval.scalarizers.soft_max_min.params.temperature of 'soft_max_min': value should be greater than 0",
        ),
        (
            ["eval.scalarizers.lower_quantile.params.fraction=abc"],
            "eval.scalarizers.lower_quantile.params.fraction of 'lower_quantile': value should be a valid number",
        ),
        (
            ["+eval.scalarizers.lower_quantile.params.fractoin=.3"],
            "eval.scalarizers.lower_quantile.params.fractoin: 'morlaif.scalarize.functions.lower_quantile' has no such",
        ),
        (
            [
                "+eval.scalarizers.mine={name: mine, function: morlaif.scalarize.functions.single, "
                "params: {principle: helpfulnes}}"
            ],
            "eval.scalarizers.mine.params.principle of 'mine' names 'helpfulnes', which is not among the principles",
        ),
        (["paths.store=file/in/the/way"], "file is a file; name a folder"),
        (["paths.runs=file"], "a file is in the way; name a folder"),
    ],
)
def test_each_room_is_asked(overrides, line, tmp_path):
    (tmp_path / "file").write_text("")
    (said,) = problems(*overrides)
    assert line in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("driver", "visible", "said"),
    [
        (False, None, "this machine has no GPU, or no driver for it"), (True, "", "CUDA_VISIBLE_DEVICES='' hides"),
        (True, "-1", "hides every GPU"), (True, None, "torch 2.0+cpu is for CPUs alone"),
    ],
)  # fmt: skip
def test_a_gpu_that_is_not_there(monkeypatch, driver, visible, said):
    monkeypatch.setattr(devices, "_DRIVERS", ("/dev/null",) if driver else ())
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    monkeypatch.setattr(devices, "version", lambda name: "2.0+cpu")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (line,) = problems("hardware=gpu", "stages=[sft]")
    assert line.startswith("hardware.device=cuda: ") and said in line
    assert not problems("hardware=gpu", "stages=[data]")  # which runs no model
    assert not Preflight(elsewhere=True).problems(made("hardware=gpu", "stages=[sft]"))
    monkeypatch.setattr(devices, "version", lambda name: "2.0+cu130")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert bool(problems("hardware=gpu", "stages=[sft]")) == (not driver)


@pytest.mark.slow
def test_flash_attention_without_its_package(monkeypatch):
    there = check.importlib.util.find_spec
    gone = ("flash_attn", "kernels")
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None if name in gone else there(name))
    (line,) = problems("model.attention=flash_attention_2")
    assert line.startswith("model.attention: ") and "flash-attn" in line
    assert not problems("model.attention=flash_attention_2", "stages=[data]")  # which runs no model


@pytest.mark.slow
def test_packing_without_flash_attention_and_compiling_without_a_compiler(monkeypatch):
    (line,) = problems("hardware.packing=true")
    assert line.startswith("hardware.packing: sdpa attention ") and "hardware.packing=false" in line
    assert not problems("hardware.packing=true", "stages=[pm]"), "which trains no policy"
    assert not problems("hardware.compile=true"), "this machine has a compiler"
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    (line,) = problems("hardware.compile=true")
    assert line.startswith("hardware.compile: torch.compile needs a C++ compiler") and "hardware.compile=false" in line
    with pytest.raises(UserError, match=r"hardware: packing: not with weights in parts.*zero\.stage=2"):
        problems("hardware=cpu2_zero3", "hardware.packing=true")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value", "off"), [("gradient_weights", "mgda", "none"), ("gradient_cosines_every", 2, 0)]
)
def test_gradients_of_principles_where_weights_lie_in_parts(key, value, off):
    asked = ["arms.select=[morlaif]", "ppo.policy.kind=lora", f"ppo.{key}={value}"]
    (line,) = problems("hardware=cpu2_zero3", *asked)
    assert line.startswith(f"ppo.{key}={value}: ") and line.endswith(f"use ppo.{key}={off}, or hardware.zero.stage=2")
    assert not problems("hardware=cpu2_zero3", "hardware.zero.stage=2", *asked) and not problems(*asked)


@pytest.mark.slow
def test_weights_and_biases_without_package_or_key(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "WANDB_CONFIG_DIR", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    there = check.importlib.util.find_spec
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: name == "wandb" or there(name))
    (line,) = problems("tracking=wandb")
    assert line.startswith("tracking.mode='online': no key") and "WANDB_API_KEY" in line
    assert not problems("tracking=wandb_offline")
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert not problems("tracking=wandb")
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password x\n")
    assert not problems("tracking=wandb")
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None if name == "wandb" else there(name))
    for option in ("wandb", "wandb_offline"):
        (line,) = problems(f"tracking={option}")
        assert "pip install 'morlaif[wandb]'" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["sft=full", "sft.max_length=600"], "sft.max_length=600 exceeds the model's 512 positions"),
        (["pm=lora", "pm.max_length=600"], "pm.max_length=600 exceeds the model's 512 positions"),
        (["respond=sample", "respond.max_new_tokens=512"], "respond.max_new_tokens=512 leaves no room for a prompt"),
        (["ppo.max_new_tokens=512"], "ppo.max_new_tokens=512 leaves no room for a prompt"),
        (["sft=lora", "sft.lora.target_modules=[x_proj]"], "sft.lora.target_modules: the model has no module 'x_proj'"),
        (["pm=lora", "pm.lora.target_modules=[x]"], "pm.lora.target_modules: the model has no module 'x'"),
        ([*LORA, "ppo.policy.target_modules=x.*"], "ppo.policy.target_modules: the model has no module 'x.*'"),
        ([*LORA, "ppo.policy.target_modules='('"], "ppo.policy.target_modules='(': no regular expression"),
        (["pm=lora", "pm.lora.target_modules=[q_proj,x]"], None),
        ([*LORA, "ppo.policy.target_modules='.*q_proj'"], None),
    ],
)
def test_what_a_model_cannot_follow(overrides, line, tmp_path):
    own = made("model=gpt2", f"model.path={tmp_path}", *overrides)
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 512}))
    tensor = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({"model.layers.0.self_attn.q_proj.weight": tensor})
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())
    found = list(fit_problems(own, {"sft", "respond", "pm", "ppo"}))
    assert [one.startswith(line) for one in found] == [True] if line else not found


def test_a_toy_model_is_of_the_length_that_its_settings_say():
    (line,) = problems("sft.max_length=600")
    assert line.startswith("sft.max_length=600 exceeds the model's 512 positions")


def test_prompts_are_left_to_train_on():
    few = made("data.train=20", "ppo.eval_prompts=20")
    (line,) = fit_problems(few, {"ppo"})
    assert line == "ppo.eval_prompts=20 leaves none of the 20 training prompts (data.train=20) to train on"
    assert not [*fit_problems(few, {"pm"})]
    assert not [*fit_problems(made("data.train=21", "ppo.eval_prompts=20"), {"ppo"})]


def test_checkpoints_of_which_none_is_whole(tmp_path):
    wanted = made(f"paths.store={tmp_path / 'store'}")
    store = Store(wanted.paths.store)
    (unit, *_) = [unit for unit in plan(wanted).units if unit.stage.name == "ppo"]
    keep = store.checkpoints(unit)
    keep.mkdir(parents=True)
    for step, content in ((1, b"whole"), (2, b"broken")):
        (keep / f"step-{step:08d}.pt").write_bytes(content)
        facts = {"step": step, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (keep / f"step-{step:08d}.json").write_text(json.dumps(facts))
    (keep / "step-00000002.pt").write_bytes(b"brok")
    assert not Preflight().problems(wanted)  # the run goes on from the one before
    (keep / "step-00000001.pt").write_bytes(b"whale")
    (line,) = Preflight().problems(wanted)
    assert "step-00000002.pt is damaged (4 bytes of 6), and no other checkpoint is whole" in line
    assert f"Remove {keep} to begin anew" in line


@pytest.mark.slow
def test_a_folder_in_place_of_the_ledger(tmp_path):
    (tmp_path / "store" / "ledger.sqlite").mkdir(parents=True)
    lines = problems("feedback=server", f"feedback.{NOBODY}", "stages=[feedback]")
    assert "a folder is where the ledger's file would be" in lines[0]


@pytest.mark.slow
def test_stages_that_are_not_asked_for_need_nothing():
    later = ["feedback=openai", "eval=hf", "ppo.rollout=vllm", "pm=lora", "pm.base=gpt2", "+eval.policies.x=./gone"]
    assert problems(*later, "stages=[data]") == []
    assert [line.split(":")[0] for line in problems(*later, "stages=[feedback]")] == ["feedback.api_key_env"]


@pytest.mark.slow
def test_what_the_store_has_needs_neither_server_nor_key(monkeypatch):
    monkeypatch.setattr(Store, "has", lambda self, unit: unit.stage != "report")
    assert problems("feedback=openai", "ppo.rollout=vllm", "pm=lora", "pm.base=gpt2") == []


@pytest.mark.slow
def test_a_server_that_is_away_is_no_mistake_of_the_user():
    away = ["feedback=server", f"feedback.{NOBODY}", "stages=[feedback]"]
    with pytest.raises(MachineError, match="nothing listens there"):
        Preflight().check([made(*away)])
    with pytest.raises(UserError, match="nothing listens there"):
        Preflight().check([made(*away), made("feedback=openai")])


@pytest.mark.slow
def test_a_server_that_is_away_is_no_problem_where_the_ledger_may_know_its_answers(tmp_path):
    (tmp_path / "store").mkdir()
    Store(tmp_path / "store").ledger.touch()
    assert problems("feedback=server", f"feedback.{NOBODY}", "stages=[feedback]") == []


@pytest.mark.slow
def test_rows_and_dialogues_are_looked_at(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"chosen": "x"}) + "\n")
    (said,) = problems("data=jsonl", "data.path=rows.jsonl")
    assert said.startswith("data.path: rows.jsonl, line 1:")


@pytest.mark.slow
def test_the_hub_is_asked_for_what_is_not_in_its_cache(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    commits = {"own/gated": fingerprint.Commit(None, "gated: ask"), "own/there": fingerprint.Commit("a" * 40)}
    for module in (preflight, fingerprint):
        monkeypatch.setattr(
            module, "hub_commit", lambda id, *_: commits.get(id, fingerprint.Commit(None)), raising=False
        )
    model = ["model=gpt2", "stages=[sft]"]
    assert problems(*model, "model.path=own/gated") == ["model.path='own/gated': gated: ask"]
    assert problems(*model, "model.path=own/there") == []
    assert "the hub does not answer" in "".join(problems(*model, "model.path=own/unknown"))


@pytest.mark.slow
def test_a_sweep_is_looked_at_whole_and_says_nothing_twice():
    jobs = [made("feedback=openai", f"seed={seed}") for seed in (1, 2)] + [made("paths.runs=/dev/null")]
    with pytest.raises(UserError) as told:
        Preflight().check(jobs)
    assert [line.split(":")[0].split("=")[0] for line in str(told.value).splitlines()] == [
        "feedback.api_key_env", "paths.runs",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_dry_run_shows_its_plan_and_then_what_would_stop_it_without_torch(tmp_path):
    code = """
import atexit, os, sys
sys.argv = ["morlaif", "dry_run=true", "feedback=openai", "model=gpt2", "data=jsonl", "data.path=d.jsonl"]
sys.argv += ["sft=none", "respond=sample", "pm=lora", "ppo=adapter", "eval=gold"]
def check():
    heavy = [name for name in ("torch", "transformers", "datasets", "openai", "numpy") if name in sys.modules]
    print("imported", heavy, file=sys.stderr)
atexit.register(check)
from morlaif.cli import main
main()
"""
    (tmp_path / "d.jsonl").write_text("".join(f'{{"prompt": "How is day {day}?"}}\n' for day in range(40)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    lines = done.stderr.splitlines()
    assert [line.split(":")[1].split("=")[0].strip() for line in lines[:-1]] == ["model.path", "feedback.api_key_env"]
    assert lines[-1].split() == ["imported", "['numpy']"]  # for the estimate of what labels cost
    assert "evaluate" in done.stdout and not (tmp_path / "store").exists() and not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_run_stops_before_its_first_unit(tmp_path):
    command = [sys.executable, "-m", "morlaif", "feedback=openai", "weights.zero=[detial]"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 2, done.stderr
    assert not list(Path(tmp_path).glob("store/*/*"))


@pytest.mark.slow
def test_a_policy_that_its_preference_models_cannot_sit_on_is_reported(tmp_path):
    def written(name: str, **facts: object) -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": name, **facts}))
        return str(tmp_path / name)

    jamba = problems("model=gpt2", f"model.path={written('jamba')}", "pm=conditioned")
    assert any("has recurrent layers (jamba)" in line and "pm=heads" in line for line in jamba)
    granite = problems("model=gpt2", f"model.path={written('granite')}", "pm=lora")
    assert any("no sequence classifier" in line and line.startswith("model.path") for line in granite)


@pytest.mark.parametrize(
    ("arm", "override", "line"),
    [
        ("online_dpo", "online_dpo.sampling.max_new_tokens=512", "online_dpo.sampling.max_new_tokens=512 leaves"),
        ("online_dpo", "online_dpo.dpo.max_length=513", "online_dpo.dpo.max_length=513 exceeds the model's 512"),
        ("rejection", "rejection.training.max_length=513", "rejection.training.max_length=513 exceeds the model's 512"),
        ("teacher", "teacher.sampling.max_new_tokens=512", "teacher.sampling.max_new_tokens=512 leaves no room"),
        ("dpo", "dpo.max_length=513", "dpo.max_length=513 exceeds the model's 512"),
    ],
)
def test_each_method_is_held_to_the_models_length(arm, override, line):
    """And PPO's settings, which no arm then reads, are not."""
    own = made(f"arms.select=[{arm}]", override, "ppo.max_new_tokens=9999")
    found = list(fit_problems(own, {"ppo", arm}))
    assert len(found) == 1 and found[0].startswith(line)
