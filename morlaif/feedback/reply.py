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


class Garbled(Exception):
    """The reply is not the JSON it should be."""


def parse(raw: str) -> Reply:
    """Read a chat completion. Fields that a server leaves out are None or 0.

    Raises:
        Garbled: not JSON, or without a choice.
    """
    try:
        body = json.loads(raw)
        if "choices" not in body and "error" in body:  # some gateways report trouble with status 200
            raise ValueError(str(body["error"])[:200])
        choice = body["choices"][0]
        message = choice["message"]
        logprobs = (choice.get("logprobs") or {}).get("content")
        tokens = [_alternatives(position) for position in logprobs] if logprobs else None
        usage = body.get("usage") or {}
        return Reply(
            message.get("content"),
            message.get("refusal"),
            tokens,
            choice.get("finish_reason"),
            int(usage.get("prompt_tokens") or 0),
            int(usage.get("completion_tokens") or 0),
            raw,
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise Garbled(f"unreadable reply: {type(error).__name__}: {error}") from None


def _alternatives(position: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The sampled token first, then the others that are listed for this position, each once."""
    listed = {position["token"]: position.get("logprob")}
    for item in position.get("top_logprobs") or ():
        listed.setdefault(item["token"], item["logprob"])
    return [(token, float(logprob)) for token, logprob in listed.items() if logprob is not None]
