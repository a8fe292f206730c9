"""From one row of a source to an Example. Pure functions; the row's place in its file is the caller's to tell.

| format    | columns                  | meaning                                                            |
|-----------|--------------------------|--------------------------------------------------------------------|
| dialogues | chosen, rejected         | whole dialogues that differ in their last assistant turn (HH-RLHF) |
| pairs     | prompt, chosen, rejected | two responses to a prompt                                          |
| messages  | messages                 | a dialogue; a last assistant turn is a demonstration               |
| prompts   | prompt (and completion)  | a prompt, perhaps with a demonstration                             |

A dialogue is a text of `\\n\\nHuman:` and `\\n\\nAssistant:` turns or a list of messages; a prompt may also be
one plain text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from morlaif.data.records import Example, Message
from morlaif.data.settings import Columns, Format
from morlaif.errors import suggest

Row = Mapping[str, Any]
ROLES = ("system", "user", "assistant")

_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")


class MalformedRow(ValueError):
    """The row has not the form that its source promises."""


class UnusableRow(ValueError):
    """The row is well formed, but nothing can be learned from it. It may be skipped."""


def sniff(row: Row, columns: Columns) -> Format:
    """The format that the columns of `row` tell."""
    has_pair = columns.chosen in row and columns.rejected in row
    if has_pair:
        return "pairs" if columns.prompt in row else "dialogues"
    if columns.messages in row:
        return "messages"
    if columns.prompt in row:
        return "prompts"
    raise MalformedRow(
        f"no known format in the columns {_names(row)}; it needs '{columns.chosen}' and '{columns.rejected}', with or "
        f"without '{columns.prompt}', or '{columns.messages}', or '{columns.prompt}'; data.columns can rename them"
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
    return _pair(prompt, chosen, rejected, columns)


def _pairs(row: Row, columns: Columns) -> Example:
    prompt = _prompt(_get(row, columns.prompt), columns.prompt)
    chosen = _response(_get(row, columns.chosen), prompt, columns.chosen)
    rejected = _response(_get(row, columns.rejected), prompt, columns.rejected)
    return _pair(prompt, chosen, rejected, columns)


def _messages(row: Row, columns: Columns) -> Example:
    messages = _dialogue(_get(row, columns.messages), columns.messages)
    if messages[-1]["role"] == "assistant":
        prompt, answer = _split_answer(messages, columns.messages)
        return Example.of(prompt, demonstration=answer)
    return Example.of(_ends_with_user(messages, columns.messages))


def _prompts(row: Row, columns: Columns) -> Example:
    prompt = _prompt(_get(row, columns.prompt), columns.prompt)
    answer = row.get(columns.completion)
    return Example.of(prompt, demonstration=None if answer is None else _response(answer, prompt, columns.completion))


_READERS: dict[str, Callable[[Row, Columns], Example]] = {
    "dialogues": _dialogues, "pairs": _pairs, "messages": _messages, "prompts": _prompts,
}  # fmt: skip


def _pair(prompt: list[Message], chosen: str, rejected: str, columns: Columns) -> Example:
    if chosen == rejected:
        raise UnusableRow(f"'{columns.chosen}' and '{columns.rejected}' are the same response; they must differ")
    return Example.of(prompt, chosen=chosen, rejected=rejected)


def _prompt(value: Any, name: str) -> list[Message]:
    if isinstance(value, str) and not _TURN.match(value):
        return [{"role": "user", "content": _text(value, name)}]
    messages = _dialogue(value, name, open_ended=True)
    return _ends_with_user(messages, name)


def _response(value: Any, prompt: list[Message], name: str) -> str:
    """A response given as text, or as messages that may repeat the prompt."""
    if isinstance(value, str):
        return _text(value, name)
    messages = _dialogue(value, name)
    if len(messages) == 1 and messages[0]["role"] == "assistant":
        return messages[0]["content"]
    asked, answer = _split_answer(messages, name)
    if asked != prompt:
        raise UnusableRow(f"'{name}' answers another prompt than the row's; they must be equal")
    return answer


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
    starts = list(_TURN.finditer(text))
    if not starts or starts[0].start() != 0:
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
    for i, message in enumerate(value, 1):
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise MalformedRow(f"'{name}', message {i}: it must be an object with 'role' and 'content'")
        role = message["role"]
        if role not in ROLES:
            raise MalformedRow(f"'{name}', message {i}: role {role!r} must be one of {', '.join(ROLES)}")
        if role == "system" and i > 1:
            raise MalformedRow(f"'{name}', message {i}: a system message must be the first")
        if not isinstance(message["content"], str):
            raise MalformedRow(f"'{name}', message {i}: content is {_kind(message['content'])}; it must be a text")
    return [{"role": m["role"], "content": m["content"]} for m in value]


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


def _kind(value: Any) -> str:
    kinds = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object", str: "a text"}
    return "null" if value is None else kinds.get(type(value), type(value).__name__)


def _names(row: Row) -> str:
    return ", ".join(f"'{name}'" for name in row) or "(none)"
