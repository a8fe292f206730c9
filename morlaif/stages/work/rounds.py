"""What methods share that make a policy in rounds: where one begins, its prompts, samples, scores, looks and curve."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from morlaif import ranks
from morlaif.data.chat import prompt_ids
from morlaif.data.records import Example, Message, different_prompts, load_split
from morlaif.data.spool import Picked
from morlaif.errors import Damaged
from morlaif.files import read_json, read_json_lines
from morlaif.models.ends import Ends
from morlaif.models.finetune import Turn, finetune
from morlaif.models.generate import draw_noise, generate
from morlaif.models.settings import FullSFT, LoRASFT
from morlaif.online.looks import response_logprobs
from morlaif.online.samples import Sampled, sample
from morlaif.online.settings import Rounds, Sampling
from morlaif.rl import schedule
from morlaif.rl.log import score_row
from morlaif.rl.scores import check_rewards, check_scores
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.registry import resolve
from morlaif.stages.work.places import policy_of
from morlaif.stages.work.scoring import SharedSource, open_scores
from morlaif.stages.work.sft import leave
from morlaif.units.job import Job

CURVE, OBJECTIVE, TOTALS = "curve.jsonl", "objective.json", "totals.json"
AnyJob = Job[Any, Any]  # its reads are `RoundReads`, its needs `RoundNeeds`


@dataclass(frozen=True)
class Choice:
    """n responses to each of P prompts, and what the reward makes of them."""

    prompts: Sequence[list[Message]]
    samples: Sequence[Sampled]
    scores: torch.Tensor  # (P, n, K) raw
    values: torch.Tensor  # (P, n) of the objective

    @property
    def best(self) -> list[int]:
        found: list[int] = self.values.argmax(dim=1).tolist()
        return found

    def row(self) -> dict[str, float]:
        """What the curve says of it."""
        lengths = [length for own in self.samples for length in own.lengths]
        return {
            "sampled/reward": self.values.mean().item(),
            "sampled/best": self.values.max(dim=1).values.mean().item(),
            "sampled/length": sum(lengths) / len(lengths),
            "sampled/ended": sum(sum(own.ended) for own in self.samples) / len(lengths),
        }


def begins(job: AnyJob) -> Path:
    """The folder of the policy that a round begins from."""
    folder: Path = job.needs.before or job.needs.origin
    return folder


def objective_of(job: AnyJob) -> Objective:
    """The arm's objective with what it has learnt in the rounds before."""
    names = tuple(job.reads.names)
    objective = Objective.load(job.needs.weigh / "weights.json", resolve(job.reads.scalarizer, names), names)
    if objective.stateful and job.needs.before is not None:
        objective.load_state_dict(read_json(job.needs.before / OBJECTIVE, failure=Damaged))
    return objective


def prompts_of(job: AnyJob, settings: Rounds) -> tuple[Sequence[list[Message]], list[list[Message]]]:
    """The training prompts of this round, and those that no round learns from."""
    different = different_prompts(load_split(job.needs.data, "train"))
    left, held_out = schedule.hold_out(different, settings.eval_prompts, job.seed, f"{job.stage}.eval_prompts")
    if settings.prompts is None or settings.prompts >= len(left):
        return left, held_out
    start = (job.reads.round - 1) * settings.prompts
    return Picked(left, schedule.stream(len(left), start, settings.prompts, job.seed)), held_out


