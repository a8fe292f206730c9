"""What raters see and what they must not know: blinded items, and the key of which policy wrote what."""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from morlaif.data.records import Message

Row: TypeAlias = Mapping[str, Any]  # {"prompt_id", "messages", "responses": {policy: {"text", …}}}
Kind = Literal["pair", "repeat", "check"]


@dataclass(frozen=True, slots=True)
class RatedPair:
    """Two policies of a run under the names that its results give them."""

    name: str  # as "morlaif_vs_sft"
    first: str  # policies as the run's responses name them
    second: str


@dataclass(frozen=True, slots=True)
class RatedItem:
    """One pair as a rater sees it, and what the key knows of it."""

    id: str  # opaque
    messages: Sequence[Message]
    a: str
    b: str
    kind: Kind
    comparison: str | None  # None for a check
    prompt_id: str
    a_is: str  # the policy behind side A; of a check "on_topic" or "off_topic"
    b_is: str
    of: str | None = None  # a repeat's first showing


@dataclass(frozen=True)
class Study:
    """A form and its key. `form` is a hash of all that raters see, so answers name the form they belong to."""

    items: Sequence[RatedItem]  # in an order that reveals nothing
    comparisons: Sequence[RatedPair]
    identical: Mapping[str, int]  # comparison -> prompts answered with the same text by both: ties that need no rater
    seed: int

    @property
    def form(self) -> str:
        return _hash("form", self.seed, *((item.id, item.a, item.b) for item in self.items))

    def shown(self) -> list[dict[str, Any]]:
        """The items as the form holds them: nothing here names a policy or a kind."""
        return [
            {"id": i.id, "messages": [{k: m[k] for k in ("role", "content")} for m in i.messages], "a": i.a, "b": i.b}
            for i in self.items
        ]

    def key(self) -> dict[str, Any]:
        """What the researcher keeps."""
        items = {
            i.id: {"kind": i.kind, "comparison": i.comparison, "prompt_id": i.prompt_id, "a": i.a_is, "b": i.b_is}
            | ({"of": i.of} if i.of else {})
            for i in self.items
        }
        comparisons = {
            c.name: {"first": c.first, "second": c.second, "identical": self.identical[c.name]}
            for c in self.comparisons
        }
        return {"form": self.form, "seed": self.seed, "comparisons": comparisons, "items": items}


def make_study(
    rows: Sequence[Row],
    comparisons: Sequence[RatedPair],
    *,
    prompts: int,
    repeats: float,
    checks: float,
    seed: int,
) -> Study:
    """Draw prompts, pair the responses of each comparison, and add repeats and checks as shares of those pairs.

    Side A holds a comparison's first policy in half of its pairs (one more or less when odd). A repeat shows a pair
    again, sides swapped. A check sets a response of the first policy against that policy's response to another prompt,
    the one that shares fewest words with this prompt; it takes prompts that no pair shows while there are any.
    """
    draw = random.Random(f"{seed} {len(rows)}")
    order = draw.sample(range(len(rows)), len(rows))
    chosen, rest = [rows[k] for k in order[:prompts]], [rows[k] for k in order[prompts:]]

    pairs: list[RatedItem] = []
    identical: dict[str, int] = {}
    for comparison in comparisons:
        differ = [row for row in chosen if len({_text(row, p) for p in (comparison.first, comparison.second)}) == 2]
        identical[comparison.name] = len(chosen) - len(differ)
        sides = [k % 2 == 0 for k in range(len(differ))]
        draw.shuffle(sides)
        pairs += [_pair(row, comparison, first, seed) for row, first in zip(differ, sides, strict=True)]

    again = draw.sample(pairs, min(len(pairs), math.ceil(repeats * len(pairs))))
    known = _checks(rest + chosen, comparisons[0].first, math.ceil(checks * len(pairs)), draw, seed)
    items = [*pairs, *(_swapped(item, seed) for item in again), *known]
    return Study(sorted(items, key=lambda item: item.id), tuple(comparisons), identical, seed)


def _pair(row: Row, comparison: RatedPair, first_is_a: bool, seed: int) -> RatedItem:
    a, b = (comparison.first, comparison.second) if first_is_a else (comparison.second, comparison.first)
    id_ = _hash(seed, "pair", comparison.name, row["prompt_id"], _text(row, a), _text(row, b))
    return RatedItem(
        id_, row["messages"], _text(row, a), _text(row, b), "pair", comparison.name, row["prompt_id"], a, b
    )  # fmt: skip


def _swapped(item: RatedItem, seed: int) -> RatedItem:
    return RatedItem(
        _hash(seed, "repeat", item.id), item.messages, item.b, item.a, "repeat", item.comparison, item.prompt_id,
        item.b_is, item.a_is, of=item.id,
    )  # fmt: skip


def _checks(rows: Sequence[Row], policy: str, count: int, draw: random.Random, seed: int) -> list[RatedItem]:
    made: list[RatedItem] = []
    for row in rows:
        if len(made) == count:
            break
        others = [other for other in rows if _text(other, policy).strip() not in ("", _text(row, policy).strip())]
        if not others:
            continue
        asked = _words(" ".join(message["content"] for message in row["messages"])) | _words(_text(row, policy))
        other = min(others, key=_strangeness(asked, policy))
        sides = [("on_topic", _text(row, policy)), ("off_topic", _text(other, policy))]
        draw.shuffle(sides)
        (a_is, a), (b_is, b) = sides
        id_ = _hash(seed, "check", row["prompt_id"], a, b)
        made.append(RatedItem(id_, row["messages"], a, b, "check", None, row["prompt_id"], a_is, b_is))
    return made


def _strangeness(asked: set[str], policy: str) -> Callable[[Row], tuple[float, str]]:
    """Share of a response's words that the conversation has too; less is stranger."""

    def shared(row: Row) -> tuple[float, str]:
        words = _words(_text(row, policy))
        return len(words & asked) / max(1, len(words)), row["prompt_id"]

    return shared


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _text(row: Row, policy: str) -> str:
    return row["responses"][policy]["text"]


def _hash(*parts: Any) -> str:
    """It begins with a letter, so that no spreadsheet takes it for a number."""
    return "x" + hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
