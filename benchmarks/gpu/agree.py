"""The GPU against the CPU on models of a few thousand weights, and a resumed training against an unbroken one.

    python benchmarks/gpu/agree.py <out folder> [--device cuda]

Each check has its own tolerance, in float32 unless its name says otherwise; `resume` wants equal numbers on one device.
One JSON line a check goes to <out folder>/agree.jsonl. With `--device cpu` the same code runs against itself.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import small_ppo  # noqa: E402

from morlaif import presets  # noqa: E402
from morlaif.data.records import Example, Pair  # noqa: E402
from morlaif.errors import UserError  # noqa: E402
from morlaif.feedback.records import Comparison, Verdict  # noqa: E402
from morlaif.feedback.settings import HfSettings, PrinciplesSettings  # noqa: E402
from morlaif.feedback.sources.hf import LetterModel, _orders  # noqa: E402
from morlaif.models import decode  # noqa: E402
from morlaif.models.finetune import finetune  # noqa: E402
from morlaif.models.generate import generate  # noqa: E402
from morlaif.models.load import load_causal_lm, load_tokenizer  # noqa: E402
from morlaif.models.scratch import build_causal_lm, train_tokenizer  # noqa: E402
from morlaif.models.settings import ScratchSettings, SFTSettings  # noqa: E402
from morlaif.preference.bank import PreferenceBank  # noqa: E402
from morlaif.preference.settings import PMSettings  # noqa: E402
from morlaif.preference.tasks import Corpus, Task  # noqa: E402
from morlaif.preference.train import train_pms  # noqa: E402
from morlaif.scalarize.objective import Objective  # noqa: E402
from morlaif.scalarize.registry import resolve  # noqa: E402
from morlaif.scalarize.settings import ScalarizerSettings  # noqa: E402

NAMES = ("early", "different")  # what the small reward of the PPO checks scores
WORDS = ("river", "stone", "cloud", "bread", "window", "garden", "letter", "train")
CHECKS: dict[str, Callable[[torch.device, Path], dict[str, Any]]] = {}


def check(name: str) -> Callable:
    def put(function: Callable) -> Callable:
        CHECKS[name] = function
        return function

    return put


class Killed(Exception):
    """In place of a kill: training stops between two steps."""


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("out", type=Path)
    asked.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    asked.add_argument("--only", nargs="*", default=None, help="checks whose names begin so")
    arguments = asked.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    bad = 0
    with (arguments.out / "agree.jsonl").open("a") as lines, tempfile.TemporaryDirectory() as folder:
        for name, function in CHECKS.items():
            if arguments.only and not any(name.startswith(start) for start in arguments.only):
                continue
            began = time.perf_counter()
            try:
                found = function(torch.device(arguments.device), Path(tempfile.mkdtemp(dir=folder)))
            except Exception as error:
                traceback.print_exc()
                found = {"ok": False, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            bad += not found["ok"]
            found = {"check": name, "seconds": round(time.perf_counter() - began, 1), **found}
            print(json.dumps(found), flush=True)
            lines.write(json.dumps(found) + "\n")
            lines.flush()
    sys.exit(bool(bad))


def close(found: Any, wanted: Any, tolerance: float, **more: Any) -> dict[str, Any]:
    """Largest difference, relative to the larger of 1 and the wanted number."""
    a, b = (torch.as_tensor(x).detach().double().cpu() for x in (found, wanted))
    error = float(((a - b).abs() / b.abs().clamp(min=1)).max()) if a.shape == b.shape else float("nan")
    return {"ok": error <= tolerance, "error": error, "tolerance": tolerance, **more}


def both(check: Callable[[torch.device], Any], device: torch.device, tolerance: float) -> dict[str, Any]:
    return close(check(device), check(torch.device("cpu")), tolerance)


# --- one forward, sampling ---


def world(folder: Path, layers: int = 2) -> Path:
    """A small Llama and a tokenizer that has read the words of this file."""
    rng = random.Random(0)
    words = (*WORDS, "kindly", "rudely", "Human:", "Assistant:", "A", "B")
    texts = [" ".join(rng.choices(words, k=20)) for _ in range(60)]
    tokenizer = train_tokenizer(texts, 300)
    scratch = ScratchSettings(
        vocab_size=300, hidden_size=64, layers=layers, heads=4, intermediate_size=128, max_positions=2048,
        tie_embeddings=True, init_std=0.12,
    )  # fmt: skip
    path = folder / "world"
    build_causal_lm(scratch, tokenizer, 0).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def _sampled(temperature: float, top_p: float) -> Callable:
    def run(device: torch.device, folder: Path) -> dict[str, Any]:
        path = world(folder)
        tokenizer = load_tokenizer(path)
        prompts = [[5 + (i * 7 + j) % 250 for j in range(3 + i % 9)] for i in range(24)]

        def sample(where: torch.device) -> list[list[int]]:
            model = load_causal_lm(path, device=where, tokenizer=tokenizer)
            return generate(
                model, tokenizer, prompts, max_new_tokens=24, temperature=temperature, top_p=top_p, batch_size=16,
                stop=["river"], generator=torch.Generator().manual_seed(3),
            )  # fmt: skip

        one, other = sample(device), sample(torch.device("cpu"))
        same = sum(a == b for a, b in zip(one, other, strict=True))
        return {"ok": same == len(one), "rows alike": same, "rows": len(one)}

    return run


check("generate: greedy, a stop string")(_sampled(0.0, 1.0))
check("generate: one generator's luck")(_sampled(1.0, 1.0))
check("generate: top_p")(_sampled(0.8, 0.9))


@check("generate: bfloat16 runs")
def _bfloat(device: torch.device, folder: Path) -> dict[str, Any]:
    path = world(folder)
    tokenizer = load_tokenizer(path)
    model = load_causal_lm(path, device=device, dtype=torch.bfloat16, tokenizer=tokenizer)
    found = generate(model, tokenizer, [[5, 6, 7]] * 8, max_new_tokens=16, temperature=1.0, batch_size=8)
    return {"ok": len(found) == 8, "tokens": sum(map(len, found))}


@check("generate: a step that cannot be recorded")
def _unrecorded(device: torch.device, folder: Path) -> dict[str, Any]:
    """It waits for a number from the GPU. Sampling goes on, and so do dropout and other graphs."""
    path = world(folder)
    tokenizer = load_tokenizer(path)
    model = load_causal_lm(path, device=device, tokenizer=tokenizer)

    def sampled(fixed: bool) -> list[list[int]]:
        return generate(
            model, tokenizer, [[5, 6, 7], [8, 9]] * 4, max_new_tokens=16, temperature=1.0, batch_size=8,
            generator=torch.Generator().manual_seed(3), fixed=fixed,
        )  # fmt: skip

    wanted, plain = sampled(False), sampled(True)
    hook = model.model.norm.register_forward_pre_hook(lambda _, given: print(end=" " * int(given[0].isnan().any())))
    waiting = sampled(True)
    hook.remove()
    refused = device.type == "cpu" or not decode._fixed.pop(model)  # and is forgotten
    again, dropped = sampled(True), torch.dropout(torch.ones(1000, device=device), 0.5, True)
    rows = {"recorded": plain, "waits": waiting, "recorded again": again}
    alike = {"refused": refused} | {name: found == wanted for name, found in rows.items()}
    return {"ok": all(alike.values()) and 300 < int((dropped > 0).sum()) < 700, **alike}


# --- supervised fine-tuning ---


def _sft(kind: str, **changes: Any) -> Any:
    values = presets.preset("sft", kind)
    usual = {"max_steps": 4, "batch_size": 8, "micro_batch_size": 4, "max_length": 64, "log_every": 1}
    return TypeAdapter(SFTSettings).validate_python(values | usual | {"checkpoint_every": None} | changes)


def _finetuned(
    path: Path, device: torch.device, keep: Path, settings: Any, dtype: torch.dtype = torch.float32, end: int = 99
) -> list[float]:
    """Loss of each step; stops before the one after `end`."""
    losses: list[float] = []

    def on_log(step: int, total: int, metrics: dict[str, float]) -> None:
        losses.append(metrics["loss"])
        if step > end:
            raise Killed

    tokenizer = load_tokenizer(path)
    model = load_causal_lm(path, device=device, tokenizer=tokenizer)
    rng = random.Random(1)
    texts = [[" ".join(rng.choices(WORDS, k=rng.randint(2, 12))) for _ in "ab"] for _ in range(32)]
    examples = [Example(str(i), [{"role": "user", "content": a}], b, None, None) for i, (a, b) in enumerate(texts)]
    with suppress(Killed):
        finetune(model, tokenizer, examples, settings, seed=0, keep=keep, dtype=dtype, on_log=on_log)
    return losses


@check("sft: full")
def _(device: torch.device, folder: Path) -> dict[str, Any]:
    path, settings = world(folder), _sft("full")
    return both(lambda where: _finetuned(path, where, folder / where.type, settings), device, 1e-4)


@check("sft: full, bfloat16")
def _(device: torch.device, folder: Path) -> dict[str, Any]:
    path, settings = world(folder), _sft("full")
    low = _finetuned(path, device, folder / "low", settings, torch.bfloat16)
    return close(low, _finetuned(path, torch.device("cpu"), folder / "cpu", settings), 5e-2)


@check("sft: resume, LoRA with dropout")
def _(device: torch.device, folder: Path) -> dict[str, Any]:
    path, settings = world(folder), _sft("lora", checkpoint_every=2, max_steps=5)
    whole = _finetuned(path, device, folder / "a", settings)
    _finetuned(path, device, folder / "b", settings, end=3)
    again = _finetuned(path, device, folder / "b", settings)
    return close(again, whole[-len(again) :], 0.0, steps_again=len(again))


# --- preference models ---


def _pairs(count: int, seed: int, good: str = "kindly", bad: str = "rudely") -> tuple[list[Pair], list[Verdict]]:
    rng = random.Random(seed)
    pairs, verdicts = [], []
    for _ in range(count):
        texts = [" ".join([*rng.choices(WORDS, k=rng.randint(2, 12)), word, rng.choice(WORDS)]) for word in (good, bad)]
        swap = rng.random() < 0.5
        prompt = [{"role": "user", "content": " ".join(rng.choices(WORDS, k=rng.randint(1, 9)))}]
        pairs.append(Pair.of(prompt, *(texts[::-1] if swap else texts)))
        verdicts.append(Verdict(pairs[-1].id, 0.1 if swap else 0.9, 0.0, True, "test"))
    return pairs, verdicts


def _pm(preset: str, **changes: Any) -> Any:
    values = presets.preset("pm", preset)
    values["lora"] = values.get("lora", {}) | changes.pop("lora", {})
    if preset == "toy_full":
        del values["lora"]
    return TypeAdapter(PMSettings).validate_python(values | {"epochs": 1} | changes)


def _trained(
    path: Path, device: torch.device, folder: Path, settings: Any, end: int = 99, dtype: torch.dtype = torch.float32
) -> tuple[list[list[float]], dict[str, Path]]:
    """Losses of each step of two principles, and where the models lie."""
    pairs, verdicts = _pairs(64, 0)
    held, held_verdicts = _pairs(16, 1)
    turned = [
        [Verdict(v.pair_id, 1 - v.p_first, 0.0, True, "test") for v in part] for part in (verdicts, held_verdicts)
    ]
    both = {"kind": (verdicts, held_verdicts), "rude": turned}
    losses: list[list[float]] = []

    def on_step(step: int, total: int, found: dict[str, float]) -> None:
        if step > end:
            raise Killed
        losses.append([found.get(name, 0.0) for name in both])  # some kinds learn one after another

    tasks = [Task(name, *given, folder / name, f"Which is more {name}?", None) for name, given in both.items()]
    for one in tasks:
        one.out.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(pairs, held, path, device=device, dtype=dtype)
    keep = folder / "keep" if settings.checkpoint_every else None
    with suppress(Killed):
        ends = train_pms(tasks, corpus, settings, seed=0, on_step=on_step, keep=keep)
        for failed in (one for one in ends.values() if isinstance(one, UserError)):
            raise failed
    return losses, {task.principle: task.out for task in tasks}


def _kind(preset: str) -> Callable:
    def run(device: torch.device, folder: Path) -> dict[str, Any]:
        path = world(folder, layers=3)
        settings = _pm(preset)
        (one, here), (other, _) = (
            _trained(path, where, folder / str(i), settings) for i, where in enumerate((device, torch.device("cpu")))
        )
        pairs = _pairs(40, 2)[0]
        rows = [pair.messages for pair in pairs], [pair.first for pair in pairs]
        scores = [PreferenceBank.load(here, device=where).score(*rows).cpu() for where in (device, "cpu")]
        low = PreferenceBank.load(here, device=device, dtype=torch.bfloat16).score(*rows).cpu()
        training = close(one, other, 2e-3)
        scoring = close(scores[0], scores[1], 1e-4)
        half = close(low, scores[1], 0.15)
        return {
            "ok": training["ok"] and scoring["ok"] and half["ok"], "error": training["error"],
            "scores": scoring["error"], "scores in bfloat16": half["error"],
        }  # fmt: skip

    return run


for preset in ("toy", "toy_trunk", "toy_heads", "toy_conditioned", "toy_ensemble", "toy_full"):
    check(f"pm: {preset}")(_kind(preset))


def _pm_resumed(preset: str, **changes: Any) -> Callable:
    def run(device: torch.device, folder: Path) -> dict[str, Any]:
        path, settings = world(folder), _pm(preset, checkpoint_every=2, batch_size=8, epochs=1, **changes)
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        whole, _ = _trained(path, device, folder / "a", settings, dtype=dtype)
        _trained(path, device, folder / "b", settings, end=5, dtype=dtype)
        again, _ = _trained(path, device, folder / "b", settings, dtype=dtype)
        return close(again, whole[-len(again) :], 0.0, steps_again=len(again))

    return run


check("pm: resume, lora with dropout, bfloat16")(_pm_resumed("lora", joint=2, micro_batch_size=4, warmup_steps=0))
check("pm: resume, heads with dropout, bfloat16")(_pm_resumed("toy_heads", lora={"dropout": 0.1}))


# --- PPO ---

PPO: dict[str, dict[str, Any]] = {
    "full, shared critic": {},
    "full, separate critic": {"critic.kind": "separate"},
    "lora, adapter critic": {"policy.kind": "lora", "critic.kind": "adapter"},
    "lora, gradient checkpointing": {"policy.kind": "lora", "policy.gradient_checkpointing": True},
    "rloo": {"advantage": "rloo", "critic.kind": "none", "samples_per_prompt": 4},
    "gdpo": {"advantage": "gdpo", "critic.kind": "none", "samples_per_prompt": 4},
    "grpo, KL in the loss": {
        "advantage": "grpo", "critic.kind": "none", "samples_per_prompt": 4, "kl.placement": "loss",
        "kl.estimator": "k3", "kl.controller": "adaptive", "entropy_coef": 0.01,
    },
    "scores after EOS, running scale": {
        "shaping.score_at": "after_eos", "shaping.scaling": "running", "whiten_rewards": True,
    },
}  # fmt: skip


def _ppo(
    device: torch.device,
    keep: Path,
    changes: dict[str, Any],
    dtype: torch.dtype | None = None,
    end: int = 99,
    **more: Any,
) -> list[dict[str, float]]:
    settings = small_ppo.settings(**changes)
    model = small_ppo.llama().to(device)
    critic = small_ppo.llama(5).to(device) if settings.critic.kind == "separate" else None
    torch.manual_seed(0)
    made = small_ppo.ActorCritic(model, settings, critic)
    objective = more.pop("objective", None) or small_ppo.mean_objective

    def on_step(row: dict[str, float]) -> None:
        if row["step"] > end:
            raise Killed

    trainer = small_ppo.trainer(settings, keep, made, objective=objective, autocast=dtype, **more)
    with suppress(Killed):
        trainer.run(on_step)
    return small_ppo.timeless(trainer.curve)


def _numbers(curve: list[dict[str, float]]) -> list[list[float]]:
    return [[row[key] for key in sorted(row)] for row in curve]


def _ppo_alike(changes: dict[str, Any]) -> Callable:
    def run(device: torch.device, folder: Path) -> dict[str, Any]:
        one, other = (_ppo(where, folder / str(i), changes) for i, where in enumerate((device, torch.device("cpu"))))
        first, last = close(_numbers(one[:1]), _numbers(other[:1]), 1e-3), close(_numbers(one), _numbers(other), 5e-2)
        # 1 to the last digit, but for what is computed anew in the backward pass by another kernel
        allowed = 1e-5 if changes.get("policy.gradient_checkpointing") else 0.0
        ratio = max(row["first_ratio_error"] for row in one)
        low = _ppo(device, folder / "low", changes, torch.bfloat16)
        low_ratio = max(row["first_ratio_error"] for row in low)
        return {
            "ok": first["ok"] and last["ok"] and max(ratio, low_ratio) <= allowed, "error": first["error"],
            "after three steps": last["error"], "first ratio's error": ratio, "in bfloat16": low_ratio,
            "KL at the start, bfloat16": low[0]["kl"],
        }  # fmt: skip

    return run


for name, changes in PPO.items():
    check(f"ppo: {name}")(_ppo_alike(changes))


def _ppo_resumed(changes: dict[str, Any], learns: bool = False) -> Callable:
    def run(device: torch.device, folder: Path) -> dict[str, Any]:
        often = changes | {"steps": 5, "checkpoint_every": 2, "eval_every": 1, "eval_prompts": 4, "keep": "best"}

        def ppo(keep: Path, end: int = 99) -> list[dict[str, float]]:
            more: dict[str, Any] = {"held_out": small_ppo.PROMPTS[:4]}
            if learns:
                one, zero = torch.ones(2), torch.zeros(2)
                rule = presets.preset("scalarizer", "lagrangian")
                rule["params"]["constraints"] = ["different"]
                function = resolve(ScalarizerSettings(**rule), NAMES)
                more["objective"] = Objective(NAMES, zero, one, one, one, function, "running", responses=16)
            return _ppo(device, keep, often, torch.bfloat16, end, **more)

        whole = ppo(folder / "a")
        ppo(folder / "b", end=3)
        again = ppo(folder / "b")
        return close(_numbers(again), _numbers(whole), 0.0, steps=len(again))

    return run


check("ppo: resume, bfloat16")(_ppo_resumed({}))
check("ppo: resume, LoRA with adapter critic, bfloat16")(_ppo_resumed(PPO["lora, adapter critic"]))
check("ppo: resume, objective that learns")(_ppo_resumed({}, learns=True))


# --- the local judge ---


@check("judge: feedback=hf")
def _(device: torch.device, folder: Path) -> dict[str, Any]:
    path = world(folder)
    principles = PrinciplesSettings(**presets.preset("principles", "paper12")).chosen[:4]
    values = presets.preset("feedback", "hf")
    pairs = _pairs(12, 5)[0]

    def gaps(where: torch.device) -> list[list[list[float]]]:
        settings = HfSettings(**values | {"path": str(path), "device": where.type})
        engine = LetterModel.load(settings)
        asked = [[Comparison.of(pair, principle) for principle in principles] for pair in pairs]
        stems = [engine.stem([_orders(one)[order] for one in group]) for group in asked for order in (0, 1)]
        return list(engine.gaps(stems))

    return both(gaps, device, 1e-3)


if __name__ == "__main__":
    main()
