"""From one row of a source to an Example. Pure functions; the row's place in its file is the caller's to tell.

| format    | columns                    | meaning                                                                   |
|-----------|----------------------------|---------------------------------------------------------------------------|
| dialogues | chosen, rejected           | whole dialogues that differ in their last assistant turn (HH-RLHF)        |
| pairs     | a prompt, chosen, rejected | two responses to a prompt (TRL, UltraFeedback binarized)                  |
| scored    | a prompt, completions      | several responses with scores: the best against the worst (UltraFeedback) |
| summaries | info, summaries, choice    | two summaries of a post, and which is better (OpenAI's TL;DR comparisons) |
| messages  | messages or conversations  | a dialogue; a last assistant turn is a demonstration (OpenAI, ShareGPT)   |
| prompts   | a prompt                   | a prompt, perhaps with a demonstration: completion, or output (Alpaca)    |

A dialogue is a text of `\\n\\nHuman:` and `\\n\\nAssistant:` turns or a list of messages, {role, content} or
{from, value}; content is a text or a list of text parts. A prompt is the column prompt, which may also be one plain
text; or instruction, with input below it and the turns of history before it; or a dialogue that ends with the user. A
column `system` is a system turn. Where `label` beside a completion is false or 0 (KTO), the completion is not imitated.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from morlaif.data.records import Example, Message
from morlaif.data.settings import Columns, Format
from morlaif.errors import suggest

Row = Mapping[str, Any]
Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")
ROLE_OF: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_ANSWERS: tuple[str, ...] = ("gpt", "chatgpt", "bot", "model")
FROM: dict[str, Role] = {**ROLE_OF, "human": "user", **dict.fromkeys(_ANSWERS, ROLE_OF["assistant"])}
TOOLS = ("tool", "function", "function_call", "function_response", "observation", "ipython", "tool_call")

_CONVERT = "write calls and results into the text of assistant and user turns, what tools there are into the system's"
_LABEL = "kto_tag"  # LLaMA-Factory's name of the label
_ANNOTATIONS = "annotations"  # UltraFeedback: {aspect: {"Rating": "5", …}} of a completion
_TOOLS = "tools"  # ShareGPT and OpenAI: what may be called, a list or its JSON
_NO_TOOLS: tuple[str | list[Any], ...] = ("", "[]", "null", [])
_LABELS: dict[Any, bool] = {1: True, 0: False, "true": True, "false": False, "1": True, "0": False}

# beside a lone prompt: names that responses have elsewhere, and that would be lost without a word
_RESPONSE = re.compile(r"(?i)(response|answer|reply|output|completion|chosen|rejected|best|better|worse)")
_TURN = re.compile(r"\n\n(Human|Assistant):")
_OPEN = "\n\n"  # before the first turn as well: a pattern that begins with a text is found twenty times as fast


class MalformedRow(ValueError):
    """The row has not the form that its source promises."""


class UnusableRow(ValueError):
    """The row is well formed, but nothing can be learned from it. It may be skipped."""


def sniff(row: Row, columns: Columns) -> Format:
    """The format that the columns of `row` tell; one that is null counts as absent.

    Raises:
        MalformedRow: they tell none, or half of a pair.
    """
    present = {name for name in row if row[name] is not None}
    pair = [name for name in (columns.chosen, columns.rejected) if name in present]
    prompted = columns.prompt in present or columns.instruction in present
    if len(pair) == 2:
        return "pairs" if prompted or _open_dialogue(row, columns) else "dialogues"
    if pair:
        lacks = columns.rejected if pair[0] == columns.chosen else columns.chosen
        what = "is null" if lacks in row else "is missing"
        raise MalformedRow(
            f"'{pair[0]}' is there and '{lacks}' {what}; a pair needs both, a demonstration is '{columns.completion}'"
        )
    if columns.completions in present:
        return "scored"
    if {"info", "summaries"} <= present:
        return "summaries"
    if columns.messages in present or columns.conversations in present:
        return "messages"
    if prompted:
        known = {columns.completion} if columns.prompt in present else {columns.output}
        lost = sorted(name for name in present - known if _RESPONSE.match(name)) if not known & present else []
        if lost:
            as_what = "completion" if columns.prompt in present else "output"
            raise MalformedRow(
                f"'{lost[0]}' is beside a lone prompt and would not be read; name what it is, as in "
                f"data.columns.{as_what}={lost[0]} (or chosen, rejected), or read prompts alone: data.format=prompts"
            )
        return "prompts"
    if columns.prompt in row:  # and is null: its reader says so
        return "prompts"
    if columns.messages in row:
        return "messages"
    near = next((hint for name in columns.model_dump().values() if (hint := suggest(name, row))), "")
    raise MalformedRow(
        f"no known format in the columns {_names(row)}; it needs '{columns.chosen}' and '{columns.rejected}', with or "
        f"without '{columns.prompt}', or '{columns.messages}', or '{columns.prompt}'; "
        f"data.columns can rename them.{near}"
    )


def to_example(row: Row, format: Format, columns: Columns) -> Example:
    """The example that `row` holds.

    Raises:
        MalformedRow: a column is missing or of the wrong type.
        UnusableRow: it is empty, or its two responses are equal or answer different prompts.
    """
    return _READERS[format](row, columns)


def _dialogues(row: Row, columns: Columns) -> Example:
    name_a, name_b = columns.chosen, columns.rejected
    prompt, chosen = _split_answer(_dialogue(_get(row, name_a), name_a), name_a)
    other, rejected = _split_answer(_dialogue(_get(row, name_b), name_b), name_b)
    if prompt != other:
        raise UnusableRow(f"'{name_a}' and '{name_b}' answer different prompts; all but the last turn must be equal")
    return _pair(_with_system(prompt, row, columns), chosen, rejected, columns)


def _pairs(row: Row, columns: Columns) -> Example:
    prompt, plain = _row_prompt(row, columns)
    asked_a, chosen = _response(_get(row, columns.chosen), prompt, plain, columns.chosen)
    asked_b, rejected = _response(_get(row, columns.rejected), prompt, plain, columns.rejected)
    if asked_a is not None and asked_b is not None and asked_a != asked_b:
        raise UnusableRow(
            f"'{columns.chosen}' and '{columns.rejected}' answer different prompts; all but the last turn must be equal"
        )
    return _pair(_with_system(_fuller(prompt, asked_a or asked_b), row, columns), chosen, rejected, columns)


def _scored(row: Row, columns: Columns) -> Example:
    """Best against worst; of equal scores the first counts."""
    prompt, plain = _row_prompt(row, columns)
    name = columns.completions
    given = _get(row, name)
    if not isinstance(given, list) or not all(isinstance(one, Mapping) for one in given):
        raise MalformedRow(f"'{name}' is {_kind(given)}; it must be a list of objects with a response and a score")
    scores = [_score(one, f"'{name}', item {i}", columns) for i, one in enumerate(given, 1)]
    if len(set(scores)) < 2:
        raise UnusableRow(f"'{name}' holds {len(given)} responses of equal score; two must differ")
    best, worst = (given[scores.index(wanted)] for wanted in (max(scores), min(scores)))
    (_, chosen), (_, rejected) = (
        _response(_get(one, "response"), prompt, plain, f"{name}.response") for one in (best, worst)
    )
    if chosen == rejected:
        raise UnusableRow(f"'{name}': the best and the worst are the same response; they must differ")
    return Example.of(_with_system(prompt, row, columns), chosen=chosen, rejected=rejected)


def _summaries(row: Row, columns: Columns) -> Example:
    """A post as a prompt in the form of TL;DR, answered by its two summaries."""
    info, given, choice = (_get(row, name) for name in ("info", "summaries", "choice"))
    if not isinstance(info, Mapping):
        raise MalformedRow(f"'info' is {_kind(info)}; it must be an object with the post")
    if not (isinstance(given, list) and len(given) == 2 and all(isinstance(one, Mapping) for one in given)):
        raise MalformedRow(f"'summaries' is {_kind(given)}; it must be a list of two objects with a text each")
    if isinstance(choice, bool) or choice not in (0, 1):
        raise MalformedRow(f"'choice' is {_shown(choice)}; it must be 0 or 1, the place of the better summary")
    heads = {"SUBREDDIT": info.get("subreddit") and f"r/{info['subreddit']}", "TITLE": info.get("title")}
    parts = [f"{name}: {_text(text, f'info.{name.lower()}')}" for name, text in heads.items() if text]
    if info.get("post") is None and info.get("article") is not None:  # of news
        parts = [f"Article:\n{_text(info['article'], 'info.article')}"]
    else:
        parts.append(f"POST: {_text(info.get('post'), 'info.post')}")
    prompt = "\n\n".join([*parts, "TL;DR:"])
    texts = [_text(one.get("text"), f"summaries, item {i}") for i, one in enumerate(given, 1)]
    if texts[0] == texts[1]:
        raise UnusableRow("'summaries': both are the same; they must differ")
    chosen, rejected = texts[choice], texts[1 - choice]
    return Example.of([{"role": "user", "content": prompt}], chosen=chosen, rejected=rejected)


def _score(one: Row, where: str, columns: Columns) -> float:
    value = one.get(columns.score)
    number = _number(value)
    if value is None and isinstance(rated := one.get(_ANNOTATIONS), Mapping):
        ratings = [_number(aspect.get("Rating")) for aspect in rated.values() if isinstance(aspect, Mapping)]
        ratings = [rating for rating in ratings if math.isfinite(rating)]  # some aspects are "N/A"
        number = sum(ratings) / len(ratings) if ratings else math.nan
    if not math.isfinite(number):
        raise MalformedRow(
            f"{where}: '{columns.score}' is {_kind(value)}; it must be a finite number; data.columns can rename it"
        )
    return number


def _number(value: Any) -> float:
    """A number, or the number that a text writes; NaN for all else."""
    try:
        return float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (OverflowError, ValueError):  # an integer past all floats; another text
        return math.nan


def _messages(row: Row, columns: Columns) -> Example:
    name = columns.messages
    if row.get(name) is None and row.get(columns.conversations) is not None:
        name = columns.conversations
    given = _get(row, name)
    if isinstance(tools := row.get(_TOOLS), str | list) and tools not in _NO_TOOLS:
        raise UnusableRow(f"'{_TOOLS}': tools that the answer may call; dialogues here know none: {_CONVERT}")
    if isinstance(given, str) and given.lstrip().startswith("[{"):  # as some tables keep it
        given = _parsed(given, name)
    messages = _dialogue(given, name)
    if messages[-1]["role"] == "assistant":
        prompt, answer = _split_answer(messages, name)
        unwanted = isinstance(given, list) and given[-1].get("weight") == 0  # OpenAI: not to be learnt
        return _demonstrated(prompt, None if unwanted or not _wanted(row, columns) else answer, row, columns)
    return _demonstrated(_ends_with_user(messages, name), None, row, columns)


def _prompts(row: Row, columns: Columns) -> Example:
    prompt, plain = _row_prompt(row, columns)
    name = columns.completion
    if row.get(name) is None and row.get(columns.prompt) is None:
        name = columns.output
    given = row.get(name)
    if given is None:
        return _demonstrated(prompt, None, row, columns)
    asked, answer = _response(given, prompt, plain, name)
    return _demonstrated(_fuller(prompt, asked), answer if _wanted(row, columns) else None, row, columns)


def _parsed(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise MalformedRow(f"'{name}' begins like a list in JSON and is none; it must be a list of messages") from None


def _demonstrated(prompt: list[Message], answer: str | None, row: Row, columns: Columns) -> Example:
    return Example.of(_with_system(prompt, row, columns), demonstration=answer)


def _wanted(row: Row, columns: Columns) -> bool:
    """Whether the row's completion is a good one: all are but those that KTO labels false, or 0."""
    name = columns.label if columns.label in row else _LABEL
    label = row.get(name, True)
    known = _LABELS.get(label.strip().lower() if isinstance(label, str) else label) if _plain_value(label) else None
    if known is not None:
        return known
    raise MalformedRow(
        f"'{name}' is {_shown(label) if _plain_value(label) else _kind(label)}; beside a completion it must be true or "
        "false, or 1 or 0 (KTO: whether it is a good one); data.columns.label=none if it means something else"
    )


