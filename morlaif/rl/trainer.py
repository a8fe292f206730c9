"""A run of proximal policy optimisation: its steps, the look at held-out prompts, what is kept and taken up again.

The algorithm itself is `morlaif.rl.learner`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from morlaif import ranks
from morlaif.data.chat import prompt_ids
from morlaif.data.records import Message
from morlaif.models.checkpoint import Checkpoints
from morlaif.pace import Pace
from morlaif.rl import kl, schedule, shaping
from morlaif.rl.experience import cut, plan_minibatch, response_mask
from morlaif.rl.held_out import Answers, gain_row, table
from morlaif.rl.learner import Ahead, Learner, Reward
from morlaif.rl.policy import ActorCritic
from morlaif.rl.settings import PPOSettings
from morlaif.rl.steered import Steered
from morlaif.scalarize.objective import Objective
from morlaif.settings import identity

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class TrainResult:
    curve: list[dict[str, float]]  # one row for each step
    details: list[dict[str, Any]]  # of each step: lists by update and epoch, histograms, cosines
    samples: list[dict[str, Any]]  # step, prompt, before, after, scores of both
    stopped: str | None  # why the run ended before its last step
    best: int | None  # the step after which the held-out reward was highest
    other: dict[str, Tensor] | None  # weights of the policy (last or best) that the settings do not keep
    kept: list[int]  # steps after which weights were kept: `PPOTrainer.kept` gives them


class PPOTrainer(Learner):
    """One run. All randomness is a function of `seed` and the step, so a resumed run repeats the unbroken one."""

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
        held_out: Sequence[list[Message]] = (),
        autocast: torch.dtype | None = None,
        accelerator: Accelerator | None = None,
        gather: float = math.inf,
        steered: Steered | None = None,
    ) -> None:
        """Train `models` in place. What is not here is as `Learner` has it.

        Args:
            keep: folder of the checkpoints.
            held_out: prompts that are only evaluated on (`schedule.hold_out` draws some).
        """
        super().__init__(
            models, tokenizer, prompts, reward, names, objective, settings,
            seed=seed, keep=keep, autocast=autocast, accelerator=accelerator, gather=gather, steered=steered,
        )  # fmt: skip
        self.held_out = held_out
        self.held_out_weights = None if steered is None else steered.held_out(len(held_out))
        asked = held_out if steered is None else map(steered.told, held_out, self.held_out_weights or ())
        plain, told = (
            [prompt_ids(tokenizer, messages, settings.max_prompt_length) for messages in rows]
            for rows in (held_out, asked)
        )
        self.held_out_ids, self.held_out_plain = told, plain
        self.checkpoints = Checkpoints(keep, self._fingerprint())
        self.curve: list[dict[str, float]] = []
        self.samples: list[dict[str, Any]] = []
        self.before: Answers | None = None  # the answers to the held-out prompts before the first step
        self.best: tuple[int, float] | None = None  # step and held-out reward

    def run(self, on_step: Callable[[dict[str, Any]], None] | None = None) -> TrainResult:
        """Train from the last checkpoint, or from the start, to the end. `on_step` gets row and details as one."""
        s, pace = self.settings, Pace(self.settings.checkpoint_every)
        self._resume()
        if self.before is None and self.held_out:
            self.before = self.answer(0)
        stopped = self._stop_reason()
        while len(self.curve) < s.steps and stopped is None:
            row = self.step(len(self.curve))
            self.curve.append(row)
            done, stopped = len(self.curve), self._stop_reason()
            last = done == s.steps or stopped is not None
            keeps = bool(s.keep_every) and done % (s.keep_every or 1) == 0
            if self.held_out and (last or keeps or (s.eval_every and done % s.eval_every == 0)):
                row |= self._evaluate_held_out(done)
            if keeps:
                weights = self.engine.weights()
                ranks.on_first(partial(self.checkpoints.save_kept, done, weights))
            row |= self._counted()
            if on_step is not None and ranks.is_first():  # first: whoever goes on from a checkpoint has its row
                on_step(row | self.details[-1])
            if pace.due(done) or (last and s.checkpoint_every):
                self._save()
        best = self.best and self.best[0]
        kept = list(range(s.keep_every, len(self.curve) + 1, s.keep_every)) if s.keep_every else []
        return TrainResult(self.curve, self.details, self.samples, stopped, best, self._choose(), kept)

    def kept(self, step: int) -> dict[str, Tensor]:
        """The weights that were kept after a step."""
        return self.checkpoints.load_kept(step)

    # --- held-out prompts, and which policy is kept ---

    def answer(self, step: int) -> Answers:
        """The answers of the policy as it now is. The noise is the same each time, so that only the policy differs."""
        if self.steered is not None and self.held_out_weights:
            with self.steered.at(self.held_out_weights):
                return self._answer(step)
        return self._answer(step)

    def _answer(self, step: int) -> Answers:
        s, prompts, ids = self.settings, self.held_out, self.held_out_ids
        responses = self.rollout.sample(ids, schedule.generator(self.seed, "held out", 0))
        texts = list(map(self.ends.text, responses))
        scores = self.score(prompts, texts, "held out", step)
        mask = response_mask(responses).to(self.device)
        lengths = [len(p) + len(r) for p, r in zip(ids, responses, strict=True)]
        micro = cut(range(len(ids)), lengths, s.micro_batch_size, self.processes)
        batch = plan_minibatch(micro, ids, responses, self.pad, self.device)
        logprobs, reference, _, _ = self.evaluate([batch], mask, plain=(self.held_out_plain, responses))
        return Answers(
            texts=texts,
            scores=self.objective.standardize(scores).tolist(),
            reward=self.held_out_objective(scores).float().tolist(),
            kl=((logprobs - reference) * mask).sum(1).mean().item(),
            length=mask.sum(1).float().mean().item(),
            ended=sum(map(self.ends.ended, responses)) / len(responses),
            raw=scores.tolist(),
        )

    @property
    def held_out_objective(self) -> Objective:
        """By the weights that each held-out prompt is told, where it is told any."""
        return self.steered_objective(self.held_out_weights) if self.held_out_weights else self.objective

    def _evaluate_held_out(self, step: int) -> dict[str, float]:
        """The columns of the log; the best policy so far is kept."""
        answers = self.answer(step)
        assert self.before is not None  # `run` asked before the first step
        shown = table(self.held_out, self.before, answers, self.names, step, self.settings.samples)
        if self.steered is not None and self.held_out_weights:
            names = self.steered.steering.names
            told = [dict(zip(names, shares, strict=True)) for shares in self.held_out_weights]
            shown = [row | {"weights": weights_told} for row, weights_told in zip(shown, told, strict=False)]
        self.samples += shown
        ranks.on_first(lambda: self.checkpoints.save_samples(self.samples))
        if self.best is None or answers.mean_reward > self.best[1]:
            self.best = step, answers.mean_reward
            weights = self.engine.weights()
            ranks.on_first(lambda: self.checkpoints.save_best(step, weights))
        row = answers.row(self.names, self.settings.shaping.clip)
        return row | gain_row(self.before, answers, self.held_out_objective, self.seed)

    def _choose(self) -> dict[str, Tensor] | None:
        """Put the weights that the settings keep into the models; the others, where they differ and are wanted too."""
        s = self.settings
        if self.best is None or self.best[0] == len(self.curve) or (s.keep == "last" and not s.keep_other):
            return None
        best = self.checkpoints.load_best(self.best[0])
        if s.keep == "last":
            return best
        last = self.engine.weights() if s.keep_other else None
        self.engine.load_weights(best)
        return last

    # --- the life of a run ---

    def _counted(self) -> dict[str, float]:
        """What the reward has counted since the last row, where it counts (a judge: ratings, and what they cost)."""
        take = getattr(self.reward, "take_facts", dict)
        return {f"reward/{name}": float(value) for name, value in ranks.added(dict(take())).items()}

    def _give_up(self, purpose: str) -> None:
        """A reward that cannot go on (its money is spent) loses no step: of the one at hand nothing is learnt yet."""
        every, done = self.settings.checkpoint_every, len(self.curve)
        if purpose == "score" and every and done % every:
            self._save()

    def _stop_reason(self) -> str | None:
        limit = self.settings.kl.stop
        if limit is None or not self.curve or self.curve[-1]["kl"] <= limit:
            return None
        return f"step {len(self.curve)}: the KL of {self.curve[-1]['kl']:.1f} exceeds kl.stop = {limit:g}"

    def _fingerprint(self) -> str:
        """What a checkpoint must agree with."""
        what = [identity(self.settings), self.seed, self.names]
        if self.steered is not None:
            what.append([self.steered.steering.names, self.steered.steering.own, self.held_out_weights])
        before, after = json.dumps(what), json.dumps([self.held_out_ids])
        digest = hashlib.sha256(f"{before[:-1]}, [".encode())
        for row, ids in enumerate(self.prompt_ids):
            digest.update(f"{', ' * bool(row)}{json.dumps(ids)}".encode())
        digest.update(f"], {after[1:]}".encode())
        return digest.hexdigest()

    def _save(self) -> None:
        state = self.engine.state() | {
            "curve": self.curve,  # its length is the position in the data and the seed of every draw to come
            "details": self.details,
            "samples": self.samples,
            "before": self.before and self.before.state(),
            "best": self.best,
            "ahead": self.ahead and asdict(self.ahead),
            "kl_coef": self.kl.coef,
            "seen": asdict(self.seen),
            "totals": asdict(self.totals),
            "objective": self.objective.state_dict(),
            "reward": getattr(self.reward, "state_dict", dict)(),
        }
        best = self.best and self.best[0]
        ranks.on_first(lambda: self.checkpoints.save(len(self.curve), state, best))

    def _resume(self) -> None:
        step = ranks.on_first(self.checkpoints.last)
        if step is None:
            return
        state = self.checkpoints.load(step)
        self.engine.load(state)
        self.curve, self.details = state["curve"], state["details"]
        self.samples, self.best = state["samples"], state["best"]
        self.before = state["before"] and Answers(**state["before"])
        self.ahead = Ahead(**state["ahead"]) if state.get("ahead") else None
        self.kl = kl.KLController(state["kl_coef"], self.kl.target, self.kl.horizon)
        self.seen = shaping.Moments(**state["seen"])
        self.totals = shaping.Moments(**state["totals"])
        self.objective.load_state_dict(state["objective"])
        if own := state.get("reward"):
            cast(Any, self.reward).load_state_dict(own)
