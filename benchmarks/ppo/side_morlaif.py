"""Our trainer, one step each time the driver says so.

    python side_morlaif.py FOLDER separate|adapter|shared|none [REPLAY DUMP]      none: GRPO, four responses to a prompt

REPLAY: the tensors that the TRL side wrote. The first step then takes TRL's responses and minibatches in place of its
own; what it computes from them goes to DUMP.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from case import LORA, Case, Wire, resident

wire = Wire()
os.environ |= {"TOKENIZERS_PARALLELISM": "false"}

import torch  # noqa: E402
from transformers import AutoModelForSequenceClassification  # noqa: E402

from morlaif.data.chat import response_ids  # noqa: E402
from morlaif.models.load import load_causal_lm, load_tokenizer  # noqa: E402
from morlaif.preference.scoring import length_buckets  # noqa: E402
from morlaif.presets import preset  # noqa: E402
from morlaif.rl.policy import ActorCritic  # noqa: E402
from morlaif.rl.settings import PPOSettings  # noqa: E402
from morlaif.rl.trainer import PPOTrainer  # noqa: E402

MICRO_BATCH = 8  # rows at once: of like length, and few enough that their activations stay in the cache


def settings(case: Case, critic: str) -> PPOSettings:
    """The toy preset with the case's numbers and TRL's conventions."""
    tree = preset("ppo", "toy")
    tree |= {
        "steps": case.steps, "rollouts": case.rollouts, "max_new_tokens": case.new_tokens, "samples": 0,
        "generation_batch_size": case.rollouts, "micro_batch_size": MICRO_BATCH,
        "epochs": case.epochs, "minibatches": case.minibatches, "lam": case.lam, "checkpoint_every": 0,
        "clip_range": case.clip, "clip_range_value": case.clip, "value_coef": case.value_coef,
    }  # fmt: skip
    tree["shaping"] |= {
        "scaling": "none", "center": False, "clip": None,
        "missing_eos": "subtract", "missing_eos_value": case.missing_eos, "score_at": "after_eos",
    }  # fmt: skip
    tree["kl"] |= {"coef": case.kl_coef, "controller": "fixed"}
    tree["optimizer"] |= {"learning_rate": case.learning_rate, "eps": 1e-8, "max_grad_norm": 1e9}  # TRL never clips
    tree["critic"] |= {"kind": critic, "init": "pm" if critic == "separate" else "sft"}
    if (
        critic == "none"
    ):  # as TRL's GRPOTrainer: groups of four, the KL in the loss, a reward for each response as it is
        tree |= {"advantage": "grpo", "samples_per_prompt": 4, "whiten_advantages": False}
        tree["kl"] |= {"placement": "loss", "estimator": "k3"}
        tree["shaping"] |= {"missing_eos": "none", "score_at": "last_token"}
    if case.lora:
        tree["policy"] |= {"kind": "lora", "r": LORA["r"], "alpha": LORA["lora_alpha"]}
    return PPOSettings(**tree)


class ClassifierReward:
    """A classifier's score of the last token, EOS; responses are tokenized anew, prompts come as ids, as for TRL."""

    def __init__(self, model, tokenizer, prompts: list[dict]) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.prompts = {json.dumps(row["messages"]): row["ids"] for row in prompts}
        self.ids: list[list[int]] | None = None  # given ids in place of all others

    def tokenize(self, prompts, responses) -> list[list[int]]:
        return [
            self.prompts[json.dumps(prompt)] + response_ids(self.tokenizer, response)
            for prompt, response in zip(prompts, responses, strict=True)
        ]

    @torch.no_grad()
    def __call__(self, prompts, responses) -> torch.Tensor:
        rows = self.ids or self.tokenize(prompts, responses)
        scores = torch.zeros(len(rows), 1)
        for bucket in length_buckets([len(row) for row in rows], 4096):
            batch = [rows[i] for i in bucket]
            width = max(map(len, batch))
            ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in batch])
            states = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            last = states[torch.arange(len(batch)), torch.tensor([len(row) - 1 for row in batch])]
            scores[bucket] = self.model.score(last)
        return scores


def main() -> None:
    folder, critic = Path(sys.argv[1]), sys.argv[2]
    case = Case.load(folder)
    imported = resident()
    config = settings(case, critic)
    rows = json.loads((folder / "prompts.json").read_text())
    tokenizer = load_tokenizer(folder / "policy")

    def classifier():
        return AutoModelForSequenceClassification.from_pretrained(folder / "scorer", num_labels=1)

    def numbers(_, responses) -> torch.Tensor:
        return torch.tensor([[float(sum(map(ord, text)) % 97)] for text in responses])

    reward = numbers if critic == "none" else ClassifierReward(classifier(), tokenizer, rows)
    torch.manual_seed(0)
    policy = load_causal_lm(folder / "policy", tokenizer=tokenizer)
    models = ActorCritic(policy, config, classifier() if critic == "separate" else None)
    trainer = PPOTrainer(
        models, tokenizer, [row["messages"] for row in rows], reward, ["score"], lambda scores: scores[:, 0], config,
        seed=0, keep=folder / "keep",
    )  # fmt: skip
    if len(sys.argv) > 3:
        from replay import replay

        reference = load_causal_lm(folder / "reference", tokenizer=tokenizer)
        replay(trainer, reward, reference, torch.load(sys.argv[3]), Path(sys.argv[4]))
    wire.tell(imported=imported, loaded=resident())
    while wire.begin():
        row = trainer.step(len(trainer.curve))
        trainer.curve.append(row)
        parts = {name: seconds for name, seconds in row.items() if name.startswith("seconds/")}
        wire.end(tokens=round(row["length"] * config.rollouts), parts=parts)


main()