def _plain_value(value: Any) -> bool:
    return isinstance(value, str | int | float)


_READERS: dict[str, Callable[[Row, Columns], Example]] = {
    "dialogues": _dialogues, "pairs": _pairs, "scored": _scored, "summaries": _summaries, "messages": _messages,
    "prompts": _prompts,
}  # fmt: skip


def _pair(prompt: list[Message], chosen: str, rejected: str, columns: Columns) -> Example:
    if chosen == rejected:
        raise UnusableRow(f"'{columns.chosen}' and '{columns.rejected}' are the same response; they must differ")
    return Example.of(prompt, chosen=chosen, rejected=rejected)


def read_prompt(value: Any, name: str) -> list[Message]:
    """A prompt given as one plain text, as a text of turns, or as messages; `name` is what its place is called."""
    if isinstance(value, str) and not _TURN.match(value) and not _TURN.match(_OPEN + value):
        return [{"role": "user", "content": _text(value, name)}]
    messages = _dialogue(value, name, open_ended=True)
    return _ends_with_user(messages, name)


def read_text(value: Any, name: str) -> str:
    """A response: a text without white space at its ends."""
    return _text(value, name)


def _row_prompt(row: Row, columns: Columns) -> tuple[list[Message], str | None]:
    """The prompt of a row, and its text where it was given as one: dialogues beside it may then say more of it."""
    value = row.get(columns.prompt)
    if value is not None or columns.instruction not in row:
        if value is None and (name := _open_dialogue(row, columns)):
            return _ends_with_user(_dialogue(row[name], name), name), None
        value = _get(row, columns.prompt)
        return read_prompt(value, columns.prompt), value.strip() if isinstance(value, str) else None
    text = _text(row[columns.instruction], columns.instruction)
    if (more := row.get(columns.input)) is not None and not (isinstance(more, str) and not more.strip()):
        text = f"{text}\n\n{_text(more, columns.input)}"
    turns: list[Message] = []
    history = row.get(columns.history)
    if not isinstance(history, list | None) or not all(isinstance(t, list) and len(t) == 2 for t in history or ()):
        raise MalformedRow(f"'{columns.history}' must be a list of [prompt, response]")
    for i, (asked, reply) in enumerate(history or (), 1):
        name = f"{columns.history}, item {i}"
        turns += [
            {"role": "user", "content": _text(asked, name)},
            {"role": "assistant", "content": _text(reply, name)},
        ]
    return [*turns, {"role": "user", "content": text}], text


