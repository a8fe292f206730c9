"""What a server sends back: a chat completion, as far as a judge reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, as far as a judge reads it."""

    text: str | None
    refusal: str | None
    tokens: list[list[tuple[str, float]]] | None  # for each token its alternatives, the sampled one first
    finish: str | None  # "stop", "length", "content_filter" …
    input_tokens: int
    output_tokens: int
    raw: str  # the reply's JSON
    thought: str | None = None  # what the model thought before, where the server tells it apart
    model: str | None = None  # that answered, by its own account
    fingerprint: str | None = None  # of the system it ran on


class Odd(TypeError):
    """A part of the reply is of another type than it should be."""


class Garbled(Exception):
    """The reply is not the JSON it should be."""


class HandedOn(Garbled):
    """The reply is an error, as some gateways hand it on under status 200."""


def parse(raw: str) -> Reply:
    """Read a chat completion. Fields that a server leaves out are None or 0.

    Raises:
        Garbled: not JSON, or without a choice. HandedOn: an error.
    """
    try:
        body = json.loads(raw)
        if "choices" not in body and "error" in body:
            raise HandedOn(f"an error in place of an answer: {_words(body['error'])}")
        choice = body["choices"][0]
        message = choice["message"]
        logprobs = (choice.get("logprobs") or {}).get("content")
        tokens = [_alternatives(position) for position in logprobs] if logprobs else None
        usage = body.get("usage") or {}
        text, thought = _texts(message, usage)
        model, fingerprint = (_word(body.get(name)) for name in ("model", "system_fingerprint"))
        return Reply(
            text,
            message.get("refusal"),
            tokens,
            choice.get("finish_reason"),
            _count(usage.get("prompt_tokens")),
            _count(usage.get("completion_tokens")),
            raw,
            thought,
            model,
            fingerprint,
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise Garbled(f"unreadable reply: {_why(error)}") from None


def _why(error: Exception) -> str:
    """What is wrong with the reply, not with the code that read it."""
    match error:
        case json.JSONDecodeError():
            return f"no JSON ({error.msg.lower()}, line {error.lineno}, column {error.colno})"
        case RecursionError():
            return "JSON that is nested too deeply"
        case KeyError():
            return f"it has no {error}"
        case IndexError():
            return "its list of choices is empty"
        case ValueError():
            return str(error)
        case Odd():
            return str(error)
    return "no object of a chat completion where one should be"


def _words(error: Any) -> str:
    """What an error says, on one line."""
    message = error.get("message") if isinstance(error, dict) else error
    return " ".join(str(message or error).split())[:200]


def _texts(message: Mapping[str, Any], usage: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The reply and the thoughts before it, under the names that servers give them; hidden ones are only counted."""
    content = message.get("content")
    thoughts = [message.get(name) for name in ("reasoning_content", "reasoning", "thinking")]
    if isinstance(content, list):  # in parts
        thoughts += [json.dumps(part) for part in content if part["type"] == "thinking"]
        content = "".join(part["text"] for part in content if part["type"] == "text")
    if not isinstance(content, str | None):
        raise Odd(f"its content is no text but {type(content).__name__}")
    hidden = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    first = next((thought for thought in thoughts if isinstance(thought, str) and thought), None)
    return content, first or (f"{hidden} hidden tokens" if hidden else None)


def _alternatives(position: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The sampled token first, then the others that are listed for this position, each once."""
    listed = {position["token"]: position.get("logprob")}
    for item in position.get("top_logprobs") or ():
        listed.setdefault(item["token"], item["logprob"])
    if not all(isinstance(token, str) for token in listed):
        raise Odd("a token that is no text")
    try:
        return [(token, float(logprob)) for token, logprob in listed.items() if logprob is not None]
    except ValueError:
        raise Odd("a log-probability that is no number") from None


def _count(value: Any) -> int:
    """A number of tokens."""
    count = int(value or 0)
    if not 0 <= count < 2**40:
        raise ValueError(f"{count} tokens")
    return count


def _word(value: Any) -> str | None:
    """A name on one line, of a sensible length."""
    if not isinstance(value, str):
        return None
    return "".join(c if c.isprintable() else " " for c in value).strip()[:200] or None
