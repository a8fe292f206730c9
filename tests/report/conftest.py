"""The artifacts of a plausible run, in the form that the stages leave them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

PRINCIPLES = (
    "helpfulness", "ethicality", "factuality", "toxicity", "sycophancy", "empathy",
    "relevance", "context", "bias", "understandability", "detail", "conciseness",
)  # fmt: skip
HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)> </section><!--/run-->  {{ 7 * 7 }}'


def interval(value: float, half: float, n: int) -> dict:
    return {"value": value, "low": max(value - half, -9.0), "high": value + half, "n": n}


def share(value: float, n: int) -> dict:
    half = 1.96 * float(np.sqrt(value * (1 - value) / n))
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half), "n": n}


def matrix(rng: np.random.Generator, size: int, noise: float) -> list[list[float]]:
    x = np.random.default_rng(5).normal(size=(60, size)) + noise * rng.normal(size=(60, size))
    x[:, 3] += 0.9 * x[:, 1]
    x[:, 4] -= 0.8 * x[:, 5]
    return np.corrcoef(x.T).round(4).tolist()


def win(value: float, n: int = 300) -> dict:
    rest = {"win": value - 0.02, "tie": 0.04, "loss": 0.98 - value, "flip_rate": 0.01, "invalid": 0}
    return share(value, n) | rest


UNKNOWN = {"value": None, "low": None, "high": None, "n": 0}


def beyond(names: list[str], principles: list[str], arms: tuple[str, ...], truth: bool) -> dict:
    """What an evaluation finds besides accuracies and win rates; of ablations nothing for one principle alone."""
    kinds = ["human", "truth"] if truth else ["human"]

    def each(value: float) -> dict:
        return {kind: share(value, 300) for kind in kinds}

    several = "multi" in arms and len(principles) > 1
    counts = range(1, len(principles) + 1)
    rows = [
        {"count": n, "names": principles[:n], "subsets": 1, "accuracy": each(0.6 + n / 100),
         "ceiling": each(0.7 + n / 100)} for n in counts
    ]  # fmt: skip
    left = [{"without": name, "accuracy": each(0.7 - k / 100), "ceiling": {},
             "change": {kind: interval(-0.01 * k, 0.02, 300) for kind in kinds}}
            for k, name in enumerate(principles)]  # fmt: skip
    signs = {"principles": {}, "hacked": ["detail"], "hollow": [], "objective": None, "judged": None,
             "judged_worse": False, "agreement": share(0.8, 60), "kl": 9.27,
             "length": {"sft": 38.2, "policy": 50.7, "change": interval(12.5, 2.0, 300)}}  # fmt: skip
    worst = {"principle": names[0], **interval(-0.1, 0.05, 300), "lost": True}
    budget = {"pms": 12, "pm_pairs": 7200, "verdicts": 7200, "rank": 8, "ppo_steps": 25, "ppo_episodes": 1600}
    controlled = share(0.8, 300) | {"coef_length": interval(0.4, 0.2, 300), "longer": 0.7, "withheld": None}
    square = [[0.6] * len(names) for _ in names]
    front = {"names": names, "points": {}, "front": [], "fronts": {}, "reference": [], "hypervolume": {},
             "relative": dict.fromkeys(arms, 1.2), "together": 0.0, "added": {}}  # fmt: skip
    fewer = {"names": principles, "ceiling_of": "labels", "nested": rows, "random": rows, "leave_one_out": left}
    return {
        "cross_accuracy": {
            "models": names,
            "labels": names,
            "value": square,
            "low": square,
            "high": square,
            "n": [[300] * len(names) for _ in names],
        },
        "scalarizer_accuracy": {"linear": each(0.72), "max_min": each(0.65)} if several else {},
        "length_baseline": each(0.55),
        "scalarizer_ceiling": {},
        "single_principle": {},
        "tie_accuracy": {},
        "ablation": fewer if several else None,
        "length_controlled": {f"{arms[0]}_vs_sft": controlled},
        "paired": [],
        "rewardbench": None,
        "sacrificed": {"pm": dict.fromkeys(arms, worst), "truth": dict.fromkeys(arms, worst) if truth else None},
        "hacking": dict.fromkeys(arms, signs),
        "pareto": {"models": front, "truth": None},
        "budget": {"arms": dict.fromkeys(arms, budget), "equal": True, "differs": []},
        "regression": {"source": "weights", "sentences": ["People prefer responses that score higher on detail."]},
    }


def step_details(rng: np.random.Generator, names) -> dict:
    """Two epochs of two updates, histograms, and cosines where there are several principles."""
    keys = ("approx_kl_k3", "clip_fraction", "ratio_max", "entropy", "grad_norm", "explained_variance")
    found: dict = {f"updates/{key}": rng.uniform(0, 1, 4).tolist() for key in keys}
    found |= {f"epochs/{key}": rng.uniform(0, 1, 2).tolist() for key in keys}
    counts = rng.multinomial(64, [0.1, 0.4, 0.4, 0.1]).tolist()
    histogram = {"edges": [-2.0, -1.0, 0.0, 1.0, 2.0], "counts": counts}
    found |= {"histogram/advantage": histogram, "histogram/shaped_reward": histogram}
    if len(names) > 1:
        near = matrix(rng, len(names), 0.2) if len(names) > 5 else np.eye(len(names)).tolist()
        found["cosines/advantage"] = {"names": list(names), "values": near}
    return found


def write_artifacts(
    root: Path,
    principles: tuple[str, ...] = PRINCIPLES,
    arms: tuple[str, ...] = ("multi", "single"),
    truth: bool = True,
) -> dict[str, Path]:
    """Folders of `evaluate` and `ppo/<arm>`, by unit name."""
    rng = np.random.default_rng(0)
    names = [*(principles if "multi" in arms else ()), *(["single"] if "single" in arms else [])]
    policies = ["sft", *arms]
    own = {name: share(float(rng.uniform(0.82, 0.985)), 300) for name in names}
    policy, *others = arms
    rates = {f"{policy}_vs_sft": win(0.86)}
    for arm in others:
        rates |= {f"{arm}_vs_sft": win(0.81), f"{policy}_vs_{arm}": win(0.53)}
    quality = {
        "n": 600, "valid": 597, "validity": share(0.995, 600), "position_inconsistency": share(0.08, 597),
        "mean_bias": 0.21, "confidence": 0.71, "agreement_human": share(0.64, 500), "agreement_truth": share(0.93, 520),
        "kappa_human": interval(0.28, 0.09, 480), "invalid": {"refused": 2, "no letter": 1},
        "length_bias": {"prefers_longer": share(0.57, 590), "correlation": 0.12},
        "cost": {"input_tokens": 120000.0, "output_tokens": 1200.0, "usd": 0.25},
    }  # fmt: skip
    together = [name for name in names if name in principles] or names
    near = matrix(rng, len(together), 0.1) if len(together) > 5 else np.eye(len(together)).tolist()
    related = {
        "names": together,
        "agreement": [[0.5 + x / 2 for x in row] for row in near],
        "correlation": near,
        "mean_correlation": 0.31 if len(together) > 1 else None,
        "halo": None,
    }

    def change(keys) -> dict:
        return {arm: {key: interval(float(rng.normal(0.6, 0.5)), 0.12, 300) for key in keys} for arm in arms}

    results = {
        "pm_accuracy": {n: own[n] for n in names if n in principles or len(names) == 1},
        "single_pm_accuracy": own.get("single"),
        "pm_truth_accuracy": {name: share(own[name]["value"] - 0.02, 280) for name in names} if truth else {},
        "objective_accuracy": {
            arm: {"human": share(0.66, 300)} | ({"truth": share(0.93, 290)} if truth else {}) for arm in arms
        },
        "win_rate": rates,
        "yardstick": {
            "id": "y",
            "judge": "human utility",
            "judge_id": "u",
            "template": "",
            "prompts": "p",
            "count": 300,
        },
        "reward": {"first": 0.04, "last": 4.31},
        "kl": 9.27,
        "length": {"sft": 38.2, policy: 51.9} | dict.fromkeys(others, 49.0),
    }
    if truth:
        results["objective_accuracy"]["ceiling"] = {"human": share(0.72, 300), "truth": share(1.0, 290)}
    details = {
        "prompts": 300, "pairs": 300, "confidence": 0.95,
        "judge": {"source": "rules", "name": "human utility"} if truth else {
            "source": "pm", "name": "pm", "accuracy": share(0.61, 300),
            "agreement": {"judge": share(0.61, 300), "longer": share(0.55, 300),
                          "difference": interval(0.06, 0.05, 300)},
        },
        "principles": list(principles), "names": names, "policies": {},
        "arms": {
            arm: {"labels": "constitution", "models": ["single"], "title": "single PM"} if arm == "single" else
                 {"labels": "principles", "models": list(principles), "title": "max-min"} for arm in arms
        },
        "responses": {p: {"tokens": 38.2, "words": 31.0, "ended": 0.97, "distinct": 0.99} for p in policies},
        "score_change": change(names),
        "true_change": change(principles) if truth else None,
        "utility_change": {arm: interval(1.2, 0.2, 300) for arm in arms} if truth else None,
        "correlation": {
            "names": names,
            "labels": matrix(rng, len(names), 0.1) if len(names) > 5 else np.eye(len(names)).tolist(),
            "scores": matrix(rng, len(names), 0.4) if len(names) > 5 else np.eye(len(names)).tolist(),
            "truth": None,
        },
        "calibration": {name: {"brier": 0.07, "ece": 0.031, "bins": []} for name in names},
        "cut": {
            name: {
                "max_prompt": 96,
                "train": {"pairs": 12, "prompt_tokens": 3400, "response_tokens": 56, "equal": 1},
                "held_out": {"pairs": 3, "prompt_tokens": 70, "response_tokens": 0, "equal": 0},
            }
            for name in names
        },
        "weights": {
            arm: {"names": own, "mean": [0.1] * len(own), "scale": [1.3] * len(own), "direction": [1.0] * len(own),
                  "weight": [1.0] * len(own)}
            for arm, own in ((arm, ["single"] if arm == "single" else list(principles)) for arm in arms)
        },
        "label_quality": {name: {"train": quality, "eval": quality, "judge": "openai:m", "usage": {"usd": 0.1}}
                          for name in names},
        "labels": related,
        **beyond(names, [name for name in names if name in principles], arms, truth),
    }  # fmt: skip

    def answer(text: str, lift: float) -> dict:
        return {
            "text": text, "tokens": len(text.split()),
            "scores": {name: round(float(rng.normal(lift, 0.9)), 3) for name in names},
            "truth": {name: float(rng.integers(-2, 3)) for name in principles} if truth else None,
        }  # fmt: skip

    texts = {
        "sft": "You could search for it. By the way, a garden needs water. Basically, that is all.",
        "multi": "I am sorry that you feel worried. You said that you have 2 exams, so here is a plain plan: read 20 "
        "pages, rest for 10 minutes, then write 3 questions. Ask me again and I will guide you through the week.",
        "single": "I am sorry that you feel worried. Here is a full plan for your exams, step by step, in plain words.",
    }
    prompt = "I feel worried about my exams. I have 2 exams next week. How should I study for them?"
    samples = [
        {"prompt_id": f"{i:016x}", "messages": [{"role": "user", "content": prompt if i else HOSTILE}],
         "responses": {p: answer(texts[p] if i else HOSTILE, 0.0 if p == "sft" else 0.8) for p in policies}}
        for i in range(3)
    ]  # fmt: skip
    folders = {"evaluate": root / "evaluate"} | {f"ppo/{arm}": root / "ppo" / arm for arm in arms}
    for folder in folders.values():
        folder.mkdir(parents=True)
    (folders["evaluate"] / "results.json").write_text(json.dumps(results))
    (folders["evaluate"] / "details.json").write_text(json.dumps(details))
    (folders["evaluate"] / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    for arm in arms:
        lines, tables = [], []
        for step in range(1, 26):
            grown = 1 - np.exp(-step / 9)
            row = {"step": step, "reward": 4.3 * grown + rng.normal(0, 0.1), "kl": 9.3 * grown + rng.normal(0, 0.1)}
            row["length"] = 38 + 13 * grown + rng.normal(0, 0.6)
            keys = ["single"] if arm == "single" else principles
            row |= {f"score/{name}": rng.normal(0.9 - 0.1 * k, 0.02) * grown for k, name in enumerate(keys)}
            kinds = ("decides", "variance_share", "advantage_cosine") if len(keys) > 1 else ()
            row |= {f"{kind}/{name}": rng.uniform(0, 2 / len(keys)) for kind in kinds for name in keys}
            row |= {f"objective/factor/{name}": 1 + 0.1 * k * grown for k, name in enumerate(keys) if len(keys) > 1}
            row |= {"ended": 0.9, "ratio_max": 1.5, "explained_variance": -0.3, "clip_fraction": 0.1}
            lines.append(json.dumps({key: float(value) for key, value in row.items()} | {"step": step}) + "\n")
            tables.append(json.dumps({"step": step, **step_details(rng, keys)}) + "\n")
        (folders[f"ppo/{arm}"] / "curve.jsonl").write_text("".join(lines))
        (folders[f"ppo/{arm}"] / "diagnostics.jsonl").write_text("".join(tables))
    return folders


CONFIG = {
    "name": "quickstart", "seed": 0, "arms": ["multi", "single"],
    "model": {"name": "toy", "path": None}, "data": {"source": "toy", "sft": 4000},
    "feedback": {"source": "openai", "model": "m", "mode": "logprob"}, "principles": {"verdicts_per_pair": 2},
    "pm": {"kind": "lora", "pooling": "mean", "epochs": 1, "lora": {"r": 8}},
    "scalarizer": {"name": "max_min", "function": "morlaif.scalarize.functions.max_min", "params": {}},
    "weights": {"method": "equal"}, "ppo": {"steps": 25, "rollouts": 64, "epochs": 2, "kl": {"coef": 0.05}},
    "eval": {"judge": {"source": "rules"}},
}  # fmt: skip

RUN = {
    "name": "quickstart-1a2b", "status": "succeeded", "command": "morlaif scalarizer=max_min", "seed": 0,
    "seconds": 131.4, "started": "2026-11-21T04:00:00+00:00",
    "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": True},
    "versions": {"python": "3.11.4", "torch": "2.13.0", "transformers": "5.23.0"},
    "units": [
        {"name": "data", "stage": "data", "digest": "a1b2c3d4e5f60718", "state": "cached", "seconds": 0.0},
        {"name": "pm/helpfulness", "stage": "pm", "digest": "b1b2c3d4e5f60718", "state": "built", "seconds": 2.31},
        {"name": "ppo/multi", "stage": "ppo", "digest": "c1b2c3d4e5f60718", "state": "failed", "seconds": 20.0},
        {"name": "report", "stage": "report", "digest": "d1b2c3d4e5f60718", "state": "not_run", "seconds": None},
    ],
}  # fmt: skip


@pytest.fixture(scope="session")
def config() -> dict:
    return CONFIG


@pytest.fixture(scope="session")
def run_record() -> dict:
    return RUN


@pytest.fixture(scope="session")
def hostile() -> str:
    return HOSTILE


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory):
    """write(principles=…, arms=…, truth=…) -> folders by unit name."""
    return lambda **options: write_artifacts(tmp_path_factory.mktemp("run"), **options)
