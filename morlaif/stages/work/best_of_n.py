"""`best_of_n`: the best of n responses of the SFT policy to each held-out prompt, and what other n would give."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from morlaif import ranks
from morlaif.data.records import Message, different_prompts, load_split, prompt_id
from morlaif.errors import UserError
from morlaif.evaluation.judges import utilities
from morlaif.evaluation.objectives import as_function, variants
from morlaif.evaluation.policies import ANSWERS, PolicyResponses, draws, kept_answers, leave_answers
from morlaif.online.best_of import kl_bound
from morlaif.online.curves import BY_N, curves
from morlaif.rl.scores import check_scores
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.registry import resolve
from morlaif.stages.best_of_n import BestOfNJob
from morlaif.stages.evaluate import STAGE as EVALUATE
from morlaif.stages.work.places import policy_of
from morlaif.stages.work.scoring import SharedSource, open_scores
from morlaif.units.unit import seed_of

CANDIDATES = "candidates.jsonl"  # all samples of each prompt, with their scores


def build(job: BestOfNJob) -> dict[str, Any]:
    reads = job.reads
    n, names = reads.best_of_n.n, list(reads.names)
    prompts = list(different_prompts(load_split(job.needs.data, "eval"))[: reads.answers.prompts])
    if not prompts:
        raise UserError("best_of_n: the data's split 'eval' is empty; the method answers its prompts")

    # 1. samples: the first to each prompt is what the evaluation has the SFT policy answer
    samples = _samples(job, prompts, n)

    # 2. scores, and the one number that chooses
    source = SharedSource(open_scores(job))
    texts = [drawn.texts[i] for i in range(len(prompts)) for drawn in samples]
    scores = source([messages for messages in prompts for _ in range(n)], texts)
    check_scores(scores, names, texts, 0, allow_constant=True)
    objective = Objective.load(job.needs.weigh / "weights.json", resolve(reads.scalarizer, names), names)
    raw = scores.double().cpu().numpy()  # (P n, K), a prompt's samples together
    values = as_function(objective, names)(raw).reshape(len(prompts), n)
    best = values.argmax(axis=1).tolist()
    job.progress(n + 1, n + 1, reward=float(values.max(axis=1).mean()))

    # 3. the answers, all samples, and the curves over n
    picked = _picked(samples, best)
    facts = source.take_facts()
    if ranks.is_first():
        leave_answers(job.out / ANSWERS, prompts, picked)
        _write_lines(job.out / CANDIDATES, _rows(prompts, samples, scores, names, values, best))
        worth = utilities([m for m in prompts for _ in range(n)], texts).reshape(values.shape) if reads.truth else None
        other = {name: one for name, one in reads.scalarizers.items() if one != reads.scalarizer}
        others = variants(objective, other) if len(objective.active) > 1 else {}
        found = curves(raw.reshape(len(prompts), n, -1), objective, others, worth, seed=job.seed)
        (job.out / BY_N).write_text(json.dumps(found) + "\n")
        _write_lines(job.out / "curve.jsonl", _curve(values, samples, picked, n, facts))
        if objective.stateful:
            (job.out / "objective.json").write_text(json.dumps(objective.state_dict()) + "\n")
    return {
        "reward": {"first": float(values.mean()), "last": float(values.max(axis=1).mean())},
        "kl": kl_bound(n),
        "length": float(np.mean(picked.lengths)),
        "ended": float(np.mean([ended for drawn in samples for ended in drawn.ended])),
        "steps": 0,
        "episodes": n * len(prompts),
    }


def _samples(job: BestOfNJob, prompts: Sequence[list[Message]], n: int) -> list[PolicyResponses]:
    """n answers of the SFT policy to each prompt; those that an earlier process drew are kept."""

    def earlier() -> list[PolicyResponses]:
        files = iter(_draw(job.keep, k) for k in range(n))
        known = []
        while (file := next(files, None)) is not None and file.is_file():
            known.append(kept_answers(file, prompts))
        return known

    known = ranks.on_first(earlier)
    model, tokenizer = policy_of(job)
    seed = seed_of(job.reads.seed, EVALUATE.name)
    gather = job.hardware.zero.most_gathered
    made = []
    for k, drawn in enumerate(
        islice(draws(model, tokenizer, prompts, job.reads.answers, seed=seed, gather=gather, known=known), n)
    ):
        if k >= len(known) and ranks.is_first():
            leave_answers(_draw(job.keep, k), prompts, drawn)
        made.append(drawn)
        job.progress(k + 1, n + 1, length=float(np.mean(drawn.lengths)))
    del model
    gc.collect()  # before the preference models come
    return made


def _draw(keep: Path, k: int) -> Path:
    return keep / f"draw-{k}.jsonl"


def _picked(samples: Sequence[PolicyResponses], best: Sequence[int]) -> PolicyResponses:
    return PolicyResponses(
        *([getattr(samples[k], part)[i] for i, k in enumerate(best)] for part in ("texts", "lengths", "ended"))
    )


def _rows(
    prompts: Sequence[list[Message]],
    samples: Sequence[PolicyResponses],
    scores: torch.Tensor,
    names: Sequence[str],
    values: np.ndarray,
    best: Sequence[int],
) -> Iterable[Mapping[str, Any]]:
    of_prompt = scores.reshape(len(prompts), len(samples), -1).tolist()
    for i, messages in enumerate(prompts):
        yield {
            "prompt_id": prompt_id(messages),
            "messages": messages,
            "texts": [drawn.texts[i] for drawn in samples],
            "scores": dict(zip(names, map(list, zip(*of_prompt[i], strict=True)), strict=True)),
            "values": values[i].tolist(),
            "best": best[i],
        }


def _curve(
    values: np.ndarray, samples: Sequence[PolicyResponses], picked: PolicyResponses, n: int, facts: Mapping[str, float]
) -> list[dict[str, Any]]:
    """One sample, and the best of n."""
    one = {"step": 0, "reward": float(values.mean()), "kl": 0.0, "length": float(np.mean([d.lengths for d in samples]))}
    best = {"step": 1, "reward": float(values.max(axis=1).mean()), "kl": kl_bound(n), "kl_bound": True,
            "length": float(np.mean(picked.lengths))}  # fmt: skip
    return [one, best | {f"reward/{kind}": value for kind, value in facts.items()}]


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
