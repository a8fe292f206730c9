"""A causal language model that runs here, asked for one letter in both orders, with each pair read once.

The principle comes last in a prompt, so all principles share the tokens up to it, and the letters A and B are read
from one distribution. For each pair and order the shared tokens are run once; their keys and values are then
repeated for the endings, one a principle, which alone are run again. What is shared is found on the tokens
themselves, so that the ids are those of the whole prompts, whatever the tokenizer merges. For the saving to be real,
a pair's principles must come one after another: that is the order in which `feedback.order=pair` has the first unit
of a run ask, for all the others.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from morlaif.contents import Hashes
from morlaif.data.records import Message
from morlaif.errors import UserError
from morlaif.feedback.arithmetic import letter_of, position_bias, soft_label
from morlaif.feedback.chunks import Verdicts
from morlaif.feedback.judge import SourceJudge
from morlaif.feedback.ledger import OK, Answer, Ledger, key_of
from morlaif.feedback.modes import specimen
from morlaif.feedback.outcomes import NOT_FINITE
from morlaif.feedback.prompt import comparison_messages, rating_messages
from morlaif.feedback.rating import Rating, Single, mean_rating, to_score
from morlaif.feedback.records import Comparison, Usage, Verdict
from morlaif.feedback.settings import HfSettings, Principle
from morlaif.feedback.verdict_cache import VerdictCache
from morlaif.models.fingerprint import identity

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOO_LONG = "longer than the model's context"


@dataclass(frozen=True, slots=True)
class Stem:
    """The prompts of one pair in one order: what they share, and how each goes on (at least one token)."""

    prefix: list[int]
    endings: list[list[int]]


class LocalJudge(SourceJudge[HfSettings]):
    """Verdicts enter the ledger pair by pair, as the model gives them, under its identity: files for a folder, revision
    for a hub id.
    """

    remembers = True

    def __init__(self, settings: HfSettings, ledger: Path) -> None:
        self.name = f"hf:{path_of(settings)}"
        self.usage = Usage(method="logprob")
        self._settings = settings
        self._ledger = Ledger(ledger)
        self._identity = _identity(settings, ledger)
        self._cache = VerdictCache(self.name, self._ledger, self._scope)
        self._engine: LetterModel | None = None

    @classmethod
    def open(cls, settings: HfSettings, *, ledger: Path, seed: int, together: Sequence[Principle]) -> LocalJudge:
        return cls(settings, ledger)

    @classmethod
    def open_rater(cls, settings: HfSettings, *, ledger: Path, highest: int) -> LocalRater:
        return LocalRater(settings, ledger, highest)

    def recall(self, principle: Principle | None, pair_ids: Sequence[str]) -> Verdicts:
        return self._cache.recall(principle, pair_ids)

    def _scope(self, principle: Principle) -> tuple[bytes, str]:
        asked = _orders(specimen(principle))[0]
        key = key_of("hf", self._identity, asked, {"dtype": self._settings.dtype, "principle": principle.name})
        return key, f"{principle.name}, {self.name}"

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[Comparison, Verdict]]:
        """Pair after pair as they come, those under several principles together where they come side by side."""
        waiting: list[list[Comparison]] = []
        for _, group in itertools.groupby(comparisons, key=lambda asked: asked.id):
            waiting.append(list(group))
            if 2 * sum(map(len, waiting)) >= self._settings.batch_size:
                yield from self._batch(waiting)
                waiting = []
        if waiting:
            yield from self._batch(waiting)

    def _batch(self, groups: Sequence[list[Comparison]]) -> Iterator[tuple[Comparison, Verdict]]:
        if self._engine is None:
            self._engine = LetterModel.load(self._settings)
        engine = self._engine
        stems = [engine.stem([_orders(asked)[order] for asked in group]) for group in groups for order in (0, 1)]
        fits = [engine.fits(stem) for stem in stems]
        found = engine.logprobs([stem for stem, fine in zip(stems, fits, strict=True) if fine])
        for i, group in enumerate(groups):
            both = stems[2 * i : 2 * i + 2]
            rows = [next(found) if fits[2 * i + k] else None for k in (0, 1)]  # runs the model when there is no more
            self.usage.input_tokens, self.usage.reused_tokens = engine.computed, engine.reused
            done = []
            for k, asked in enumerate(group):
                cost = sum(len(stem.prefix) / len(group) + len(stem.endings[k]) for stem in both), 0.0, 0.0
                done.append((asked, self._verdict(asked, [row[k] if row is not None else None for row in rows], cost)))
            with self._ledger.transaction():  # at once: a kill loses what the model is at, and nothing else
                for asked, verdict in done:
                    if verdict.valid:
                        self._cache.keep(asked.wording, verdict)
            self.usage.requests += 2 * len(done)
            yield from done

    def _verdict(
        self, asked: Comparison, orders: Sequence[list[float] | None], cost: tuple[float, float, float]
    ) -> Verdict:
        """From the log-probabilities of A and B in both orders; None: the question was too long."""
        asked_for = [row for row in orders if row is not None]
        if len(asked_for) < len(orders):
            return Verdict.invalid(asked.id, self.name, TOO_LONG, cost=(0.0, 0.0, 0.0))
        if not all(math.isfinite(x) for row in asked_for for x in row):
            return Verdict.invalid(asked.id, self.name, NOT_FINITE, cost=cost)
        forward, backward = (a - b for a, b in asked_for)
        for a, b in asked_for:
            self.usage.weigh(min(1.0, math.exp(a) + math.exp(b)))
        p, bias = soft_label(forward, backward), position_bias(forward, backward)
        return Verdict(asked.id, p, bias, True, self.name, forward, backward, None, *cost)


class LocalRater:
    """Ratings from the likelihood of the numbers, several criteria of one response together.

    They enter the ledger response by response, each under its question: what is asked, and of which model.
    """

    def __init__(self, settings: HfSettings, ledger: Path, highest: int) -> None:
        self.name = f"hf:{settings.path}"
        self.usage = Usage(method="logprob")
        self._settings, self._highest = settings, highest
        self._ledger = Ledger(ledger)
        self._identity = _identity(settings, ledger)
        self._engine: LetterModel | None = None

    def judge(self, asked: Iterable[Single]) -> Iterator[tuple[Single, Rating]]:
        waiting: list[list[Single]] = []
        for _, group in itertools.groupby(asked, key=lambda single: single.id):
            unknown = []
            for single in group:
                if (known := self._ledger.get(self._key(single))) is not None:
                    self.usage.cached += 1
                    yield single, self._rating(single, known)
                else:
                    unknown.append(single)
            if unknown:
                waiting.append(unknown)
            if sum(map(len, waiting)) >= self._settings.batch_size:
                yield from self._batch(waiting)
                waiting = []
        if waiting:
            yield from self._batch(waiting)

    def _key(self, single: Single) -> bytes:
        return key_of("hf", self._identity, self._messages(single), {"dtype": self._settings.dtype})

    def _messages(self, single: Single) -> list[Message]:
        return rating_messages(single.messages, single.response, single.principle, self._highest)

    def _rating(self, single: Single, answer: Answer) -> Rating:
        score = None if answer.value is None else to_score(answer.value, self._highest)
        return Rating(single.id, score, self.name, None, answer.input_tokens)

    def _batch(self, groups: Sequence[list[Single]]) -> Iterator[tuple[Single, Rating]]:
        if self._engine is None:
            numbers = "123456789"[: self._highest]
            self._engine = LetterModel.load(self._settings, answers=numbers, answer_of=str.strip)
        engine = self._engine
        stems = [engine.stem([self._messages(single) for single in group]) for group in groups]
        fits = [engine.fits(stem) for stem in stems]
        found = engine.logprobs([stem for stem, fine in zip(stems, fits, strict=True) if fine])
        for group, stem, fine in zip(groups, stems, fits, strict=True):
            rows = next(found) if fine else [None] * len(group)
            self.usage.input_tokens, self.usage.reused_tokens = engine.computed, engine.reused
            done = []
            with self._ledger.transaction():  # at once, as verdicts are
                for single, row, ending in zip(group, rows, stem.endings, strict=True):
                    read = len(stem.prefix) // len(group) + len(ending)
                    done.append((single, self._put(single, row, read)))
            self.usage.requests += len(done)
            yield from done

    def _put(self, single: Single, row: list[float] | None, read: int) -> Rating:
        """Write down a rating from the log-probabilities of the numbers; None: the question was too long."""
        if row is None or not all(map(math.isfinite, row)):
            return Rating(single.id, None, self.name, TOO_LONG if row is None else NOT_FINITE)
        listed = {str(i): x - max(row) for i, x in enumerate(row, 1)}  # a constant falls out of the mean
        answer = Answer(mean_rating(list(listed.items()), self._highest), OK, read)
        self._ledger.put(self._key(single), "hf", path_of(self._settings), answer, json.dumps(listed))
        return self._rating(single, answer)


class LetterModel:
    """The model, its tokenizer, and the forward passes."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        answers: str = "AB",
        answer_of: Callable[[str], str | None] = letter_of,
    ) -> None:
        """`answers`: the possible answers, a character each; `answer_of`: which of them a token is, if any."""
        import torch

        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        from morlaif.models.decode import attends_alone, head_apart

        self._shares = attends_alone(model)  # recurrent layers hold no prefix that several endings can follow
        self._head = head_apart(model)  # only the last token's logits are read, and each row has its own last place
        self.computed = self.reused = 0  # tokens that were run, and that would have been run again without sharing
        meant = [answer_of(tokenizer.decode([i])) for i in range(len(tokenizer))]
        self._answers = [torch.tensor([i for i, x in enumerate(meant) if x == wanted]) for wanted in answers]
        if not all(map(len, self._answers)):
            listed = f"{', '.join(answers[:-1])} and {answers[-1]}"
            raise UserError(
                f"feedback.path={tokenizer.name_or_path!r}: its tokenizer has no token for each of {listed}"
            )

    @classmethod
    def load(cls, settings: HfSettings, **answers: Any) -> LetterModel:
        import torch

        from morlaif import sharded
        from morlaif.models.load import load_causal_lm, load_tokenizer
        from morlaif.models.place import Source

        device = settings.device if settings.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        source = Source(path_of(settings), settings.revision, settings.trust_remote_code, "feedback.path")
        tokenizer = load_tokenizer(source)
        dtype = getattr(torch, settings.dtype)
        with sharded.unsharded():  # ranks ask it different numbers of questions
            model = load_causal_lm(source, dtype=dtype, device=device, tokenizer=tokenizer)
        return cls(model, tokenizer, settings.batch_size, **answers)

    def stem(self, prompts: Sequence[list[Message]]) -> Stem:
        """The prompts as token ids, split where they part."""
        ids = [self._ids(messages) for messages in prompts]
        shortest = min(map(len, ids))
        shared = next((i for i in range(shortest) if len({row[i] for row in ids}) > 1), shortest)
        shared = min(shared, shortest - 1)
        return Stem(ids[0][:shared], [row[shared:] for row in ids])

    def _ids(self, messages: list[Message]) -> list[int]:
        from jinja2.exceptions import TemplateError

        from morlaif.data.chat import prompt_ids

        try:
            return prompt_ids(self.tokenizer, messages)
        except TemplateError:  # a template that knows no system role
            system, user, *rest = messages
            both: Message = {"role": "user", "content": f"{system['content']}\n\n{user['content']}"}
            return prompt_ids(self.tokenizer, [both, *rest])

    def fits(self, stem: Stem) -> bool:
        most = getattr(self.model.config, "max_position_embeddings", None)
        return most is None or len(stem.prefix) + max(map(len, stem.endings)) <= most

    def gaps(self, stems: Sequence[Stem]) -> Iterator[list[float]]:
        """log P(A) − log P(B) for every ending of every stem, in order."""
        return ([a - b for a, b in rows] for rows in self.logprobs(stems))

    def logprobs(self, stems: Sequence[Stem]) -> Iterator[list[list[float]]]:
        """For every ending of every stem, in order, the log-probability of each answer, all tokens that say it summed.

        Raises:
            UserError: the first ones are all NaN or infinite: the model cannot be used.
        """
        start = 0
        while start < len(stems):
            end, rows = start, 0
            while end < len(stems) and (end == start or rows + len(stems[end].endings) <= self.batch_size):
                rows += len(stems[end].endings)
                end += 1
            found = self._shared(stems[start:end])
            if not start and not any(math.isfinite(x) for rows in found for row in rows for x in row):
                raise UserError(
                    f"feedback.path={self.tokenizer.name_or_path!r}: the model's scores are not finite in "
                    f"{str(self.model.dtype).removeprefix('torch.')}: its weights are damaged, or it needs another "
                    "feedback.dtype (bfloat16 or float32)"
                )
            yield from found
            start = end

    def _shared(self, stems: Sequence[Stem]) -> list[list[list[float]]]:
        """Run the prefixes as one batch, then the endings on their keys and values."""
        import torch
        from transformers import DynamicCache

        device = self.model.device
        if not self._shares:
            stems = [Stem([], [stem.prefix + ending for ending in stem.endings]) for stem in stems]
        prefixes, endings = [stem.prefix for stem in stems], [ending for stem in stems for ending in stem.endings]
        owner = torch.tensor([i for i, stem in enumerate(stems) for _ in stem.endings], device=device)
        begins = torch.tensor([len(prefix) for prefix in prefixes], device=device)
        ends, ends_mask = self._padded(endings, left=False)
        positions = begins[owner, None] + torch.arange(ends.shape[1], device=device)
        mask, cache = ends_mask, None
        with torch.inference_mode():
            if begins.max() > 0:
                ids, prefix_mask = self._padded(prefixes, left=True)
                where = (prefix_mask.cumsum(1) - 1).clamp(min=0)
                cache = DynamicCache(config=self.model.config)
                self._forward(ids, prefix_mask, where, cache)
                cache.batch_select_indices(owner)
                mask = torch.cat([prefix_mask[owner], ends_mask], dim=1)
            last = self._forward(ends, mask, positions, cache, ends_mask.sum(1) - 1).float()
        sums = torch.stack([last[:, ids.to(device)].logsumexp(-1) for ids in self._answers], 1)
        values = iter((sums - last.logsumexp(-1, keepdim=True)).tolist())
        self.computed += sum(map(len, prefixes)) + sum(map(len, endings))
        self.reused += sum(len(stem.prefix) * (len(stem.endings) - 1) for stem in stems)
        return [[next(values) for _ in stem.endings] for stem in stems]

    def _forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        cache: Any,
        last: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The logits (N, V) at place `last` (N,) of each row; without it, of no use but for what `cache` then holds."""
        from morlaif.models.decode import known
        from morlaif.models.layers import trunk_of

        given = {"past_key_values": cache, "use_cache": cache is not None}
        given |= {"attention_mask": mask, "position_ids": positions}
        rows = slice(None) if last is None else range(len(ids))
        place = -1 if last is None else last
        if self._head is not None:
            states: torch.Tensor = trunk_of(self.model)(input_ids=ids, **known(self.model, given))[0]
            return states if last is None else self._head.logits(states[rows, place])
        given["logits_to_keep"] = 1 if last is None else 0
        return self.model(input_ids=ids, **known(self.model, given)).logits[rows, place]

    def _padded(self, rows: Sequence[list[int]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask (N, longest)."""
        import torch

        longest = max(map(len, rows))
        fill = [[self.tokenizer.pad_token_id] * (longest - len(row)) for row in rows]
        ids = [pad + row if left else row + pad for row, pad in zip(rows, fill, strict=True)]
        mask = [
            [0] * len(p) + [1] * len(r) if left else [1] * len(r) + [0] * len(p)
            for r, p in zip(rows, fill, strict=True)
        ]
        return torch.tensor(ids, device=self.model.device), torch.tensor(mask, device=self.model.device)


def path_of(settings: HfSettings) -> str:
    """
    Raises:
        UserError: none is given.
    """
    if settings.path is None:
        raise UserError("feedback.path: give the judge's folder in Hugging Face format, or a hub id")
    return settings.path


def _identity(settings: HfSettings, ledger: Path) -> str:
    """What tells this model from another. Hashes of its files are remembered beside the ledger."""
    trusted = settings.trust_remote_code
    return identity(path_of(settings), settings.revision, Hashes(ledger.parent), trusted=trusted, key="feedback.path")


def _orders(asked: Comparison) -> list[list[Message]]:
    """The question with the first response shown as A, and with the second."""
    orders = ((asked.first, asked.second), (asked.second, asked.first))
    return [comparison_messages(asked.messages, a, b, asked.wording) for a, b in orders]
