"""The stage on a miniature of the toy world: a policy and two preference models in, an aligned policy out."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from artifacts import dialogue_ids
from jobs import typed
from transformers import AutoModelForCausalLM, AutoTokenizer

from morlaif.data.records import Pair, load_split, save_examples
from morlaif.errors import UserError
from morlaif.feedback.records import Verdict
from morlaif.hardware import HardwareSettings
from morlaif.models.load import load_policy, save_policy, source_of
from morlaif.models.scratch import build_causal_lm, train_tokenizer
from morlaif.models.settings import ScratchSettings
from morlaif.preference.bank import PreferenceBank
from morlaif.preference.settings import LoraPM
from morlaif.preference.train import train_pm
from morlaif.presets import preset
from morlaif.rl.critic import load_adapter_critic, load_critic
from morlaif.rl.settings import PPOSettings
from morlaif.rl.trainer import PPOTrainer
from morlaif.scalarize.functions import linear
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.settings import ScalarizerSettings
from morlaif.stages.ppo import STAGE
from morlaif.stages.work.ppo import build
from morlaif.toy.judge import score
from morlaif.toy.world import make_world
from morlaif.units.job import Job

ROOT = Path(__file__).parents[2]
NAMES = ["toxicity", "detail"]


def conf(path: str) -> dict[str, Any]:
    return preset(*path.split("/"))


def ppo_settings(**changes: Any) -> PPOSettings:
    config = conf("ppo/toy")
    small = {
        "steps": 2,
        "rollouts": 12,
        "max_new_tokens": 10,
        "micro_batch_size": 6,
        "samples": 3,
        "eval_every": 0,
        "eval_prompts": 4,
        "checkpoint_every": 1,
        "shaping.missing_eos": "none",  # a policy from nothing ends no response, and one replaced score teaches nothing
    }
    for key, value in (small | changes).items():
        *path, last = key.split(".")
        place = config
        for name in path:
            place = place[name]
        place[last] = value
    return PPOSettings(**config)


@dataclass
class Verdicts:
    """Exact verdicts of the toy judge."""

    principle: str

    def of(self, pairs: list[Pair]) -> list[Verdict]:
        rows = []
        for pair in pairs:
            gap = score(self.principle, pair.messages, pair.first) - score(self.principle, pair.messages, pair.second)
            rows.append(Verdict(pair.id, torch.tensor(gap).sigmoid().item(), 0.0, True, "exact"))
        return rows


# Nothing of it is cut, however a preference model shares its room between prompt and response.
SHORT = ([{"role": "user", "content": "I feel tired."}], "Well, you should look at the soup.")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished folders of `data`, `sft`, `pm/…` and `weigh/morlaif`."""
    root = tmp_path_factory.mktemp("store")
    folders = {name: root / name for name in ("data", "sft", *(f"pm/{n}" for n in NAMES), "weigh/morlaif")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    world = make_world(0, sft=40, train=40, eval=10)
    save_examples(folders["data"], world)

    texts = [example.demonstration for example in world["sft"]] + [
        m["content"] for e in world["sft"] for m in e.messages
    ]
    tokenizer = train_tokenizer(texts, 300)
    scratch = ScratchSettings(**conf("model/toy")["scratch"] | {"hidden_size": 16, "heads": 2, "intermediate_size": 32})
    save_policy(build_causal_lm(scratch, tokenizer, seed=0), tokenizer, folders["sft"])

    pairs = [Pair.of(e.messages, e.chosen, e.rejected) for e in world["train"]]
    settings = LoraPM(**conf("pm/lora") | {"epochs": 1, "warmup_steps": 0, "max_length": 192, "pooling": "last"})
    base = source_of(folders["sft"]).path
    for name in NAMES:
        verdicts = Verdicts(name).of(pairs)
        train_pm(
            pairs[:30], verdicts[:30], pairs[30:], verdicts[30:], base, settings,
            principle=name, out=folders[f"pm/{name}"], seed=1,
        )  # fmt: skip
    one = torch.ones(2)
    Objective(tuple(NAMES), 0 * one, one, one, one, linear).save(folders["weigh/morlaif"] / "weights.json")
    return folders


def make(
    inputs: dict[str, Path],
    folder: Path,
    name: str,
    hardware: dict[str, Any] | None,
    seed: int,
    changes: dict[str, Any],
    on_progress: Any,
) -> tuple[Path, dict[str, Any]]:
    """Build the unit into `folder`/`name`; checkpoints outlive a kill there."""
    out, keep = folder / name, folder / f"{name}.keep"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    keep.mkdir(exist_ok=True)
    scalarizer = ScalarizerSettings(**conf(f"scalarizer/{changes.pop('scalarizer', 'linear')}"))
    config = {
        "ppo": ppo_settings(**changes), "scalarizer": scalarizer, "names": NAMES, "seed": 0,
    }  # fmt: skip
    machine = HardwareSettings(**conf("hardware/cpu") | (hardware or {}))
    job = Job(
        "ppo",
        "ppo/morlaif",
        "digest",
        *typed(STAGE, config, inputs),
        out,
        keep,
        folder / "ledger.sqlite",
        seed,
        machine,
        on_progress,
    )
    return out, build(job)


@pytest.fixture
def run(inputs, tmp_path):
    def run(
        name: str, hardware: dict[str, Any] | None = None, seed: int = 5, **changes: Any
    ) -> tuple[Path, dict[str, Any]]:
        seen = []
        out, headline = make(
            inputs, tmp_path, name, hardware, seed, changes,
            lambda step, total, metrics: seen.append((step, total, metrics["reward"])),
        )  # fmt: skip
        assert [row[:2] for row in seen] == [(1, 2), (2, 2)]
        return out, headline

    return run


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def numbers(out: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in rows(out / "curve.jsonl")]


@pytest.mark.slow
def test_artifact(run, inputs):
    out, headline = run("full")
    curve = rows(out / "curve.jsonl")
    assert [row["step"] for row in curve] == [1, 2]
    assert {"reward", "kl", "length", "entropy", "seconds", *(f"score/{name}" for name in NAMES)} <= curve[0].keys()
    assert headline["reward"] == {"first": curve[0]["reward"], "last": curve[-1]["reward"]}
    assert headline["kl"] == curve[-1]["kl"] and headline["episodes"] == 24

    samples = rows(out / "samples.jsonl")
    train = [example.messages for example in load_split(inputs["data"], "train")]
    assert len(samples) == 3 and all(sample["prompt"] in train for sample in samples)
    assert set(samples[0]["scores_before"]) == set(samples[0]["scores_after"]) == set(NAMES)

    # plain transformers read it, and so does the next stage
    model = AutoModelForCausalLM.from_pretrained(out / "model")
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    assert len(tokenizer) == model.config.vocab_size and tokenizer.pad_token != tokenizer.eos_token
    before, _ = load_policy(inputs["sft"])
    assert not torch.equal(model.get_input_embeddings().weight, before.get_input_embeddings().weight)


@pytest.mark.slow
def test_same_seed_same_numbers(run):
    first, _ = run("first")
    second, _ = run("second")
    other, _ = run("other", seed=6)
    assert numbers(first) == numbers(second) != numbers(other)
    assert (first / "samples.jsonl").read_bytes() == (second / "samples.jsonl").read_bytes()
    assert (first / "model" / "model.safetensors").read_bytes() == (second / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_lora_is_merged_and_its_adapter_left_beside(run, inputs):
    from peft import PeftModel

    out, _ = run("lora", **{"policy.kind": "lora", "policy.export": "both", "optimizer.learning_rate": 1e-2})
    merged = AutoModelForCausalLM.from_pretrained(out / "model")
    base = AutoModelForCausalLM.from_pretrained(inputs["sft"] / "model")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, str(out / "adapter"))(ids).logits
        assert torch.allclose(merged(ids).logits, adapted, atol=1e-4)
        assert not torch.allclose(merged(ids).logits, plain, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["separate", "adapter"])
@pytest.mark.parametrize("init", ["sft", "pm"])
def test_critic_of_its_own(run, kind, init):
    principle = "detail" if init == "pm" else None
    policy = "lora" if kind == "adapter" else "full"
    out, _ = run(
        init, **{
            "critic.kind": kind, "critic.init": init, "critic.principle": principle, "policy.kind": policy,
        },
    )  # fmt: skip
    assert rows(out / "curve.jsonl")[-1]["critic_grad_norm"] > 0
    assert not any("critic" in file.name for file in out.rglob("*"))


def test_adapter_critic_from_a_preference_model_scores_as_it_does(inputs):
    """On the policy's own frozen tensors, without a copy of them."""
    model, tokenizer = load_policy(inputs["sft"])
    base = source_of(inputs["sft"]).path
    critic = load_adapter_critic(inputs["pm/detail"], base, model, ppo_settings(**{"policy.kind": "lora"}))
    bank = PreferenceBank.load({"detail": inputs["pm/detail"]}, base)
    ids = torch.tensor([dialogue_ids(tokenizer, *SHORT, 192)])
    with torch.no_grad():
        found = critic.score(critic.model(ids).last_hidden_state[:, -1])
    assert torch.allclose(found, bank.score([SHORT[0]], [SHORT[1]]), atol=1e-4)
    own = {id(p) for p in model.parameters()}
    extra = [p for p in critic.parameters() if id(p) not in own]
    assert all(p.requires_grad for p in extra) and sum(p.numel() for p in extra) < 0.9 * sum(
        p.numel() for p in model.parameters()
    )
    assert not any(p.requires_grad for p in model.parameters())


def test_critic_from_a_preference_model_scores_as_it_does(inputs):
    _, tokenizer = load_policy(inputs["sft"])
    base = source_of(inputs["sft"]).path
    critic = load_critic(inputs["pm/detail"], base, tokenizer, "cpu")
    bank = PreferenceBank.load({"detail": inputs["pm/detail"]}, base)
    ids = torch.tensor([dialogue_ids(tokenizer, *SHORT, 192)])
    with torch.no_grad():
        found = critic.score(critic.model(ids).last_hidden_state[:, -1])  # pooled at the last token
    assert torch.allclose(found, bank.score([SHORT[0]], [SHORT[1]]), atol=1e-4)


@pytest.mark.slow
def test_bfloat16_trains_float32_weights(run):
    out, _ = run("half", hardware={"dtype": "bfloat16"})
    assert all(row["first_ratio_error"] == 0 for row in rows(out / "curve.jsonl"))
    assert AutoModelForCausalLM.from_pretrained(out / "model").dtype == torch.float32


def test_what_cannot_work_is_reported(run):
    with pytest.raises(UserError, match=r"no preference model 'detial' in this run\. Did you mean 'detail'"):
        run("typo", **{"critic.kind": "separate", "critic.init": "pm", "critic.principle": "detial"})
    with pytest.raises(UserError, match="use bfloat16 or float32"):
        run("overflow", hardware={"dtype": "float16"})


@pytest.mark.slow
def test_adapter_alone(run, inputs, tmp_path):
    """Nothing of the base is written, and the next stages load the aligned policy all the same."""
    changes = {"policy.kind": "lora", "optimizer.learning_rate": 1e-2}
    whole, _ = run("whole", **changes)
    alone, _ = run("alone", **changes, **{"policy.export": "adapter"})
    assert sorted(path.name for path in alone.iterdir() if path.suffix != ".jsonl") == ["adapter", "model.json"]
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        merged, found = (load_policy(folder)[0](ids).logits for folder in (whole, alone))
        plain = load_policy(inputs["sft"])[0](ids).logits
    assert torch.allclose(found, merged, atol=1e-5) and not torch.allclose(found, plain, atol=1e-4)

    # … even when the store, base and adapter, has been moved
    moved, pointer = tmp_path / "moved", json.loads((alone / "model.json").read_text())
    shutil.copytree(inputs["sft"], moved / "sft" / "d1")
    shutil.copytree(alone, moved / "ppo" / "d2")
    (moved / "ppo" / "d2" / "model.json").write_text(json.dumps(pointer | {"path": "/gone/sft/d1/model"}))
    with torch.no_grad():
        assert torch.equal(load_policy(moved / "ppo" / "d2")[0](ids).logits, found)


@pytest.mark.slow
def test_the_other_policy_is_left_beside(run):
    """Held-out reward is higher after the first of the two steps."""
    changes = {"eval_every": 1, "keep_other": True, "optimizer.learning_rate": 1.0}
    both = []
    for keep, other in (("last", "best"), ("best", "last")):
        found = {}
        out, headline = run(keep, keep=keep, **changes)
        assert headline["best_step"] == 1 == max(rows(out / "curve.jsonl"), key=lambda row: row["eval/reward"])["step"]
        found[keep], found[other] = (
            load_policy(folder)[0].get_input_embeddings().weight for folder in (out, out / other)
        )
        assert not torch.equal(found["last"], found["best"])
        both.append(found)
    for name in ("last", "best"):
        assert torch.equal(both[0][name], both[1][name])


def die_at(step: int | None, inputs: dict[str, Path], folder: str, changes: dict[str, Any]) -> None:
    """The stage, until SIGKILL comes after the step, before its checkpoint; None: after all of them."""

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def kill(done: int, total: int, metrics: dict[str, float]) -> None:
        if done == step:
            die()

    if step is None:
        setattr(PPOTrainer, "_choose", die)  # noqa: B010 - in a process of its own
    make(inputs, Path(folder), "killed", None, 5, changes, kill)


@pytest.mark.slow
def test_killed_stage_leaves_what_the_unbroken_one_does(inputs, tmp_path):
    changes = {"steps": 4, "checkpoint_every": 2, "eval_every": 1, "policy.kind": "lora", "critic.kind": "adapter"}
    unbroken, headline = make(inputs, tmp_path, "unbroken", None, 5, changes, lambda *_: None)
    for step in (3, 4, None):  # between checkpoints; before the last; after it, before the export
        with pytest.raises(processes.Died):
            processes.run(die_at, step, inputs, str(tmp_path), changes, folder=tmp_path / str(step))
    seen = []
    resumed, again = make(inputs, tmp_path, "killed", None, 5, changes, lambda *row: seen.append(row[0]))
    assert not seen and again == headline
    assert numbers(resumed) == numbers(unbroken)
    for name in ("samples.jsonl", "model/model.safetensors"):
        assert (resumed / name).read_bytes() == (unbroken / name).read_bytes()


@pytest.mark.slow
def test_what_the_objective_learnt_is_beside_the_policy(run, inputs):
    out, _ = run("learning", scalarizer="lagrangian")
    state = json.loads((out / "objective.json").read_text())
    multiplier = state["scalarizer"]["lambda"]["toxicity"]
    assert multiplier == rows(out / "curve.jsonl")[-1]["objective/lambda/toxicity"] != 1.0
    plain, _ = run("plain")
    assert not (plain / "objective.json").exists()
