"""One step of our trainer on the responses and minibatches of TRL's first step, and what differs.

The sampling is TRL's own, and what is replayed are its tokens; all else is computed anew from the same weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from case import Case

from morlaif.rl import learner, schedule, trainer

TOLERANCE = 1e-4
MASKS = {"values": "value_mask", "rewards": "value_mask", "returns": "value_mask"}  # the rest: tokens of responses


def replay(made: trainer.PPOTrainer, reward: Any, reference: Any, theirs: dict[str, Any], dump: Path) -> None:
    """Let the first step of `made` repeat that of TRL, and write what it computes to `dump`."""
    made.models.reference = reference
    pad = made.tokenizer.pad_token_id
    prompts = [[token for token in row if token != pad] for row in theirs["queries"].tolist()]
    responses = [[token for token in row if token != pad] for row in theirs["postprocessed_responses"].tolist()]
    place = {tuple(ids): row for row, ids in enumerate(made.prompt_ids)}
    schedule.stream = lambda *_: [place[tuple(ids)] for ids in prompts]
    made.rollout.sample = lambda *_: responses
    reward.ids = [p + r for p, r in zip(prompts, responses, strict=True)]
    orders = iter(theirs["permutations"])

    def partition(lengths, minibatches, *_):
        return [[part.tolist()] for part in torch.tensor(next(orders)).tensor_split(minibatches)]

    learner.partition = partition
    optimise = learner.optimize

    def keep(engine, experience, *args, **kwargs):
        updates = optimise(engine, experience, *args, **kwargs)
        names = ("mask", "value_mask", "logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns")
        tensors = {name: getattr(experience, name).clone() for name in names}
        tensors |= {"scores": experience.shaped, "kl": experience.logprobs - experience.ref_logprobs}
        tensors |= {name: torch.tensor(updates.lists[f"updates/{name}"]) for name in ("policy_loss", "value_loss")}
        torch.save(tensors, dump)
        return updates

    learner.optimize = keep


def report(theirs: Path, ours: Path, case: Case) -> int:
    """Print the largest difference of each quantity; 0 if the first update's losses agree to `TOLERANCE`."""
    a, b = torch.load(theirs), torch.load(ours)
    rows = {}
    for name in ("logprobs", "ref_logprobs", "kl", "values", "rewards", "advantages", "returns"):
        mask = b[MASKS.get(name, "mask")]
        rows[name] = (a[name][:, : mask.shape[1]] - b[name]).abs()[mask].max().item(), b[name][mask].abs().mean().item()
    rows["scores"] = (a["scores"] - b["scores"]).abs().max().item(), b["scores"].abs().mean().item()
    for name, mask in (("padding_mask", "mask"), ("padding_mask_p1", "value_mask")):
        width = b[mask].shape[1]
        assert torch.equal(~a[name][:, :width], b[mask]) and a[name][:, width:].all(), f"other tokens: {name}"
    print(f"{int(b['mask'].sum())} response tokens in {len(b['mask'])} responses, the same on both sides")
    print(f"{'':<14} {'largest difference':>18} {'mean size':>10}")
    for name, (difference, size) in rows.items():
        print(f"{name:<14} {difference:>18.1e} {size:>10.3f}")
    losses = {
        "policy loss": (a["pg_loss_stats"].flatten(), b["policy_loss"]),
        "value loss": (a["vf_loss_stats"].flatten(), b["value_loss"]),
    }
    losses["total loss"] = tuple(p + case.value_coef * v for p, v in zip(*losses.values(), strict=True))
    updates = case.epochs * case.minibatches
    print(f"\n{'first update':<14} {'TRL':>12} {'morlaif':>12} {'difference':>11}   largest of all {updates} updates")
    worst = 0.0
    for name, (x, y) in losses.items():
        first = (x[0] - y[0]).abs().item()
        worst = max(worst, first)
        print(f"{name:<14} {x[0].item():>12.7f} {y[0].item():>12.7f} {first:>11.1e}   {(x - y).abs().max().item():.1e}")
    return int(worst > TOLERANCE)
