"""`respond`: two responses for each prompt of "train" and "eval", to be judged under each principle."""

from __future__ import annotations

from typing import Any

from morlaif import ranks
from morlaif.data.records import content_id, load_split, save_pairs
from morlaif.errors import UserError
from morlaif.models.respond import ResponsePairs, sample_pairs, source_pairs
from morlaif.models.settings import PairResponses, RespondSettings
from morlaif.stages.respond import RespondJob
from morlaif.stages.work.places import policy_of

SPLITS = ("train", "eval")


def build(job: RespondJob) -> dict[str, Any]:
    settings: RespondSettings = job.reads.respond
    examples = {split: load_split(job.needs.data, split) for split in SPLITS}
    total = sum(map(len, examples.values()))
    responses: dict[str, ResponsePairs] = {}
    if isinstance(settings, PairResponses):
        responses = {split: source_pairs(examples[split]) for split in SPLITS}
        job.progress(total, total)
    else:
        model, tokenizer = policy_of(job)
        done = 0
        for split in SPLITS:
            # Each split has its own noise: more prompts in one do not change the other.
            seed = int(content_id(job.seed, split), 16) % 2**63

            def report(rows: int, before: int = done) -> None:
                job.progress(before + rows, total)

            responses[split] = sample_pairs(
                model, tokenizer, examples[split], settings, seed=seed, gather=job.hardware.zero.most_gathered,
                on_progress=report, folder=job.keep,
            )  # fmt: skip
            done += len(examples[split])
    for split in SPLITS:
        if not responses[split].pairs:
            raise UserError(f"respond: no prompt of split '{split}' has two different responses")
    ranks.on_first(lambda: save_pairs(job.out, {split: responses[split].pairs for split in SPLITS}))
    return _numbers(responses)


def _numbers(responses: dict[str, ResponsePairs]) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for split, got in responses.items():
        numbers[split] = len(got.pairs)
        numbers[f"{split}_dropped"] = got.dropped
        if got.ended is not None and got.tokens is not None:
            numbers |= {f"{split}_ended": round(got.ended, 4), f"{split}_tokens": round(got.tokens, 2)}
    return numbers
