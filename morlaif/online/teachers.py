"""Whoever writes the completions that a policy imitates. Each is kept in the ledger, so that none is paid for twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from morlaif import ranks
from morlaif.data.chat import prompt_ids
from morlaif.data.records import Message, content_id, prompt_id
from morlaif.errors import MachineError, UserError
from morlaif.feedback.judge import at_home
from morlaif.feedback.ledger import OK, Answer, Ledger, key_of
from morlaif.feedback.modes import Asking, Question, Reading, unanswered
from morlaif.feedback.rating import Rating, Single
from morlaif.feedback.reply import Reply, parse
from morlaif.feedback.settings import Criterion, OpenAISettings
from morlaif.feedback.sources.openai import Chat
from morlaif.feedback.thought import answer_of
from morlaif.online.samples import sample
from morlaif.online.settings import ModelTeacher, Sampling, ServerTeacher, TeacherSettings, ToyTeacher
from morlaif.toy.grammar import read_prompt, sample_response
from morlaif.toy.world import human_utility

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KEY = "teacher.teacher"
AT_ONCE = 64  # prompts between two looks at what was spent
NO_WORDS: Criterion = Criterion(name="completion", ask="-", covers=("overall",))
Load = Callable[[], "tuple[PreTrainedModel, PreTrainedTokenizerBase]"]


@dataclass(frozen=True)
class Completion:
    messages: list[Message]
    text: str
    input_tokens: float
    output_tokens: float
    usd: float


def completions(
    settings: TeacherSettings,
    prompts: Sequence[list[Message]],
    *,
    seed: int,
    ledger: Path,
    identity: str,
    load: Load,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[Completion]:
    """What the teacher answers, until the money is spent; prompts that it does not answer are left out.

    Every rank makes the call, and all get all.

    Args:
        identity: of a model's content, which stands in the keys of what it writes.
        load: a model teacher.
    """
    ask = _asking(settings, seed, ledger, identity, load)
    made: list[Completion] = []
    for at in range(0, len(prompts), AT_ONCE):
        for one in ask(prompts[at : at + AT_ONCE]):
            if settings.usd is not None and sum(own.usd for own in made) + one.usd > settings.usd:
                return made
            made.append(one)
        on_progress(min(at + AT_ONCE, len(prompts)))
    return made


def _asking(
    settings: TeacherSettings, seed: int, ledger: Path, identity: str, load: Load
) -> Callable[[Sequence[list[Message]]], list[Completion]]:
    match settings.teacher:
        case ToyTeacher() as toy:
            name, drawn = f"best of {toy.draws}", {"seed": seed, "price": toy.price.model_dump()}
            return lambda prompts: _kept(prompts, ledger, "toy", name, drawn, lambda rows: _by_grammar(toy, rows, seed))
        case ModelTeacher():
            decoding = settings.sampling.model_dump(mode="json", exclude={"batch_size"}) | {"seed": seed}
            models: list[tuple[Any, Any]] = []

            def answer(rows: Sequence[list[Message]]) -> list[Completion]:
                models[:] = models or [load()]
                return _by_model(*models[0], rows, settings.sampling, seed)

            return lambda prompts: _kept(prompts, ledger, "model", identity, decoding, answer)
        case ServerTeacher() as server:
            return lambda prompts: ranks.on_first(
                lambda: _by_server(server.engine, settings.sampling, prompts, ledger), patiently=True
            )


def _kept(
    prompts: Sequence[list[Message]],
    path: Path,
    provider: str,
    model: str,
    decoding: dict[str, Any],
    answer: Callable[[Sequence[list[Message]]], list[Completion]],
) -> list[Completion]:
    """From the ledger, else by `answer`, which answers all that it is asked, on all ranks; the first writes it down."""
    keys = [key_of(f"teacher: {provider}", model, [{**turn} for turn in prompt], decoding) for prompt in prompts]

    def read() -> dict[bytes, str]:
        with Ledger(path) as ledger:
            return {key: raw for key in keys if (raw := ledger.raw(key)) is not None}

    known = ranks.on_first(read)
    new = [place for place, key in enumerate(keys) if key not in known]
    written = answer([prompts[place] for place in new]) if new else []
    known |= {
        keys[place]: json.dumps([one.text, one.input_tokens, one.output_tokens, one.usd])
        for place, one in zip(new, written, strict=True)
    }

    def write() -> None:
        with Ledger(path) as ledger, ledger.transaction():
            for place, one in zip(new, written, strict=True):
                spent = Answer(1.0, OK, round(one.input_tokens), round(one.output_tokens), one.usd)
                ledger.put(keys[place], f"teacher: {provider}", model, spent, known[keys[place]])

    if new:
        ranks.on_first(write)
    return [Completion(prompt, *json.loads(known[key])) for prompt, key in zip(prompts, keys, strict=True)]


def _by_grammar(toy: ToyTeacher, prompts: Sequence[list[Message]], seed: int) -> list[Completion]:
    """The best by the hidden utility of so many responses that the grammar has for each prompt; words are tokens."""
    made = []
    for messages in prompts:
        prompt = read_prompt(messages)
        if prompt is None:
            raise UserError(f"{KEY}.kind=toy: it answers prompts of the toy world alone; take teacher=model or server")
        rng = Random(content_id(seed, prompt_id(messages)))
        drawn = [sample_response(rng, prompt) for _ in range(toy.draws)]
        text = max(drawn, key=lambda response: human_utility(messages, response))
        read, written = (len(words.split()) for words in (" ".join(turn["content"] for turn in messages), text))
        made.append(Completion(messages, text, read, written, toy.price.usd(read, written)))
    return made


def _by_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[Message]],
    sampling: Sampling,
    seed: int,
) -> list[Completion]:
    # what is known already does not change what is drawn for the others
    names = [int(prompt_id(messages), 16) for messages in prompts]
    found = sample(model, tokenizer, prompts, sampling, 1, seed=seed, names=names)
    return [
        Completion(messages, one.texts[0], len(prompt_ids(tokenizer, messages)), one.lengths[0], 0.0)
        for messages, one in zip(prompts, found, strict=True)
    ]


# --- behind a server ------------------------------------------------------------------------------------------------


def _by_server(
    engine: OpenAISettings, sampling: Sampling, prompts: Sequence[list[Message]], path: Path
) -> list[Completion]:
    """In the order of the prompts; those that it refuses, or says nothing to, are left out."""
    teacher = ServedTeacher(
        engine.model_copy(update={"logprobs": "never", "delivery": "live", "votes": 1}), path, sampling
    )
    asked = {prompt_id(messages): Single(prompt_id(messages), list(messages), "", NO_WORDS) for messages in prompts}
    try:
        answered = {single.id: rating for single, rating in teacher.judge(asked.values())}
    except (UserError, MachineError) as error:
        raise at_home(error, f"{KEY}.engine") from None
    made = []
    with Ledger(path) as ledger:
        for name, single in asked.items():
            rating = answered[name]
            raw = ledger.raw(teacher.key(single)) if rating.valid else None
            if raw is not None:
                text = _text(parse(raw), sampling.stop)
                cost = (rating.input_tokens, rating.output_tokens, rating.usd)
                made.append(Completion(single.messages, text, *cost))
    return made


class _Completing(Asking[Single, Rating]):
    """The dialogue itself is the question."""

    def __init__(self, settings: OpenAISettings, sampling: Sampling) -> None:
        super().__init__(settings)
        self.sampling = sampling

    def questions(self, asked: Single, logprobs: bool) -> list[Question]:
        s = self.sampling
        decoding = self._decoding(s.max_new_tokens, False) | {"temperature": s.temperature}
        decoding |= {"top_p": s.top_p} if s.top_p < 1 else {}
        decoding |= {"stop": list(s.stop)} if s.stop else {}
        return [Question(list(asked.messages), decoding, 0, read_completion)]

    def invalid(self, asked: Single, judge: str, reason: str) -> Rating:
        return Rating(asked.id, None, judge, reason)

    def verdict(self, asked: Single, readings: Sequence[Reading], logprobs: bool, judge: str) -> Rating:
        (one,) = readings
        return Rating(asked.id, one.value, judge, None if one.value is not None else one.outcome, *one.cost)

    def said_of_votes(self) -> str:
        return ""


class ServedTeacher(Chat[Single, Rating]):
    """A rating of 1 is a completion that can be used; its text is the reply in the ledger."""

    def __init__(self, settings: OpenAISettings, ledger: Path, sampling: Sampling) -> None:
        super().__init__(settings, ledger)
        self._sampling = sampling

    @cached_property
    def _mode(self) -> _Completing:
        return _Completing(self._settings, self._sampling)

    @property
    def _made_of(self) -> tuple[Any, ...]:
        return self._settings, self._path, self._sampling

    def _announce(self, logprobs: bool) -> None:
        """It is asked for no log-probabilities."""

    def key(self, asked: Single) -> bytes:
        """Under which the ledger has its answer."""
        return self._mode.key(self._mode.questions(asked, False)[0])


def read_completion(reply: Reply) -> tuple[float | None, str]:
    return unanswered(reply) or (1.0, OK)


def _text(reply: Reply, stop: Sequence[str]) -> str:
    text = (answer_of(reply) or "").strip()
    cuts = [at for end in stop if (at := text.find(end)) >= 0]
    return text[: min(cuts)] if cuts else text
