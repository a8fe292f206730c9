"""The step of proximal policy optimisation (Schulman et al. 2017; Ziegler et al. 2019), as numbered parts.

    1 sample  →  2 score  →  3 shape the reward  →  4 estimate advantages  →  5 optimise  →  6 log

`Learner.step` is the algorithm; the mathematics is in `advantages`, `kl`, `losses`, `masked` and `shaping`.
With many processes, each samples, scores, evaluates and learns from its share of the rows; the tables of a step
(`Experience`) are small, and every process holds them whole, so nothing in between knows of the others.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from morlaif import ranks, sharded
from morlaif.data.chat import prompt_ids
from morlaif.data.records import Message
from morlaif.data.spool import token_spool
from morlaif.errors import MachineError, UserError
from morlaif.models.ends import Ends
from morlaif.rl import conflict, kl, schedule, shaping
from morlaif.rl.advantages import Trajectories, group_normalized
from morlaif.rl.cuts import Cuts
from morlaif.rl.diagnostics import centred, importance_weights, mismatch, sampler_table
from morlaif.rl.engines import make_engine
from morlaif.rl.experience import (
    Batch,
    Experience,
    Minibatch,
    response_mask,
    with_end,
)
from morlaif.rl.groups import learnt_from
from morlaif.rl.log import (
    Clock,
    angles_row,
    experience_row,
    gains_of,
    histograms,
    left_out,
    named,
    objectives_row,
    weighted_sum,
)
from morlaif.rl.masked import whiten, whiten_responses
from morlaif.rl.optimize import optimize
from morlaif.rl.policy import ActorCritic
from morlaif.rl.pulls import gradient_cosines, gradient_products
from morlaif.rl.registry import ESTIMATORS, LOSSES, with_params
from morlaif.rl.rollout import Finish, Rollout, TransformersRollout
from morlaif.rl.scores import check_rewards, check_row, check_scores, check_shaped
from morlaif.rl.settings import PPOSettings
from morlaif.rl.steered import Steered
from morlaif.scalarize.objective import Objective
from morlaif.steer.conditioning import Shares

if TYPE_CHECKING:
    from accelerate import Accelerator

Reward = Callable[[Sequence[list[Message]], Sequence[str]], Tensor]  # prompts, responses -> (B, K)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ahead:
    """The responses of a step that the policy before the last update has sampled. Plain lists, for checkpoints."""

    step: int
    responses: list[list[int]]  # B rows of ids
    sampled: list[list[float]]  # the sampler's log-probabilities of them


class Learner:
    """All that a step needs. All randomness is a function of `seed` and the step, so a step can be repeated."""

    def __init__(
        self,
        models: ActorCritic,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[list[Message]],
        reward: Reward,
        names: Sequence[str],
        objective: Objective | Callable[[Tensor], Tensor],
        settings: PPOSettings,
        *,
        seed: int,
        keep: Path,
        autocast: torch.dtype | None = None,
        accelerator: Accelerator | None = None,
        gather: float = math.inf,
        steered: Steered | None = None,
    ) -> None:
        """Train `models` in place.

        Args:
            names: of the K principles that `reward` scores.
            objective: (B, K) scores -> (B,); a bare function gets them as `reward` gives them.
            keep: folder for the run's own files.
            autocast: compute in this type; weights that learn keep their own.
            accelerator: of accelerate; one whose type is DeepSpeed shards the models.
            gather: most bytes of a sharded policy that each rank gathers whole to sample from.
            steered: of one policy for all weights.
        """
        if not prompts:
            raise UserError("PPO needs prompts, and the train split has none")
        if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
            raise UserError("the tokenizer needs a pad token other than EOS: see morlaif.data.chat.prepare_tokenizer")
        self.processes = ranks.count()
        if settings.rollouts // settings.minibatches < self.processes:
            raise UserError(
                f"ppo.minibatches: {settings.rollouts} rollouts in {settings.minibatches} minibatches give the "
                f"{self.processes} processes less than one row each; use fewer minibatches or more rollouts"
            )
        self.models, self.tokenizer, self.settings = models, tokenizer, settings
        self.pad: int = tokenizer.pad_token_id
        self.ends = Ends.of(models.model, tokenizer, settings.stop)
        self.prompts, self.reward, self.names = prompts, reward, tuple(names)
        self.objective = objective if isinstance(objective, Objective) else Objective.of(objective, names)
        self.grouped = settings.traits.apart or self.objective.normalizer == "group"
        if self.grouped and settings.samples_per_prompt < 2:
            raise UserError("normalizer group compares answers to one prompt; set samples_per_prompt above 1")
        self.prompt_ids = token_spool(
            keep, (prompt_ids(tokenizer, messages, settings.max_prompt_length) for messages in prompts)
        )
        self.seed, self.dtype, self.steered = seed, autocast, steered
        self.device = models.model.device
        self.cuts = Cuts(settings, self.seed, self.pad, self.device, self.processes)

        asked = {"gradient_cosines_every": 0, "gradient_weights": "none"}
        for key, off in asked.items():
            if getattr(settings, key) != off and any(map(sharded.is_sharded, models.groups()["policy"])):
                raise UserError(
                    f"ppo.{key}: the weights lie in parts on several ranks, and so would each principle's "
                    f"gradient; use {off}, or another stage of ZeRO than 3"
                )
        self.estimator = with_params(ESTIMATORS, settings.advantage, settings.advantage_params)
        self.policy_loss = with_params(LOSSES, settings.loss, settings.loss_params)
        self.engine = make_engine(models, settings, accelerator)
        adaptive = settings.kl.controller == "adaptive"
        self.kl = kl.KLController(settings.kl.coef, settings.kl.target if adaptive else None, settings.kl.horizon)
        self.seen = shaping.Moments()  # of the rewards that `shaping.scaling` divides
        self.totals = shaping.Moments()  # of those that `scale_rewards` divides
        self.rollout = self._rollout(gather, keep)
        self.ahead: Ahead | None = None
        self.details: list[dict[str, Any]] = []  # of each step: what is no single number

    def step(self, step: int) -> dict[str, float]:
        """One step: the policy learns from responses of its own. Returns the row of the log; `details` gets one too."""
        with self._at(step):
            return self._step(step)

    def _step(self, step: int) -> dict[str, float]:
        s = self.settings
        clock = Clock()

        # 1. Sample: n responses to each of the next prompts, neighbours in the batch.
        group = s.samples_per_prompt
        rows = self._rows(step)
        told, prompts = self._told(step, rows)
        ahead = self.ahead if self.ahead is not None and self.ahead.step == step else None
        responses = self._sample(prompts, group, step) if ahead is None else ahead.responses
        sampled = self.rollout.sampled if ahead is None else ahead.sampled
        texts = list(map(self.ends.text, responses))
        mask, value_mask = self._masks(responses)
        ended = torch.tensor(list(map(self.ends.ended, responses)), device=self.device)
        stopped = torch.tensor(list(map(self.ends.stopped, responses)), device=self.device)
        clock.lap("sample")

        # 2. Score: each principle apart, (B, K), then one number for each response, (B,).
        scores = self.score([self.prompts[row] for row in rows], texts, "score", step)
        check_scores(scores, self.names, texts, step, allow_constant=s.shaping.constant_score == "allow")
        if (observe := getattr(self.reward, "observe", None)) is not None:  # a reward that learns from the policy
            observe([self.prompts[row] for row in rows], texts)
        objective = self.objective if told is None else self.steered_objective(told)
        objective.observe(scores)  # of all processes; what the objective learns moves before it is asked
        reward = objective(scores).float()
        check_rewards(reward, texts, step)
        clock.lap("score")
        coming = self._begin(step + 1) if s.overlap and step + 1 < s.steps else None
        clock.lap("sample")

        # 3. Shape the reward, which may tell responses that are not learnt from. Log-probabilities come from the
        #    training forward, in the very micro-batches of the first pass, so that the ratio of the first minibatch is
        #    exactly 1.
        #    The log keeps `reward`: within groups the mean is nothing, and weights by gradients move.
        normal = group_normalized(scores, group) if self.grouped else objective.normalize(scores)
        combine, by_gradient = objective.combine, dict[str, float]()
        if s.gradient_weights != "none" and len(objective.active) > 1:
            factors = self._factors(step, self.cuts.passes(step, prompts, responses)[0][0], normal)
            combine = partial(weighted_sum, objective, factors)
            by_gradient = named("gradient_weight", objective.active, factors)
        target = combine(normal).float()
        scaled, self.seen = shaping.scale(target, self.seen, s.shaping)
        shaped = shaping.shape(scaled, ended, mask.sum(1), s.shaping)
        check_shaped(shaped, ended, texts, step, s.shaping)
        kept = learnt_from(shaped, group, s.learn_from, s.drop_level_groups)
        plan = self.cuts.passes(step, prompts, responses, kept)
        first = [*plan[0], *self.cuts.others(prompts, responses, kept)]
        learns = bool(kept.any()) and step >= s.critic.warmup_steps
        plain = prompts if told is None else [self.prompt_ids[row] for row in rows]
        logprobs, ref_logprobs, entropy, values = self.evaluate(first, value_mask, learns, (plain, responses))
        own, known = sampler_table(sampled, logprobs)
        # what was sampled ahead is another policy's, which is no fault of the sampler
        apart = self.rollout.compare(logprobs, ref_logprobs) if ahead is None else mismatch(logprobs, own, known)
        weights = None
        if s.importance_cap is not None:
            weights = importance_weights(logprobs, own, known, s.importance_cap)
        elif ahead is not None:
            logprobs = torch.where(known, own, logprobs)  # the ratio is to the policy that sampled
        divergence = kl.k1(logprobs, ref_logprobs).masked_fill(~mask, 0)  # (B, T)
        in_reward = s.kl.placement == "reward"
        paid = shaped * (1 - self.kl.coef) if s.kl.convex else shaped
        rewards = shaping.token_rewards(paid, divergence, self.kl.coef if in_reward else 0.0, value_mask)
        if s.whiten_rewards:
            rewards = whiten(rewards, value_mask, keep_mean=True)
        if s.scale_rewards:
            rewards, self.totals = shaping.scale_rewards(rewards, self.totals)

        # 4. Estimate advantages.
        advantages, returns = self.estimator(Trajectories(rewards, values, value_mask, group, s.gamma, s.lam))
        if s.whiten_advantages:
            normalized = (whiten_responses if s.traits.grouped else whiten)(advantages[kept], mask[kept])
            advantages = torch.zeros_like(advantages).masked_scatter(kept[:, None].expand_as(advantages), normalized)
        experience = Experience(
            prompts, responses, texts, mask, value_mask, ended, stopped, scores, reward, shaped, logprobs, ref_logprobs,
            entropy, values, rewards, advantages, torch.zeros_like(values) if returns is None else returns, weights,
        )  # fmt: skip
        clock.lap("evaluate")

        # 5. Optimise: several passes, each over all minibatches.
        many, tables = objectives_row(objective, normal, target, group, combine)
        if many and plan[0] and s.gradient_cosines_every and step % s.gradient_cosines_every == 0:
            gains = gains_of(objective, normal, target, group)
            pulls = gradient_cosines(self.engine, plan[0][0], gains, self._autocast())
            row, table = angles_row("gradient", objective.active, pulls)
            many, tables = many | row, tables | table
        rates = self._rates(step)
        updates = optimize(
            self.engine, experience, plan, rates, s,
            policy_loss=self.policy_loss,
            kl_coef=0.0 if in_reward else self.kl.coef,
            critic_only=step < s.critic.warmup_steps,
            autocast=self._autocast(),
        )  # fmt: skip
        row = experience_row(experience, self.names, self.objective, s)
        coef = self.kl.coef
        if step >= s.critic.warmup_steps:  # a policy that does not learn has a KL of 0, which says nothing of the price
            self.kl = self.kl.update(row["kl"], s.rollouts)
        clock.lap("optimise")
        self.ahead = None if coming is None else self._finished(step + 1, coming)
        clock.lap("sample")

        # 6. Log.
        row = {"step": step + 1} | row | many | updates.step | apart
        row |= {"kl_coef": coef, "learning_rate": rates[-1]["policy"]} | left_out(shaped, kept, s) | by_gradient
        if told is not None and self.steered is not None:
            row |= self.steered.row(told, objective.standardize(scores), self.names)
        check_row(row, step)
        self.details.append(updates.lists | histograms(experience) | tables)
        return row | clock.seconds()

    # --- the parts of a step, in their order ---

    def _rows(self, step: int) -> list[int]:
        """The places of the step's prompts, one for each response."""
        group = self.settings.samples_per_prompt
        count = self.settings.rollouts // group
        return [row for row in schedule.stream(len(self.prompts), step * count, count, self.seed) for _ in range(group)]

    def _weights(self, step: int) -> list[Shares] | None:
        """(B, K) of the step's responses, where the policy takes weights."""
        if self.steered is None:
            return None
        group = self.settings.samples_per_prompt
        return self.steered.weights(step, self.settings.rollouts // group, group)

    def _told(self, step: int, rows: Sequence[int]) -> tuple[list[Shares] | None, list[list[int]]]:
        """The weights of the step's responses, and the prompts as the policy reads them: with those told, if any."""
        weights = self._weights(step)
        if weights is None or self.steered is None or self.steered.steering.kind != "text":
            return weights, [self.prompt_ids[row] for row in rows]
        group, found = self.settings.samples_per_prompt, []
        for first in range(0, len(rows), group):
            told = self.steered.told(self.prompts[rows[first]], weights[first])
            found += [prompt_ids(self.tokenizer, told, self.settings.max_prompt_length)] * group
        return weights, found

    @contextmanager
    def _at(self, step: int) -> Iterator[None]:
        """The policy at the weights of the step."""
        weights = self._weights(step)
        if self.steered is None or weights is None:
            yield
            return
        with self.steered.at(weights):
            yield

    def steered_objective(self, weights: Sequence[Shares]) -> Objective:
        """The objective by the weights of each response."""
        assert self.steered is not None  # else there are none
        return self.steered.objective(self.objective, weights)

    def _sample(self, prompts: list[list[int]], group: int, step: int) -> list[list[int]]:
        try:
            return self.rollout.sample(prompts, schedule.generator(self.seed, "sample", step), group)
        except MachineError:  # a server that is gone
            self._give_up("score")
            raise

    def _begin(self, step: int) -> Finish:
        """Have `step` sampled from the policy as it is now."""
        prompts, group = self._told(step, self._rows(step))[1], self.settings.samples_per_prompt
        try:
            with self._at(step):
                return self.rollout.begin(prompts, schedule.generator(self.seed, "sample", step), group)
        except MachineError:
            self._give_up("score")
            raise

    def _finished(self, step: int, coming: Finish) -> Ahead | None:
        try:
            responses, sampled = coming()
        except MachineError as error:  # the update that was made meanwhile is not lost by it
            log.warning("step %d is sampled anew, from the policy as it is by then: %s", step + 1, error)
            return None
        return Ahead(step, responses, [list(row) for row in sampled])

    def _masks(self, responses: list[list[int]]) -> tuple[Tensor, Tensor]:
        """(B, T) tokens and (B, T) states that the critic values, which with `score_at: after_eos` are more."""
        mask = response_mask(responses).to(self.device)
        if self.settings.shaping.score_at == "last_token":
            return mask, mask
        ended = with_end(responses, self.pad, self.settings.max_new_tokens)
        value_mask = response_mask(ended).to(self.device)
        return nn.functional.pad(mask, (0, value_mask.shape[1] - mask.shape[1])), value_mask

    def score(self, prompts: Sequence[list[Message]], texts: Sequence[str], purpose: str, step: int) -> Tensor:
        """(B, K) of each response, scored by whichever rank it falls to."""
        schedule.seed_globals(self.seed, f"{purpose} {ranks.rank()}", step)  # a reward may draw
        try:
            scores = ranks.mapped(
                lambda *rows: self.reward(*rows).detach().float(), prompts, texts, mistake=(UserError, MachineError)
            )
        except (UserError, MachineError):
            self._give_up(purpose)
            raise
        return scores.to(self.device)

    def _factors(self, step: int, minibatch: Minibatch, normal: Tensor) -> Tensor:
        """(K',) what each principle that has a weight counts in this step, by its gradient on the first minibatch."""
        gains = centred(self.objective.weigh(normal), self.settings.samples_per_prompt)
        products = gradient_products(self.engine, minibatch, gains, self._autocast()).cpu()
        if self.settings.gradient_weights == "mgda":
            return conflict.mgda(products) * len(products)  # a mean of 1, so that a nat costs as much as before
        generator = schedule.generator(self.seed, "pcgrad", step)
        count = len(products)
        return conflict.pcgrad(products, [torch.randperm(count, generator=generator).tolist() for _ in range(count)])

    @torch.no_grad()
    def evaluate(
        self,
        minibatches: Sequence[Minibatch],
        mask: Tensor,
        learn: bool = False,
        plain: tuple[Sequence[list[int]], Sequence[list[int]]] | None = None,
    ) -> tuple[Tensor, ...]:
        """Log-probabilities under policy and reference, entropies and values, each (B, T).

        `learn`: an update follows, whose first micro-batch is the first one here, which therefore comes last.
        `plain`: B prompts and responses as the reference reads them. It is told no weights: at any of them the policy
        is then held to the same reference as one that is trained on these weights alone, and has the same optimum.
        """
        tables = torch.zeros(4, *mask.shape, device=mask.device)
        micro = [micro for minibatch in minibatches for micro in minibatch.micro]
        for i, (rows, batch) in reversed(list(enumerate(micro))):
            with self._autocast():
                behind = self._behind(rows, batch, plain)
                reference = self.engine(behind, reference=True)[0]
                run = self.engine.begin if learn and i == 0 else self.engine
                logprobs, entropy, values = run(batch)
            for column, packed in zip(tables, (logprobs, reference, entropy, values), strict=True):
                if packed is not None and rows:
                    column[rows, : batch.mask.shape[1]] = batch.unpack(packed)
        return ranks.total(tables).unbind()

    def _behind(
        self, rows: list[int], batch: Batch, plain: tuple[Sequence[list[int]], Sequence[list[int]]] | None
    ) -> Batch:
        """The micro-batch as the reference reads it."""
        if plain is None or self.steered is None or self.steered.steering.kind != "text" or not rows:
            return batch
        return self.cuts.batch(rows, *plain)

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def _rates(self, step: int) -> list[dict[str, float]]:
        """The learning rate of each group for each update of the step."""
        s = self.settings
        per_step = s.epochs * s.minibatches
        peaks = {"policy": s.optimizer.learning_rate, "critic": s.critic.learning_rate or s.optimizer.learning_rate}
        return [
            {n: schedule.learning_rate(update, s.steps * per_step, peak, s.optimizer) for n, peak in peaks.items()}
            for update in range(step * per_step, (step + 1) * per_step)
        ]

    def _rollout(self, gather: float, keep: Path) -> Rollout:
        if self.settings.rollout == "vllm":
            from morlaif.rl.rollout_vllm import VLLMRollout

            dtype = torch.float32 if self.dtype is None else self.dtype
            return VLLMRollout(self.engine, self.tokenizer, self.settings, dtype, keep)
        return TransformersRollout(self.engine, self.tokenizer, self.settings, self._autocast, gather)

    def _give_up(self, purpose: str) -> None:
        """Called where sampling or scoring cannot go on, before the error leaves; a run saves what it has."""
