"""A run of direct preference optimisation: its steps, the looks at what it does, what is kept and taken up again.

TRL's DPOTrainer knows no soft labels, no margins and no weights of pairs, and what it leaves of a kill is resumed by as
many ranks as wrote it. Policy, reference, engine, checkpoints and the sampling are those of PPO (`morlaif.rl`) instead,
so both methods share one loop under ranks and this one is what is its own. TRL's loss is the oracle of the tests.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from morlaif import ranks
from morlaif.data.chat import prompt_ids
from morlaif.data.records import Message
from morlaif.dpo.losses import Compared
from morlaif.dpo.pairs import Pairs
from morlaif.dpo.registry import LOSSES
from morlaif.dpo.settings import DPOSettings
from morlaif.errors import UserError
from morlaif.models.checkpoint import Checkpoints
from morlaif.models.ends import Ends
from morlaif.models.generate import draw, generate
from morlaif.pace import Pace
from morlaif.rl import schedule
from morlaif.rl.engines import make_engine
from morlaif.rl.experience import Batch, collate, cut
from morlaif.rl.policy import ActorCritic
from morlaif.rl.registry import with_params
from morlaif.settings import identity

if TYPE_CHECKING:
    from accelerate import Accelerator

Micro = tuple[list[int], Batch]  # rows of a table of dialogues, and their batch


def policy_with_reference(
    model: PreTrainedModel,
    settings: DPOSettings,
    *,
    seed: int,
    reference: PreTrainedModel | None = None,
    computed: torch.dtype | None = None,
) -> ActorCritic:
    """`model` ready to learn, with its reference: itself without the adapter, or a frozen twin. See `ActorCritic`."""
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)  # for the adapter
        return ActorCritic(model, settings, None, reference, computed)


@dataclass(frozen=True)
class Trained:
    curve: list[dict[str, float]]  # one row for each step
    reference: Tensor  # (N, 2) log-probabilities of the pairs' responses under the reference, summed over tokens


class DPOTrainer:
    """One run. All randomness is a function of `seed` and the step, so a resumed run repeats the unbroken one."""

    def __init__(
        self,
        models: ActorCritic,
        tokenizer: PreTrainedTokenizerBase,
        pairs: Pairs,
        settings: DPOSettings,
        *,
        seed: int,
        keep: Path,
        held_out: Pairs | None = None,
        prompts: Sequence[Sequence[Message]] = (),
        plain: Sequence[Sequence[Message]] | None = None,
        autocast: torch.dtype | None = None,
        accelerator: Accelerator | None = None,
        gather: float = math.inf,
        reference: Tensor | None = None,
    ) -> None:
        """Train `models` in place.

        Args:
            keep: folder of the checkpoints.
            held_out: pairs that are only looked at.
            prompts: that the policy answers where its KL to the reference is measured.
            plain: the same as the reference reads them, where that is otherwise.
            autocast: compute in this type; weights that learn keep their own.
            accelerator: of accelerate; one whose type is DeepSpeed shards the models.
            reference: (N, 2) log-probabilities of the pairs' responses, where these are another model's than the one
                that `models` hold as theirs.
            gather: most bytes of a sharded policy that each rank gathers whole to sample from.

        Raises:
            UserError: there is no pair, or a batch has less than a pair for each rank.
        """
        if not len(pairs):
            raise UserError(
                "dpo: no pair has a valid verdict and two different responses: there is nothing to learn from"
            )
        self.processes = ranks.count()
        if settings.batch_size < self.processes:
            raise UserError(
                f"dpo.batch_size={settings.batch_size} gives the {self.processes} ranks less than a pair each; take "
                f"{self.processes} or more"
            )
        self.models, self.tokenizer, self.settings = models, tokenizer, settings
        self.pairs, self.lengths, self.seed, self.dtype, self.gather = pairs, pairs.lengths(), seed, autocast, gather
        self.held_out = held_out
        self.prompts, self.plain = (
            [prompt_ids(tokenizer, messages, settings.max_prompt) for messages in rows]
            for rows in (prompts, prompts if plain is None else plain)
        )
        if tokenizer.pad_token_id is None:
            raise UserError("the tokenizer needs a pad token: see morlaif.data.chat.prepare_tokenizer")
        self.pad, self.device = int(tokenizer.pad_token_id), models.model.device
        self.ends = Ends.of(models.model, tokenizer, settings.stop)
        self.loss = with_params(LOSSES, settings.loss, settings.loss_params)
        self.engine = make_engine(models, settings, accelerator)
        self.steps = settings.steps(len(pairs))
        self.checkpoints = Checkpoints(keep, self._fingerprint())
        self.curve: list[dict[str, float]] = []
        self.reference: Tensor | None = reference  # (N, 2) of the pairs
        self.held_reference: Tensor | None = None  # (M, 2) of those that are held out

    def run(self, on_step: Callable[[dict[str, float]], None] | None = None) -> Trained:
        """Train from the last checkpoint, or from the start, to the end."""
        s, pace = self.settings, Pace(self.settings.checkpoint_every)
        self._resume()
        if self.reference is None:
            self.reference = self.sequence_logprobs(self.pairs, reference=True)
        if self.held_out is not None and self.held_reference is None:
            self.held_reference = self.sequence_logprobs(self.held_out, reference=True)
        while len(self.curve) < self.steps:
            row = self.step(len(self.curve))
            self.curve.append(row)
            done = len(self.curve)
            if done == self.steps or (s.eval_every and done % s.eval_every == 0):
                row |= self.look()
            if on_step is not None and ranks.is_first():  # first: whoever goes on from a checkpoint has its row
                on_step(row)
            if pace.due(done) or (done == self.steps and s.checkpoint_every):
                self._save()
        return Trained(self.curve, self.reference)

    # --- a step ---

    def step(self, step: int) -> dict[str, float]:
        """One update, on the next pairs of an endless stream that is shuffled anew for each pass."""
        s = self.settings
        assert self.reference is not None
        rows = schedule.stream(len(self.pairs), step * s.batch_size, s.batch_size, self.seed)
        rate = schedule.learning_rate(step, self.steps, s.optimizer.learning_rate, s.optimizer)
        self.engine.set_rates({"policy": rate})
        micro = list(self._shared(self.pairs, cut(rows, self.lengths, s.micro_batch_size, self.processes)))
        sums: dict[str, float] = {}
        with self.models.updating():
            for i, (own, batch) in enumerate(micro):
                with self._autocast():
                    logprobs = self.engine(batch)[0]
                    assert logprobs is not None
                    if own:
                        compared = self._compared(self.pairs, self.reference, own, batch, logprobs)
                        loss = self._loss(self.pairs, own, compared, sums)
                    else:  # a rank without a share: its part of the loss is nothing, and still has a gradient
                        loss = 0.0 * logprobs.sum()
                # One normaliser for the batch, so that how it is cut and shared between ranks cannot matter.
                self.engine.backward(loss / len(rows), last=i == len(micro) - 1)
        norms = {name: float(norm) for name, norm in self.engine.step().items()}
        row = {"step": float(step + 1)} | _means(sums) | norms | {"learning_rate": rate}
        if not all(math.isfinite(value) for value in row.values()):
            raise UserError(
                f"dpo: at step {step + 1} the loss or its gradient is no finite number; lower "
                f"dpo.optimizer.learning_rate (now {s.optimizer.learning_rate:g})"
            )
        return row | {"step": step + 1}

    def _compared(self, pairs: Pairs, reference: Tensor, rows: list[int], batch: Batch, logprobs: Tensor) -> Compared:
        """The pairs `rows`, whose first sides, then whose second sides are in `batch`, by its tokens' `logprobs`."""
        total = batch.unpack(logprobs).sum(1)

        def at(table: Tensor) -> Tensor:
            return table[rows].to(total)

        chosen, rejected = (total - at(reference).T.flatten()).chunk(2)
        chosen_tokens, rejected_tokens = batch.mask.sum(1).chunk(2)
        return Compared(
            chosen, rejected, chosen_tokens, rejected_tokens, at(pairs.target), at(pairs.margin),
            pairs.scale.to(total), self.settings.beta,
        )  # fmt: skip

    def _loss(self, pairs: Pairs, rows: list[int], c: Compared, sums: dict[str, float]) -> Tensor:
        """The sum over the pairs `rows`; what is seen of them is added to `sums`."""
        loss = (self.loss(c) * pairs.count[rows].to(c.chosen)).sum()
        with torch.no_grad():
            better, chosen, rejected = (
                x.double() for x in (pairs.better[rows].to(c.chosen), c.chosen * c.beta, c.rejected * c.beta)
            )
            side, gap = better >= 0, better * (chosen - rejected)
            for name, value in {
                "pairs": gap.new_tensor(float(len(rows))),
                "told": better.abs().sum(),
                "loss": loss.detach().double(),
                "reward": gap.sum(),
                "right": (gap > 0).double().sum(),
                "better": torch.where(side, chosen, rejected).sum(),
                "worse": torch.where(side, rejected, chosen).sum(),
            }.items():
                sums[name] = sums.get(name, 0.0) + value.item()
        return loss

    # --- looks ---

    def look(self) -> dict[str, float]:
        """What there is to see of the policy as it is now, between updates.

        `kl`, nats a response, is Σ log π - log π_ref over the tokens of answers that the policy samples, their noise
        the same each time: k1 of `rl.kl`, as of PPO's rollouts. `eval/…` is of the held-out pairs.
        """
        row: dict[str, float] = {}
        if self.held_out is not None and self.held_reference is not None:
            row |= {f"eval/{name}": value for name, value in self._of_held_out(self.held_out).items()}
        return row | self._answers() if self.prompts else row

    @torch.no_grad()
    def _of_held_out(self, pairs: Pairs) -> dict[str, float]:
        assert self.held_reference is not None
        sums: dict[str, float] = {}
        for own, batch in self._in_order(pairs):
            with self._autocast():
                logprobs = self.engine(batch)[0]
                if own and logprobs is not None:
                    self._loss(pairs, own, self._compared(pairs, self.held_reference, own, batch, logprobs), sums)
        return _means(sums)

    @torch.no_grad()
    def _answers(self) -> dict[str, float]:
        """KL, length and share that end of answers to the prompts."""
        s, prompts = self.settings, self.prompts
        noise = draw(len(prompts), s.max_new_tokens, schedule.generator(self.seed, "held out", 0), torch.device("cpu"))
        with self.engine.sampling() as model, self._autocast():
            answers = generate(
                model, self.tokenizer, prompts, max_new_tokens=s.max_new_tokens, temperature=1.0, stop=s.stop,
                batch_size=2 * s.micro_batch_size, noise=noise, gather=self.gather,
            )  # fmt: skip
        lengths = [len(p) + len(a) for p, a in zip(prompts, answers, strict=True)]
        micro = cut(range(len(prompts)), lengths, s.micro_batch_size, self.processes)
        apart = torch.zeros((), dtype=torch.float64)

        def asked(prompts: Sequence[list[int]]) -> Iterator[Micro]:
            return self._own(micro, lambda rows: [(prompts[row], answers[row]) for row in rows])

        for (own, batch), (_, behind) in zip(asked(prompts), asked(self.plain), strict=True):
            with self._autocast():
                reference, logprobs = self.engine(behind, reference=True)[0], self.engine(batch)[0]
            if own and logprobs is not None and reference is not None:
                apart += (logprobs - reference).double().sum().cpu()
        return {
            "kl": ranks.total(apart.to(self.device)).item() / len(prompts),
            "length": sum(map(len, answers)) / len(answers),
            "ended": sum(map(self.ends.ended, answers)) / len(answers),
        }

    @torch.no_grad()
    def sequence_logprobs(self, pairs: Pairs, reference: bool = False) -> Tensor:
        """(N, 2) on the CPU: of the responses of each pair, summed over tokens, under the policy or the reference."""
        table = torch.zeros(len(pairs), 2, device=self.device)
        for own, batch in self._in_order(pairs.behind if reference else pairs):
            with self._autocast():
                logprobs = self.engine(batch, reference=True)[0] if reference else self.engine(batch)[0]
            if own and logprobs is not None:
                table[own] = torch.stack(batch.unpack(logprobs).float().sum(1).chunk(2), 1)
        return ranks.total(table).cpu()

    # --- batches ---

    def _in_order(self, pairs: Pairs) -> Iterator[Micro]:
        """All pairs, those of like length together."""
        lengths = self.lengths if pairs is self.pairs else pairs.lengths()
        return self._shared(pairs, cut(range(len(pairs)), lengths, self.settings.micro_batch_size, self.processes))

    def _shared(self, pairs: Pairs, micro: Sequence[list[int]]) -> Iterator[Micro]:
        """This rank's micro-batches of pairs: the first sides of each, then its second sides."""

        def sides(rows: list[int]) -> list[tuple[list[int], list[int]]]:
            whole = [side[row] for side in (pairs.chosen, pairs.rejected) for row in rows]
            return [(one.ids[: one.start], one.ids[one.start :]) for one in whole]

        return self._own(micro, sides)

    def _own(
        self, micro: Sequence[list[int]], read: Callable[[list[int]], Sequence[tuple[list[int], list[int]]]]
    ) -> Iterator[Micro]:
        """This rank's micro-batches, each every n-th; a sharded model wants the same number of forwards from all, so
        where that does not come out even, some get one without rows. `read`: prompt and response of each row."""

        def collated(rows: list[int]) -> Batch:
            prompts, responses = zip(*read(rows), strict=True)
            return collate(prompts, responses, self.pad, self.device)

        shared = ranks.share(micro)
        for rows in shared:
            yield rows, collated(rows)
        if len(shared) < -(-len(micro) // self.processes):
            yield [], collated(micro[0])

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    # --- the life of a run ---

    def _fingerprint(self) -> str:
        """What a checkpoint must agree with."""
        digest = hashlib.sha256(json.dumps([identity(self.settings), self.seed, self.steps, self.prompts]).encode())
        for pairs in (self.pairs, *([self.held_out] if self.held_out is not None else [])):
            for a, b in zip(pairs.chosen, pairs.rejected, strict=True):
                digest.update(json.dumps([a.ids, a.start, b.ids, b.start]).encode())
            for table in (pairs.target, pairs.count, pairs.margin, pairs.scale):
                digest.update(table.numpy().tobytes())
        return digest.hexdigest()

    def _save(self) -> None:
        state = self.engine.state() | {
            "curve": self.curve,  # its length is the position in the data and the seed of every draw to come
            "reference": self.reference,
            "held_reference": self.held_reference,
        }
        ranks.on_first(lambda: self.checkpoints.save(len(self.curve), state))

    def _resume(self) -> None:
        step = ranks.on_first(self.checkpoints.last)
        if step is None:
            return
        state = self.checkpoints.load(step)
        self.engine.load(state)
        self.curve, self.reference, self.held_reference = state["curve"], state["reference"], state["held_reference"]


def _means(sums: dict[str, float]) -> dict[str, float]:
    """Over the pairs of all ranks, those that are better on neither side left out where a side is asked for."""
    whole = ranks.added(sums)
    told = max(1.0, whole["told"])
    return {
        "reward": whole["reward"] / told,  # β times how much further the log-ratio of the better response is up
        "loss": whole["loss"] / whole["pairs"],
        "accuracy": whole["right"] / told,
        "reward_better": whole["better"] / whole["pairs"],
        "reward_worse": whole["worse"] / whole["pairs"],
    }