def _open_dialogue(row: Row, columns: Columns) -> str | None:
    """The column of a dialogue that ends before the response, beside a pair of responses."""
    for name in (columns.messages, columns.conversations):
        given = row.get(name)
        last = given[-1] if isinstance(given, list) and given else None
        if isinstance(last, Mapping) and last.get("role", last.get("from")) in ("user", "human"):
            return name
    return None


def _with_system(prompt: list[Message], row: Row, columns: Columns) -> list[Message]:
    """The prompt with the row's system text before it, unless it begins with a system turn."""
    given = row.get(columns.system)
    if given is None or prompt[0]["role"] == "system" or (isinstance(given, str) and not given.strip()):
        return prompt
    return [{"role": "system", "content": _text(given, columns.system)}, *prompt]


def _response(value: Any, prompt: list[Message], plain: str | None, name: str) -> tuple[list[Message] | None, str]:
    """A response given as text, as one message, or as a dialogue; and the prompt of the dialogue.

    That may say more than the row's prompt where it ends with it, or where that is one plain text, a user turn of it.
    """
    if isinstance(value, str):
        return None, _text(value, name)
    messages = _dialogue([value] if isinstance(value, Mapping) else value, name)
    if len(messages) == 1 and messages[0]["role"] == "assistant":
        return None, messages[0]["content"]
    asked, answer = _split_answer(messages, name)
    known = plain is not None and plain in [turn["content"] for turn in asked if turn["role"] == "user"]
    if known or asked == prompt[-len(asked) :] or prompt == asked[-len(prompt) :]:
        return asked, answer
    raise UnusableRow(f"'{name}' answers another prompt than the row's; they must be equal")


