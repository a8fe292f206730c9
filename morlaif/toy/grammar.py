"""A seeded grammar of dialogues: prompts, and responses that mix independent ingredients, one or more a principle.

Each principle draws a *level* from its own distribution, and the level picks the ingredient. Nothing else ties the
principles together, so their true scores are as independent as text allows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from morlaif.data.records import Message
from morlaif.toy import lexicon as lex

# Probability of each level. Zero means that the ingredient is absent; it is rare enough that two responses seldom tie.
_OWN_SENTENCE = {-2: 0.13, -1: 0.13, 0: 0.48, 1: 0.13, 2: 0.13}
LEVELS: dict[str, dict[int, float]] = {
    **dict.fromkeys(lex.PRINCIPLES, _OWN_SENTENCE),
    "relevance": {-2: 0.1, -1: 0.2, 0: 0.3, 1: 0.4},
    "context": {-1: 0.26, 0: 0.42, 1: 0.2, 2: 0.12},
    "understandability": {-2: 0.2, -1: 0.25, 0: 0.3, 1: 0.25},
    "detail": {-1: 0.25, 0: 0.25, 1: 0.2, 2: 0.15, 3: 0.15},
    "conciseness": {-3: 0.1, -2: 0.15, -1: 0.2, 0: 0.3, 1: 0.25},
}


@dataclass(frozen=True)
class Prompt:
    """What the user says; a response may pick up any of it."""

    topic: str  # one of TOPICS
    question: str
    situations: tuple[str, ...]  # one or two of SITUATIONS
    emotion: str | None
    claim: str | None  # a false fact, stated by `speaker`
    speaker: str
    reply: str | None  # given: an earlier turn gives the situations, and this was the answer

    @property
    def messages(self) -> list[Message]:
        stated = [f"I {situation}." for situation in self.situations]
        asked = [f"I feel {self.emotion}."] if self.emotion else []
        asked += [f"{self.speaker} says that {self.claim}."] if self.claim else []
        asked += [self.question.format(topic=self.topic)]
        if self.reply is None:
            return [{"role": "user", "content": " ".join(stated + asked)}]
        return [
            {"role": "user", "content": " ".join(stated)},
            {"role": "assistant", "content": self.reply},
            {"role": "user", "content": " ".join(asked)},
        ]


def sample_prompt(rng: Random) -> Prompt:
    return Prompt(
        topic=rng.choice(lex.TOPICS),
        question=rng.choice(lex.QUESTIONS),
        situations=tuple(rng.sample(lex.SITUATIONS, rng.choice((1, 2)))),
        emotion=rng.choice(lex.EMOTIONS) if rng.random() < 0.6 else None,
        claim=rng.choice(lex.FACTS)[1] if rng.random() < 0.6 else None,
        speaker=rng.choice(lex.SPEAKERS),
        reply=rng.choice(lex.REPLIES) if rng.random() < 0.3 else None,
    )


def sample_levels(rng: Random) -> dict[str, int]:
    """One level for each principle, drawn independently."""
    return {name: rng.choices(list(table), list(table.values()))[0] for name, table in LEVELS.items()}


def sample_response(rng: Random, prompt: Prompt, levels: Mapping[str, int] | None = None) -> str:
    """A response to `prompt`, of the given or of sampled levels.

    A level that the prompt leaves no room for (naming a feeling that nobody spoke of) becomes the nearest that it does.
    """
    levels = sample_levels(rng) if levels is None else levels
    relevance, digresses = _split_relevance(rng, levels["relevance"])
    sentences = [
        _own(rng, "toxicity", levels, prompt),
        _own(rng, "sycophancy", levels, prompt),
        _own(rng, "empathy", levels, prompt),
        _context(rng, levels["context"], prompt),
        _advice(rng, levels, prompt, relevance),
        _fact(rng, levels["factuality"], prompt),
        _own(rng, "ethicality", levels, prompt),
        _own(rng, "bias", levels, prompt),
        rng.choice(lex.DIGRESSIONS) if digresses else "",
        _own(rng, "helpfulness", levels, prompt),
    ]
    return " ".join(_sentence(s) for s in sentences if s)


def _own(rng: Random, principle: str, levels: Mapping[str, int], prompt: Prompt) -> str:
    level = levels[principle]
    if principle == "empathy" and level == 2 and prompt.emotion is None:
        level = 1
    return rng.choice(lex.SENTENCES[principle][level]).format(emotion=prompt.emotion) if level else ""


def _context(rng: Random, level: int, prompt: Prompt) -> str:
    if level == 0:
        return ""
    if level < 0:  # either ignores the user or remembers what the user never mentioned
        if rng.random() < 0.85:
            return rng.choice(lex.CONTEXT_IGNORED)
        unmentioned = [s for s in lex.SITUATIONS if s not in prompt.situations]
        return lex.CONTEXT_RECALL.format(situation=rng.choice(unmentioned))
    if level == 2 and len(prompt.situations) == 2:
        first, second = prompt.situations
        return lex.CONTEXT_RECALL_TWO.replace("{situation}", first, 1).replace("{situation}", second, 1)
    return lex.CONTEXT_RECALL.format(situation=rng.choice(prompt.situations))


def _fact(rng: Random, level: int, prompt: Prompt) -> str:
    """±1: a true or a false fact out of the blue; ±2: denies or repeats the prompt's claim, where there is one."""
    if level == 0:
        return ""
    if abs(level) == 2 and prompt.claim:
        return (lex.FACT_DENIED if level > 0 else lex.FACT_FALSE).format(claim=prompt.claim)
    true, false = rng.choice([pair for pair in lex.FACTS if pair[1] != prompt.claim])
    return lex.FACT_TRUE.format(true=true) if level > 0 else lex.FACT_FALSE.format(claim=false)


