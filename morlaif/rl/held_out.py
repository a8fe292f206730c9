"""How the policy does on prompts that it never learns from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from morlaif.data.chat import decode_response
from morlaif.data.records import Message
from morlaif.rl import schedule
from morlaif.rl.experience import cut, plan_minibatch, response_mask
from morlaif.rl.log import score_row

if TYPE_CHECKING:
    from morlaif.rl.trainer import PPOTrainer


@dataclass(frozen=True)
class Answers:
    """One answer to each of B held-out prompts. Plain lists, so that a checkpoint can hold it."""

    texts: list[str]
    scores: list[list[float]]  # (B, K), on the objective's frozen statistics
    reward: list[float]  # (B,) scalarized, before shaping and KL
    kl: float  # nats a sequence, as k1 estimates it
    length: float  # tokens, EOS included
    ended: float  # share with EOS

    def row(self, names: Sequence[str], clip: float | None) -> dict[str, float]:
        row = {"reward": self.mean_reward, "kl": self.kl, "length": self.length, "ended": self.ended}
        row |= score_row(torch.tensor(self.scores), names, clip)
        return {f"eval/{name}": value for name, value in row.items()}

    @property
    def mean_reward(self) -> float:
        return sum(self.reward) / len(self.reward)

    def state(self) -> dict[str, Any]:
        return asdict(self)


def answer(trainer: PPOTrainer, step: int) -> Answers:
    """The policy's answers as it now is. The noise is the same each time, so that only the policy differs."""
    s, prompts, ids = trainer.settings, trainer.held_out, trainer.held_out_ids
    responses = trainer.rollout.sample(ids, schedule.generator(trainer.seed, "held out", 0))
    texts = [decode_response(trainer.tokenizer, row) for row in responses]
    scores = trainer.score(prompts, texts, "held out", step)
    mask = response_mask(responses).to(trainer.device)
    lengths = [len(p) + len(r) for p, r in zip(ids, responses, strict=True)]
    micro = cut(range(len(ids)), lengths, s.micro_batch_size, trainer.processes)
    batch = plan_minibatch(micro, ids, responses, trainer.tokenizer.pad_token_id, trainer.device)
    logprobs, reference, _, _ = trainer.evaluate([batch], mask)
    return Answers(
        texts=texts,
        scores=trainer.objective.standardize(scores).tolist(),
        reward=trainer.objective(scores).float().tolist(),
        kl=((logprobs - reference) * mask).sum(1).mean().item(),
        length=mask.sum(1).float().mean().item(),
        ended=sum(row[-1] == trainer.tokenizer.eos_token_id for row in responses) / len(responses),
    )


def table(
    prompts: Sequence[list[Message]], before: Answers, after: Answers, names: Sequence[str], step: int, count: int
) -> list[dict[str, Any]]:
    """The first `count` prompts, answered before the first step and after `step` of them."""

    def named(scores: list[float]) -> Mapping[str, float]:
        return dict(zip(names, scores, strict=True))

    return [
        {
            "step": step,
            "prompt": prompts[i],
            "before": before.texts[i],
            "after": after.texts[i],
            "scores_before": named(before.scores[i]),
            "scores_after": named(after.scores[i]),
            "reward_before": before.reward[i],
            "reward_after": after.reward[i],
        }
        for i in range(count)
    ]
