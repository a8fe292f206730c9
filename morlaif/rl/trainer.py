"""Proximal policy optimisation of a language model (Schulman et al. 2017; Ziegler et al. 2019), as numbered steps.

    1 sample  →  2 score  →  3 shape the reward  →  4 estimate advantages  →  5 optimise  →  6 log

`PPOTrainer.step` is the algorithm; the mathematics stands in `advantages`, `kl`, `losses`, `masked` and `shaping`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from morlaif.data.chat import decode_response, prompt_ids
from morlaif.data.records import Message
from morlaif.errors import UserError
from morlaif.models.generate import generate
from morlaif.rl import advantages, checkpoint, kl, schedule, shaping
from morlaif.rl.experience import Batch, Experience, collate, partition, response_mask
from morlaif.rl.masked import explained_variance, masked_mean, whiten
from morlaif.rl.optimize import make_optimizer, optimize
from morlaif.rl.policy import ActorCritic
from morlaif.rl.scores import check_rewards, check_scores
from morlaif.rl.settings import PPOSettings
from morlaif.settings import identity

Reward = Callable[[Sequence[list[Message]], Sequence[str]], Tensor]  # prompts, responses -> (B, K)
Objective = Callable[[Tensor], Tensor]  # (B, K) -> (B,); with `.normalize` the log and gdpo use it
Plan = list[list[list[tuple[list[int], Batch]]]]  # epochs of minibatches of micro-batches: rows and their batch


@dataclass(frozen=True)
class TrainResult:
    curve: list[dict[str, float]]  # one row for each step
    samples: list[dict[str, object]]  # prompt, before, after, scores of both
    stopped: str | None  # why the run ended before its last step


class PPOTrainer:
    """One run. All randomness is a function of `seed` and the step, so a resumed run repeats the unbroken one."""

    def __init__(
        self,
        models: ActorCritic,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[list[Message]],
        reward: Reward,
        names: Sequence[str],
        objective: Objective,
        settings: PPOSettings,
        *,
        seed: int,
        keep: Path,
        autocast: torch.dtype | None = None,
    ) -> None:
        """`keep`: folder of the checkpoint. `autocast`: compute in this type; weights that learn keep their own."""
        if not prompts:
            raise UserError("PPO needs prompts, and the train split has none")
        if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
            raise UserError("the tokenizer needs a pad token other than EOS: see morlaif.data.chat.prepare_tokenizer")
        self.models, self.tokenizer, self.settings = models, tokenizer, settings
        self.prompts, self.reward, self.names, self.objective = prompts, reward, tuple(names), objective
        self.prompt_ids = [prompt_ids(tokenizer, messages, settings.max_prompt_length) for messages in prompts]
        self.seed, self.keep, self.dtype = seed, keep, autocast
        self.device = models.model.device

        self.optimizer = make_optimizer(models, settings.optimizer)
        adaptive = settings.kl.controller == "adaptive"
        self.kl = kl.KLController(settings.kl.coef, settings.kl.target if adaptive else None, settings.kl.horizon)
        self.seen = shaping.Moments()
        self.curve: list[dict[str, float]] = []

    def run(self, on_step: Callable[[dict[str, float]], None] | None = None) -> TrainResult:
        """Train from the last checkpoint, or from the start, to the end."""
        self._resume()
        stopped = self._stop_reason()
        while len(self.curve) < self.settings.steps and stopped is None:
            row = self.step(len(self.curve))
            self.curve.append(row)
            stopped = self._stop_reason()
            every = self.settings.checkpoint_every
            if every and (len(self.curve) % every == 0 or len(self.curve) == self.settings.steps):
                self._save()
            if on_step is not None:
                on_step(row)
        return TrainResult(self.curve, self._samples(), stopped)

    def step(self, step: int) -> dict[str, float]:
        """One step: the policy learns from responses of its own. Returns the row of the log."""
        s = self.settings
        clock = Clock()

        # 1. Sample: n responses to each of the next prompts, neighbours in the batch.
        group = s.samples_per_prompt
        count = s.rollouts // group
        rows = [row for row in schedule.stream(len(self.prompts), step * count, count, self.seed) for _ in range(group)]
        prompts = [self.prompt_ids[row] for row in rows]
        responses = self._generate(self.models.model, prompts, schedule.generator(self.seed, "sample", step))
        texts = [decode_response(self.tokenizer, ids) for ids in responses]
        mask = response_mask(responses).to(self.device)
        lengths = mask.sum(1)
        ended = torch.tensor([ids[-1] == self.tokenizer.eos_token_id for ids in responses], device=self.device)
        clock.lap("sample")

        # 2. Score: each principle apart, (B, K), then one number for each response, (B,).
        scores = self.reward([self.prompts[row] for row in rows], texts).detach().float().to(self.device)
        check_scores(scores, self.names, texts, step, allow_constant=s.shaping.constant_score == "allow")
        reward = self.objective(scores).float()
        check_rewards(reward, texts, step)
        clock.lap("score")

        # 3. Shape the reward. Log-probabilities come from the training forward, in the very micro-batches of the first
        #    pass, so that the ratio of the first minibatch is exactly 1.
        plan = self._plan(step, prompts, responses)
        logprobs, ref_logprobs, entropy, values = self._evaluate(plan[0], mask)
        target = reward
        if s.advantage == "gdpo":
            target = _grouped_objective(self.objective, scores, group)
        scaled, self.seen = shaping.scale(target, self.seen, s.shaping)
        shaped = shaping.shape(scaled, ended, lengths, s.shaping)
        divergence = kl.k1(logprobs, ref_logprobs) * mask  # (B, T)
        in_reward = s.kl.placement == "reward"
        rewards = shaping.token_rewards(shaped, divergence, self.kl.coef if in_reward else 0.0, mask)
        if s.whiten_rewards:
            rewards = whiten(rewards, mask, keep_mean=True)

        # 4. Estimate advantages.
        gains, returns = self._advantages(rewards, values, mask)
        if s.whiten_advantages:
            gains = whiten(gains, mask)
        experience = Experience(
            prompts, responses, texts, mask, ended, scores, reward, shaped,
            logprobs, ref_logprobs, entropy, values, rewards, gains, returns,
        )  # fmt: skip
        clock.lap("evaluate")

        # 5. Optimise: several passes, each over all minibatches.
        updates = optimize(
            self.models, self.optimizer, experience, plan, self._rates(step), s,
            kl_coef=0.0 if in_reward else self.kl.coef,
            critic_only=step < s.critic.warmup_steps,
            autocast=self._autocast(),
        )  # fmt: skip
        kl_sum = divergence.sum(1).mean().item()
        coef, self.kl = self.kl.coef, self.kl.update(kl_sum, s.rollouts)
        clock.lap("optimise")

        # 6. Log.
        return self._row(step, experience) | updates | {"kl_coef": coef, "kl": kl_sum} | clock.seconds()

    def _advantages(self, rewards: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) advantages and the critic's target, by the estimator of the settings."""
        s = self.settings
        if s.advantage == "gae":
            return advantages.gae(rewards, values, mask, s.gamma, s.lam)
        if s.advantage == "reinforce_pp":
            gains = advantages.reinforce_pp(rewards, mask, s.gamma)
        else:
            estimator = {"rloo": advantages.rloo, "grpo": advantages.grpo, "gdpo": advantages.gdpo}[s.advantage]
            gains = advantages.spread(estimator(rewards.sum(1), s.samples_per_prompt), mask)
        return gains, torch.zeros_like(gains)

    def _generate(
        self, model: torch.nn.Module, prompts: list[list[int]], generator: torch.Generator
    ) -> list[list[int]]:
        s = self.settings
        with self._autocast():
            return generate(
                model, self.tokenizer, prompts,
                max_new_tokens=s.max_new_tokens, temperature=s.temperature, stop=s.stop,
                batch_size=s.generation_batch_size, generator=generator,
            )  # fmt: skip

    def _plan(self, step: int, prompts: list[list[int]], responses: list[list[int]]) -> Plan:
        """All micro-batches of the step, collated."""
        s = self.settings
        lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
        pad = self.tokenizer.pad_token_id

        def collated(rows: list[int]) -> tuple[list[int], Batch]:
            return rows, collate([prompts[row] for row in rows], [responses[row] for row in rows], pad, self.device)

        chance = schedule.generator(self.seed, "minibatches", step)
        epochs = [partition(lengths, s.minibatches, s.micro_batch_size, chance) for _ in range(s.epochs)]
        return [[[collated(rows) for rows in minibatch] for minibatch in epoch] for epoch in epochs]

    @torch.no_grad()
    def _evaluate(self, minibatches: list[list[tuple[list[int], Batch]]], mask: Tensor) -> tuple[Tensor, ...]:
        """Log-probabilities under policy and reference, entropies and values, each (B, T)."""
        tables = tuple(torch.zeros(mask.shape, device=mask.device) for _ in range(4))
        for rows, batch in (micro for minibatch in minibatches for micro in minibatch):
            with self._autocast():
                logprobs, entropy, values = self.models(batch)
                reference = self.models.reference_logprobs(batch)
            for table, packed in zip(tables, (logprobs, reference, entropy, values), strict=True):
                if packed is not None:
                    table[rows, : batch.mask.shape[1]] = batch.unpack(packed)
        return tables

    def _rates(self, step: int) -> list[dict[str, float]]:
        """The learning rate of each group for each update of the step."""
        s = self.settings
        per_step = s.epochs * s.minibatches
        peaks = {"policy": s.optimizer.learning_rate, "critic": s.critic.learning_rate or s.optimizer.learning_rate}
        return [
            {n: schedule.learning_rate(update, s.steps * per_step, peak, s.optimizer) for n, peak in peaks.items()}
            for update in range(step * per_step, (step + 1) * per_step)
        ]

    def _row(self, step: int, e: Experience) -> dict[str, float]:
        s = self.settings
        normal = _normalize(self.objective, e.scores)
        row = {
            "step": step + 1,
            "reward": e.reward.mean().item(),
            "shaped_reward": e.shaped.mean().item(),
            "kl_k3": (kl.k3(e.logprobs, e.ref_logprobs) * e.mask).sum(1).mean().item(),
            "entropy": masked_mean(e.entropy, e.mask).item(),
            "length": e.mask.sum(1).float().mean().item(),
            "ended": e.ended.float().mean().item(),
            "learning_rate": self._rates(step)[-1]["policy"],
        }
        if s.shaping.clip is not None:
            row["reward_clipped"] = (e.shaped.abs() >= s.shaping.clip).float().mean().item()
        if s.critic.kind != "none":
            row["explained_variance"] = explained_variance(e.values, e.returns, e.mask).item()
        for column, name in enumerate(self.names):
            row[f"score/{name}"] = normal[:, column].mean().item()
            row[f"deviation/{name}"] = normal[:, column].std(correction=0).item()
        return row

    def _samples(self) -> list[dict[str, object]]:
        """The same prompts answered by the reference and by the policy, with the same noise."""
        count = min(self.settings.samples, len(self.prompts))
        if not count:
            return []
        ids, prompts = self.prompt_ids[:count], list(self.prompts[:count])
        texts = {}
        with self.models.as_reference() as reference:
            texts["before"] = self._generate(reference, ids, schedule.generator(self.seed, "table", 0))
        texts["after"] = self._generate(self.models.model, ids, schedule.generator(self.seed, "table", 0))
        rows: list[dict[str, object]] = [{"prompt": messages} for messages in prompts]
        for when, answers in texts.items():
            decoded = [decode_response(self.tokenizer, answer) for answer in answers]
            scores = self.reward(prompts, decoded).detach().float().to(self.device)
            normal, reward = _normalize(self.objective, scores).tolist(), self.objective(scores).tolist()
            for i, row in enumerate(rows):
                row[when] = decoded[i]
                row[f"scores_{when}"] = dict(zip(self.names, normal[i], strict=True))
                row[f"reward_{when}"] = reward[i]
        return rows

    def _stop_reason(self) -> str | None:
        limit = self.settings.kl.stop
        if limit is None or not self.curve or self.curve[-1]["kl"] <= limit:
            return None
        return f"step {len(self.curve)}: the KL of {self.curve[-1]['kl']:.1f} exceeds kl.stop = {limit:g}"

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def _fingerprint(self) -> str:
        """What a checkpoint must agree with."""
        parts = [identity(self.settings), self.seed, self.names, self.prompt_ids]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _save(self) -> None:
        checkpoint.save(self.keep, {
            "fingerprint": self._fingerprint(),
            "curve": self.curve,  # its length is the position in the data and the seed of every draw to come
            "weights": self.models.trained_state(),
            "optimizer": self.optimizer.state_dict(),
            "kl_coef": self.kl.coef,
            "seen": asdict(self.seen),
        })  # fmt: skip

    def _resume(self) -> None:
        state = checkpoint.load(self.keep, self._fingerprint())
        if state is None:
            return
        self.curve = state["curve"]
        self.models.load_trained_state(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.kl = kl.KLController(state["kl_coef"], self.kl.target, self.kl.horizon)
        self.seen = shaping.Moments(**state["seen"])


class Clock:
    """Seconds of each part of a step."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[f"seconds/{name}"] = now - self.last
        self.last = now

    def seconds(self) -> dict[str, float]:
        return {"seconds": self.last - self.start, **self.laps}


def _normalize(objective: Objective, scores: Tensor) -> Tensor:
    """(B, K) centred and scaled by the objective's frozen statistics; as they are for a bare function."""
    return objective.normalize(scores).float() if hasattr(objective, "normalize") else scores


def _grouped_objective(objective: Objective, scores: Tensor, n: int) -> Tensor:
    """The objective of scores that were first normalised within each group of n: (B, K) -> (B,)."""
    raw = advantages.group_normalized(scores, n)
    if hasattr(objective, "mean") and hasattr(objective, "scale"):  # undo what the objective is about to do
        raw = raw * torch.as_tensor(objective.scale).to(raw) + torch.as_tensor(objective.mean).to(raw)
    return objective(raw).float()


def train(
    models: ActorCritic,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[Message]],
    reward: Reward,
    names: Sequence[str],
    objective: Objective,
    settings: PPOSettings,
    *,
    seed: int,
    keep: Path,
    autocast: torch.dtype | None = None,
    on_step: Callable[[dict[str, float]], None] | None = None,
) -> TrainResult:
    """Train `models` in place; see `PPOTrainer`."""
    trainer = PPOTrainer(
        models, tokenizer, prompts, reward, names, objective, settings, seed=seed, keep=keep, autocast=autocast
    )
    return trainer.run(on_step)