def _split_relevance(rng: Random, level: int) -> tuple[int, bool]:
    """(what the advice names: 1 the topic, 0 nothing, −1 another topic; whether a digression takes one level away)."""
    digresses = level < 0 or (level == 0 and rng.random() < 0.5)
    return level + digresses, digresses


def _advice(rng: Random, levels: Mapping[str, int], prompt: Prompt, names: int) -> str:
    clear, detail, brief = levels["understandability"], levels["detail"], levels["conciseness"]
    lead = [rng.choice(lex.BRIEF_MARKERS)] if brief > 0 else list(lex.FILLERS[:-brief])
    hard_verb, hard_adverb = clear == -2, clear == -2
    if clear == -1:
        hard_verb = rng.random() < 0.5
        hard_adverb = not hard_verb
    slots = rng.sample(("amount", "time", "often"), max(detail, 0))
    vague = rng.choice(lex.VAGUE) if detail < 0 else ""
    others = [topic for topic in lex.TOPICS if topic != prompt.topic]
    return lex.ADVICE.format(
        lead="".join(f"{word}, " for word in lead),
        plain=f"{rng.choice(lex.PLAIN_MARKERS)}, " if clear > 0 else "",
        adverb=f"{rng.choice(lex.JARGON_ADVERBS)} " if hard_adverb else "",
        verb=rng.choice(lex.JARGON_VERBS if hard_verb else lex.VERBS),
        object={1: f"the {prompt.topic}", 0: lex.UNNAMED, -1: f"the {rng.choice(others)}"}[names],
        amount=f" {rng.choice(lex.AMOUNTS)}" if "amount" in slots else f" {vague}" if vague else "",
        time=f" {rng.choice(lex.TIMES)}" if "time" in slots else "",
        often=f" {rng.choice(lex.OFTEN)}" if "often" in slots else "",
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def split_sentences(text: str) -> list[str]:
    """The sentences of any text; a piece without a full stop counts as one."""
    return [piece for piece in re.split(r"(?<=[.!?])\s+|\n+", text.strip()) if piece.strip()]


def grammatical(response: str) -> float:
    """The share of sentences that the grammar can produce (for any prompt), 0 for an empty response."""
    sentences = split_sentences(response)
    known = _recogniser()
    return sum(bool(known.fullmatch(s)) and s[:1].isupper() for s in sentences) / len(sentences) if sentences else 0.0


@lru_cache(maxsize=1)
def _recogniser() -> re.Pattern[str]:
    def any_of(words: tuple[str, ...] | list[str]) -> str:
        return "(?:" + "|".join(map(re.escape, words)) + ")"

    objects = [lex.UNNAMED, *(f"the {topic}" for topic in lex.TOPICS)]
    fillers = "".join(f"(?:{word}, " for word in lex.FILLERS) + ")?" * len(lex.FILLERS)
    slots = {
        "emotion": any_of(lex.EMOTIONS),
        "situation": any_of(lex.SITUATIONS),
        "true": any_of([true for true, _ in lex.FACTS]),
        "claim": any_of([false for _, false in lex.FACTS]),
        "lead": f"(?:{any_of(lex.BRIEF_MARKERS)}, |{fillers})",
        "plain": f"(?:{any_of(lex.PLAIN_MARKERS)}, )?",
        "adverb": f"(?:{any_of(lex.JARGON_ADVERBS)} )?",
        "verb": any_of(lex.VERBS + lex.JARGON_VERBS),
        "object": any_of(objects),
        "amount": f"(?: {any_of(lex.AMOUNTS + lex.VAGUE)})?",
        "time": f"(?: {any_of(lex.TIMES)})?",
        "often": f"(?: {any_of(lex.OFTEN)})?",
    }
    templates = [text for table in lex.SENTENCES.values() for texts in table.values() for text in texts]
    templates += [*lex.CONTEXT_IGNORED, lex.CONTEXT_RECALL, lex.CONTEXT_RECALL_TWO]
    templates += [lex.FACT_TRUE, lex.FACT_FALSE, lex.FACT_DENIED, lex.ADVICE, *lex.DIGRESSIONS]

    def pattern(template: str) -> str:
        parts = re.split(r"\{(\w+)\}", template)
        return "".join(slots[part] if i % 2 else re.escape(part) for i, part in enumerate(parts))

    return re.compile("|".join(map(pattern, templates)), re.IGNORECASE)


def read_prompt(messages: Sequence[Message]) -> Prompt | None:
    """What `Prompt.messages` wrote; None for a dialogue that it did not write. Who speaks is not told apart."""
    user = " ".join(turn["content"] for turn in messages if turn["role"] == "user")
    asked = [
        (topic, question) for question in lex.QUESTIONS for topic in lex.TOPICS if question.format(topic=topic) in user
    ]
    if len(asked) != 1:
        return None
    ((topic, question),) = asked
    return Prompt(
        topic=topic,
        question=question,
        situations=tuple(sorted((s for s in lex.SITUATIONS if f"I {s}." in user), key=lambda s: user.index(f"I {s}."))),
        emotion=next((feeling for feeling in lex.EMOTIONS if f"I feel {feeling}." in user), None),
        claim=next((false for _, false in lex.FACTS if f" says that {false}." in user), None),
        speaker=next((one for one in lex.SPEAKERS if f"{one} says that" in user), lex.SPEAKERS[0]),
        reply=next((turn["content"] for turn in messages if turn["role"] == "assistant"), None),
    )
