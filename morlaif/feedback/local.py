"""A causal language model that runs here and answers with a letter; what its prompts share is read once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from morlaif.data.records import Message
from morlaif.errors import UserError
from morlaif.feedback.arithmetic import FLOOR, letter_of
from morlaif.feedback.settings import HfSettings
from morlaif.models.place import policy_place

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Stem:
    """The prompts of one pair in one order: what they share, and how each goes on (at least one token)."""

    prefix: list[int]
    endings: list[list[int]]


class LetterModel:
    """The model, its tokenizer, and the forward passes."""

    spelt: frozenset[str] = frozenset()  # answers that may be no one token

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        answers: Sequence[str] = "AB",
        answer_of: Callable[[str], str | None] = letter_of,
    ) -> None:
        """`answers`: the possible answers; `answer_of`: which of them a token is, if any."""
        import torch

        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        from morlaif.models.decode import attends_alone, head_apart

        self.shares = attends_alone(model)  # recurrent layers hold no prefix that several endings can follow
        self._head = head_apart(model)  # only the last token's logits are read, and each row has its own last place
        self.computed = self.reused = 0  # tokens that were run, and that would have been run again without sharing
        meant = [answer_of(tokenizer.decode([i])) for i in range(len(tokenizer))]
        places = ([i for i, x in enumerate(meant) if x == wanted] for wanted in answers)
        self._answers = [torch.tensor(ids, dtype=torch.long) for ids in places]
        if not all(len(ids) or answer in self.spelt for ids, answer in zip(self._answers, answers, strict=True)):
            listed = f"{', '.join(answers[:-1])} and {answers[-1]}"
            raise UserError(
                f"feedback.path={tokenizer.name_or_path!r}: its tokenizer has no token for each of {listed}"
            )

    @classmethod
    def load(cls, settings: HfSettings, **answers: Any) -> Self:
        import torch

        from morlaif import sharded
        from morlaif.models.load import load_causal_lm, load_policy, load_tokenizer
        from morlaif.models.place import Source

        device = settings.device if settings.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        path, dtype = path_of(settings), getattr(torch, settings.dtype)
        with sharded.unsharded():  # ranks ask it different numbers of questions
            if (unit := unit_of(path)) is not None:
                trusted = settings.trust_remote_code
                how: dict[str, Any] = {"key": "feedback.path", "trust_remote_code": trusted}
                model, tokenizer = load_policy(unit, dtype=dtype, device=device, **how)
            else:
                source = Source(path, settings.revision, settings.trust_remote_code, "feedback.path")
                tokenizer = load_tokenizer(source)
                model = load_causal_lm(source, dtype=dtype, device=device, tokenizer=tokenizer)
        return cls(model, tokenizer, settings.batch_size, **answers)

    @property
    def pad(self) -> int:
        found: int = self.tokenizer.pad_token_id
        return found

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

    def fits(self, stem: Stem, room: int = 0) -> bool:
        """Whether the model has positions for all of it, and for `room` tokens more."""
        most = getattr(self.model.config, "max_position_embeddings", None)
        return most is None or len(stem.prefix) + max(map(len, stem.endings)) + room <= most

    @cached_property
    def _window(self) -> int | None:
        """The fewest tokens over which a layer looks back; None: all look back over everything."""
        from morlaif.models.cache import windows_of

        return min((window for window in windows_of(self.model.config) or () if window is not None), default=None)

    def goes_on(self, stems: Sequence[Stem], room: int) -> bool:
        """Whether rows can go on for `room` tokens from the keys and values of `stems`, among which there is padding.

        Not where a model keeps something else, or a window would lose tokens to the padding.
        """
        longest = max(len(stem.prefix) for stem in stems) + max(len(own) for stem in stems for own in stem.endings)
        return self.shares and (self._window is None or longest + room <= self._window)

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

        if not self.shares:
            stems = [Stem([], [stem.prefix + ending for ending in stem.endings]) for stem in stems]
        with torch.inference_mode():
            last, *_ = self.open_rows(stems, kept=False)
            values = iter(self.read(last))
        return [[next(values) for _ in stem.endings] for stem in stems]

    def open_rows(self, stems: Sequence[Stem], kept: bool = True) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """Read the prompts of `stems`, the prefix of each once: N rows, ending after ending.

        Returns:
            logits (N, V) of what follows; the keys and values of all (None where nothing is `kept`, nor shared); the
            mask (N, columns) of these.
        """
        import torch
        from transformers import DynamicCache

        device = self.model.device
        prefixes, endings = [stem.prefix for stem in stems], [ending for stem in stems for ending in stem.endings]
        owner = torch.tensor([i for i, stem in enumerate(stems) for _ in stem.endings], device=device)
        begins = torch.tensor([len(prefix) for prefix in prefixes], device=device)
        # Padded on the left, rows go on at the same column; on the right, a window loses nothing to padding.
        ends, ends_mask = self.padded(endings, left=kept)
        positions = begins[owner, None] + (ends_mask.cumsum(1) - 1).clamp(min=0)
        mask, cache = ends_mask, DynamicCache(config=self.model.config) if kept else None
        if begins.max() > 0:
            ids, prefix_mask = self.padded(prefixes, left=True)
            where = (prefix_mask.cumsum(1) - 1).clamp(min=0)
            cache = DynamicCache(config=self.model.config)
            self.forward(ids, prefix_mask, where, cache)
            cache.batch_select_indices(owner)
            mask = torch.cat([prefix_mask[owner], ends_mask], dim=1)
        last = [ends.shape[1] - 1] * len(endings) if kept else (ends_mask.sum(1) - 1).tolist()
        logits = self.forward(ends, mask, positions, cache, last)
        self.computed += sum(map(len, prefixes)) + sum(map(len, endings))
        self.reused += sum(len(stem.prefix) * (len(stem.endings) - 1) for stem in stems)
        return logits, cache, mask

    def letters(self, logits: torch.Tensor) -> torch.Tensor:
        """(N, V) -> (N, answers) log-probabilities, those of all tokens that say an answer summed."""
        import torch

        logits = logits.float()
        sums = torch.stack([logits[:, ids.to(logits.device)].logsumexp(-1) for ids in self._answers], 1)
        return sums - logits.logsumexp(-1, keepdim=True)

    def read(self, logits: torch.Tensor) -> list[list[float]]:
        """`letters` as lists."""
        rows: list[list[float]] = self.letters(logits).tolist()
        return rows

    def forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        cache: Any,
        last: Sequence[int] | None = None,
        rows: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """The logits (N, V) at place `last` of each row; without it, of no use but for what `cache` then holds.

        With `rows`, as many as `last`: at place last[i] of row rows[i].
        """
        from morlaif.models.decode import known
        from morlaif.models.layers import trunk_of

        given = {"past_key_values": cache, "use_cache": cache is not None}
        given |= {"attention_mask": mask, "position_ids": positions}
        at: Any = slice(None) if last is None else range(len(ids)) if rows is None else rows
        place = -1 if last is None else last
        if self._head is not None:
            states: torch.Tensor = trunk_of(self.model)(input_ids=ids, **known(self.model, given))[0]
            return states if last is None else self._head.logits(states[at, place])
        given["logits_to_keep"] = 1 if last is None else 0
        return self.model(input_ids=ids, **known(self.model, given)).logits[at, place]

    def padded(self, rows: Sequence[list[int]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
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


class NumberModel(LetterModel):
    """Answers with a whole number from 1 to `highest`, which is 10 at most.

    Where the tokenizer writes 10 as two tokens, what follows a 1 is read too:

        P(10) = P("1") · P("0" | "1"),    P(1) = P("1") · (1 − P(any digit | "1"))
    """

    spelt = frozenset({"10"})

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int, highest: int
    ) -> None:
        super().__init__(model, tokenizer, batch_size, [str(i) for i in range(1, highest + 1)], str.strip)
        self._two_tokens = highest == 10 and not len(self._answers[9])

    @cached_property
    def _following(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens that write a further digit, with no blank before it: those of a 0 alone, and all."""
        import torch

        texts = [self.tokenizer.decode([i]) for i in range(len(self.tokenizer))]
        tokens = self.tokenizer.convert_ids_to_tokens(list(range(len(texts))))
        digits = [i for i, text in enumerate(texts) if text[:1].isdigit() and not str(tokens[i]).startswith(("▁", "Ġ"))]
        zeros = [i for i in digits if texts[i][0] == "0" and not texts[i][1:2].isdigit()]
        return torch.tensor(zeros, dtype=torch.long), torch.tensor(digits, dtype=torch.long)

    def _shared(self, stems: Sequence[Stem]) -> list[list[list[float]]]:
        if not self._two_tokens:
            return super()._shared(stems)
        import torch

        with torch.inference_mode():
            on = self.goes_on(stems, 1)
            stems = stems if self.shares else [Stem([], [stem.prefix + own]) for stem in stems for own in stem.endings]
            first, cache, mask = self.open_rows(stems, kept=on)
            rows, ones = self.read(first), self._answers[0].to(first.device)
            said = ones[first[:, ones].argmax(1)]  # how each row writes its 1
            if on:
                whole = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
                second = self.forward(said[:, None], whole, mask.sum(1, keepdim=True), cache, [0] * len(mask))
                self.computed += len(mask)
            else:
                each = iter(said.tolist())
                second, *_ = self.open_rows(
                    [Stem(stem.prefix, [[*own, next(each)] for own in stem.endings]) for stem in stems], kept=False
                )
            p = second.float().softmax(-1)
            ten, more = (p[:, ids.to(p.device)].sum(1).clamp(0, 1) for ids in self._following)
            for row, zero, digit in zip(rows, ten.tolist(), more.tolist(), strict=True):
                row[9] = row[0] + _log(zero)
                row[0] += _log(1.0 - digit)
        values = iter(rows)
        return [[next(values) for _ in stem.endings] for stem in stems]


def _log(p: float) -> float:
    return math.log(p) if p > 0.0 else FLOOR


def path_of(settings: HfSettings) -> str:
    """
    Raises:
        UserError: none is given, and nobody has put the run's own model in its place.
    """
    if settings.path is None:
        raise UserError("feedback.path: give the judge's folder in Hugging Face format, or a hub id")
    return settings.path


def unit_of(path: str) -> Path | None:
    """The folder of a finished unit that leaves a policy, such as a run's SFT model; None: `path` is none."""
    folder = Path(path).expanduser()
    found = policy_place(folder) if folder.is_dir() else None
    return folder if found not in (None, folder) else None


def called(settings: HfSettings) -> str:
    """What verdicts call the judge: its path, of a finished unit the stage and digest, wherever its store lies."""
    unit = unit_of(path_of(settings))
    return path_of(settings) if unit is None else "/".join(unit.resolve().parts[-2:])