def _fuller(prompt: list[Message], asked: list[Message] | None) -> list[Message]:
    return prompt if asked is None or len(asked) < len(prompt) else asked


def _dialogue(value: Any, name: str, open_ended: bool = False) -> list[Message]:
    """Turns of a text or of a list of messages, neighbours of one role joined.

    `open_ended`: an empty last assistant turn only opens the response and is dropped.
    """
    turns = _parse_text(value, name) if isinstance(value, str) else _parse_messages(value, name)
    if open_ended and len(turns) > 1 and turns[-1]["role"] == "assistant" and not turns[-1]["content"].strip():
        turns = turns[:-1]
    joined: list[Message] = []
    for i, turn in enumerate(turns, 1):
        content = _text(turn["content"], f"{name}, turn {i} ({turn['role']})")
        if joined and joined[-1]["role"] == turn["role"]:
            joined[-1] = {"role": turn["role"], "content": f"{joined[-1]['content']}\n\n{content}"}
        else:
            joined.append({"role": turn["role"], "content": content})
    return joined


def _parse_text(text: str, name: str) -> list[Message]:
    if not text.strip():
        raise UnusableRow(f"'{name}' is empty; it must hold a dialogue")
    text = _OPEN + text.replace("\r\n", "\n")
    starts = list(_TURN.finditer(text))
    if not starts or starts[0].start() not in (0, len(_OPEN)):
        raise MalformedRow(
            f"'{name}' is no dialogue; it must begin with '\\n\\nHuman:' (or have a prompt column beside it)"
        )
    ends = [match.start() for match in starts[1:]] + [len(text)]
    role = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": role[match[1]], "content": text[match.end() : end]}  # type: ignore[typeddict-item]
        for match, end in zip(starts, ends, strict=True)
    ]


