"""What a dialogue that is too long loses: whole turns from its front, never the system turn or a role's header.

Only where the last user turn alone is too long does it lose the beginning of its text, and a system turn the end of its
own: what either has more than half of the room. Pure functions: how long a dialogue is, is the caller's to say.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from morlaif.data.records import Message

Length = Callable[[Sequence[Message]], int]  # tokens of a dialogue, the opening of the assistant's turn included


def cut_messages(messages: Sequence[Message], length: Length, room: int) -> list[Message]:
    """The dialogue with what is left of it in `room` tokens; longer only where the headers alone are."""
    if length(messages) <= room:
        return list(messages)
    first = next((i for i, turn in enumerate(messages) if turn["role"] != "system"), 0)
    system, turns = list(messages[:first]), list(messages[first:])
    begins = [i for i, turn in enumerate(turns) if i and turn["role"] == "user"] or [len(turns) - 1]
    at = bisect_left(begins, True, key=lambda i: length([*system, *turns[i:]]) <= room)
    if at < len(begins):
        return [*system, *turns[begins[at] :]]
    last = turns[-1]
    if system:
        before, bare = system[0], _of(last, "")
        headers = length([_of(before, ""), bare])
        question = length([_of(before, ""), last]) - headers
        most = headers + max((room - headers) // 2, room - headers - question)
        if length([before, bare]) > most:
            system = _longest(
                before["content"],
                lambda n: [_of(before, before["content"][:n].rstrip())],
                lambda cut: length([*cut, bare]) <= most,
            )
    text = last["content"]
    return _longest(text, lambda n: [*system, _of(last, _end(text, n))], lambda cut: length(cut) <= room)


def _longest(text: str, made: Callable[[int], list[Message]], fits: Callable[[list[Message]], bool]) -> list[Message]:
    """What is made of the most characters of `text` that fit, at least of one."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(made(middle)) else (low, middle - 1)
    return made(low)


def _end(text: str, count: int) -> str:
    """The last `count` characters, or those of them from the first whole word on."""
    end = text[len(text) - count :]
    if count == len(text) or end[:1].isspace() or text[len(text) - count - 1].isspace():
        return end.lstrip() or end
    _, _, whole = end.partition(" ")
    return whole.lstrip() or end


def _of(turn: Message, content: str) -> Message:
    return {"role": turn["role"], "content": content}