def choice(
    job: AnyJob, prompts: Sequence[list[Message]], settings: Sampling, n: int, objective: Objective, steps: int
) -> tuple[Choice, Mapping[str, float]]:
    """Samples of the policy that the round begins from, scored by the arm's reward; and what that counted.

    `steps`: of the unit's progress, of which this is half.
    """
    model, tokenizer = policy_of(job, begins(job))
    seed = schedule.derive_seed(job.seed, "round", job.reads.round)

    def report(done: int) -> None:
        job.progress(max(1, steps * done // (2 * len(prompts))), steps)

    samples = sample(
        model, tokenizer, prompts, settings, n, seed=seed, file=job.keep / "samples.jsonl",
        gather=job.hardware.zero.most_gathered, on_progress=report,
    )  # fmt: skip
    del model
    free()
    source = SharedSource(open_scores(job))
    texts = [text for own in samples for text in own.texts]
    scores = source([messages for messages in prompts for _ in range(n)], texts)
    check_scores(scores, job.reads.names, texts, job.reads.round, allow_constant=True)
    objective.observe(scores)
    values = objective(scores)
    check_rewards(values, texts, job.reads.round)
    shape = (len(prompts), n)
    return Choice(prompts, samples, scores.reshape(*shape, -1), values.reshape(shape)), source.take_facts()


def imitate(
    job: AnyJob, folder: Path, examples: Sequence[Example | Turn], settings: FullSFT | LoRASFT, key: str
) -> int:
    """Fine-tune the policy in `folder` on `examples` and leave it as the unit's; how many updates that were."""
    dtype = job.dtype if isinstance(settings, LoRASFT) else torch.float32
    model, tokenizer = policy_of(job, folder, dtype)
    seed = schedule.derive_seed(job.seed, "imitate", job.reads.round) % 2**31
    model, report = finetune(
        model, tokenizer, examples, settings, seed=seed, keep=job.keep / "training", dtype=job.dtype, key=key,
        on_log=lambda step, total, metrics: job.progress(total + step, 2 * total, **metrics),
    )  # fmt: skip
    leave(job, model, tokenizer)
    del model
    free()
    return report.steps


def look(
    job: AnyJob, folder: Path, prompts: Sequence[list[Message]], settings: Sampling, objective: Objective | None
) -> dict[str, float]:
    """Reward, KL to the SFT policy (k1, nats a response), length and share that end, of one answer to each prompt.

    The noise of the answers is the same at each look.
    """
    if not prompts:
        return {"kl": 0.0} if folder == job.needs.sft else {}
    model, tokenizer = policy_of(job, folder)
    ids = [prompt_ids(tokenizer, messages, settings.max_prompt_tokens) for messages in prompts]
    generator = schedule.generator(job.seed, "held out", 0)
    noise = draw_noise(ids, settings.max_new_tokens, generator, torch.device("cpu"))
    rows = generate(
        model, tokenizer, ids, max_new_tokens=settings.max_new_tokens, temperature=settings.temperature,
        top_p=settings.top_p, stop=settings.stop, batch_size=settings.batch_size, noise=noise,
        gather=job.hardware.zero.most_gathered,
    )  # fmt: skip
    logprobs = partial(
        response_logprobs, temperature=settings.temperature, rows=min(settings.batch_size, 16),
        gather=job.hardware.zero.most_gathered,
    )  # fmt: skip
    own = logprobs(model, tokenizer, ids, rows)
    ends = Ends.of(model, tokenizer, settings.stop)
    del model
    free()
    if folder == job.needs.sft:
        apart = 0.0
    else:
        reference, _ = policy_of(job)
        theirs = logprobs(reference, tokenizer, ids, rows)
        apart = sum(a - b for a, b in zip(own, theirs, strict=True)) / len(rows)
        del reference
        free()
    row = {
        "kl": apart,
        "length": sum(map(ends.length, rows)) / len(rows),
        "ended": sum(map(ends.ended, rows)) / len(rows),
    }
    if objective is None:
        return row
    scores = SharedSource(open_scores(job))(prompts, list(map(ends.text, rows)))
    row |= {"reward": objective(scores).mean().item()}
    return row | score_row(objective.standardize(scores), list(objective.names), None)


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# --- what a round leaves ---------------------------------------------------------------------------------------------


def curve_before(job: AnyJob, folder: Path | None) -> list[dict[str, Any]]:
    return [] if folder is None else [row for _, row in read_json_lines(folder / CURVE, failure=Damaged)]


def totals(job: AnyJob, folder: Path | None, **more: float) -> dict[str, float]:
    """What all rounds so far have taken, by what it is."""
    file = None if folder is None else folder / TOTALS
    before: dict[str, float] = {}
    if file is not None and file.is_file():  # the SFT policy has none
        before = read_json(file, of=dict, failure=Damaged)
    return {name: before.get(name, 0) + more.get(name, 0) for name in {**before, **more}}


def leave_round(
    job: AnyJob, curve: Sequence[Mapping[str, Any]], spent: Mapping[str, float], objective: Objective | None
) -> dict[str, Any]:
    """Write curve, totals and what the objective has learnt; the unit's headline numbers."""
    if ranks.is_first():
        write_lines(job.out / CURVE, curve)
        (job.out / TOTALS).write_text(json.dumps(dict(spent)) + "\n")
        if objective is not None and objective.stateful:
            (job.out / OBJECTIVE).write_text(json.dumps(objective.state_dict()) + "\n")
    first, last = curve[0], curve[-1]
    gained = {"first": first["reward"], "last": last["reward"]} if "reward" in first and "reward" in last else None
    shown = {name: last[name] for name in ("kl", "length", "ended") if name in last}
    sampled = {"sampled_ended": last["sampled/ended"]} if "sampled/ended" in last else {}
    return {**({"reward": gained} if gained else {}), **shown, **sampled, **spent}


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