def _parse_messages(value: Any, name: str) -> list[Message]:
    if not isinstance(value, list):
        raise MalformedRow(f"'{name}' is {_kind(value)}; it must be a text or a list of messages")
    if not value:
        raise UnusableRow(f"'{name}' is an empty list; it must hold a dialogue")
    turns = [_parse_message(message, f"'{name}', message {i}") for i, message in enumerate(value, 1)]
    for i, turn in enumerate(turns[1:], 2):
        if turn["role"] == "system" and turns[i - 2]["role"] != "system":
            raise MalformedRow(f"'{name}', message {i}: a system message must be the first")
    return turns


def _parse_message(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise MalformedRow(f"{where}: it must be an object with 'role' and 'content'")
    role_key, content, roles = ("role", "content", ROLE_OF) if "role" in message else ("from", "value", FROM)
    if role_key not in message or content not in message:
        raise MalformedRow(f"{where}: it must be an object with 'role' and 'content' (or 'from' and 'value')")
    role = message[role_key]
    calls = [message.get(name) for name in ("tool_calls", "function_call")]
    if role in TOOLS or any(calls) or (message[content] is None and calls != [None, None]):
        raise UnusableRow(
            f"{where}: a tool's turn or a call of one; dialogues here know system, user and assistant alone: {_CONVERT}"
        )
    if not isinstance(role, str) or role not in roles:
        meant = {**FROM, "ai": "assistant"}.get(role.lower()) if isinstance(role, str) else None
        hint = f" Did you mean '{meant}'?" if meant else ""
        raise MalformedRow(f"{where}: role {_shown(role)} must be one of {', '.join(ROLES)}.{hint}")
    return {"role": roles[role], "content": _content(message[content], where)}


def _content(value: Any, where: str) -> str:
    """A text, or the texts of parts as OpenAI's messages have them, one below another."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(part, Mapping) for part in value):
        raise MalformedRow(f"{where}: content is {_kind(value)}; it must be a text, or a list of text parts")
    for part in value:
        if not isinstance(part.get("text"), str):
            raise UnusableRow(
                f"{where}: a part of type {_shown(part.get('type'))}; text alone can be read ({{type: text, text: …}})"
            )
    return "\n".join(part["text"] for part in value)


def _split_answer(messages: list[Message], name: str) -> tuple[list[Message], str]:
    if messages[-1]["role"] != "assistant":
        raise UnusableRow(f"'{name}' ends with a {messages[-1]['role']} turn; its last turn must be the assistant's")
    return _ends_with_user(messages[:-1], name), messages[-1]["content"]


def _ends_with_user(messages: Sequence[Message], name: str) -> list[Message]:
    if not messages or messages[-1]["role"] != "user":
        raise UnusableRow(f"'{name}' holds no user turn right before the response; it must")
    return list(messages)


def _get(row: Row, name: str) -> Any:
    if name not in row:
        raise MalformedRow(f"no '{name}' among {_names(row)}; data.columns can rename it.{suggest(name, row)}")
    return row[name]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise MalformedRow(f"'{name}' is {_kind(value)}; it must be a text")
    text = value.strip()
    if not text:
        raise UnusableRow(f"'{name}' is empty; it must hold text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise MalformedRow(f"'{name}' holds half of a surrogate pair; it must be valid Unicode") from None
    return text


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _kind(value: Any) -> str:
    kinds = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object", str: "a text"}
    return "null" if value is None else kinds.get(type(value), type(value).__name__)


def _names(row: Row) -> str:
    shown = ", ".join(f"'{name}'" for name in list(row)[:20]) or "(none)"
    return shown if len(row) <= 20 else f"{shown} and {len(row) - 20} more"
