"""What a model thinks before it answers is no answer: where its reply proper begins.

Some servers take thoughts out of a reply (`reasoning_content`), some leave them in between markers; the tokens whose
log-probabilities are listed hold them either way.
"""

from __future__ import annotations

import re

from morlaif.feedback.reply import Reply

_TAG = r"(?:seed:)?(?:think|thinking|thought|thoughts|reasoning|reason)"
_OPEN = re.compile(
    rf"\s*(?:<\|start\|>assistant)?(?:<{_TAG}>|\[THINK\]|◁think▷|<\|START_THINKING\|>|<\|(?:begin_of_)?thought\|>|<\|inner_prefix\|>"
    r"|<\|channel>|<unused94>|<\|channel\|>(?:analysis|commentary)|analysis(?=[A-Z]|<))",
    re.IGNORECASE,
)
_CLOSE = re.compile(
    rf"</{_TAG}>|\[/THINK\]|◁/think▷|<\|END_THINKING\|>|<\|end_of_thought\|>|<\|inner_suffix\|>"
    r"|<channel\|>|<unused95>|<\|channel\|>final(?:[^<\n]{0,40})<\|message\|>|assistantfinal",
    re.IGNORECASE,
)


def answer_begins(text: str) -> int | None:
    """Where the answer begins in a whole reply: behind the last thought. None: a thought has no end."""
    begin = max((found.end() for found in _CLOSE.finditer(text)), default=0)
    return None if _OPEN.match(text, begin) else begin


def answer_of(reply: Reply) -> str | None:
    """The reply without its thoughts; None: it ends before they do."""
    text = reply.text or ""
    if reply.thought and not text.strip():
        return None if reply.finish == "length" else ""
    begin = answer_begins(text)
    return None if begin is None else text[begin:]


def tokens_begin(reply: Reply) -> int | None:
    """Where the answer begins in the joined text of the tokens; None: it cannot be found there."""
    joined = sampled_text(reply)
    begin = answer_begins(joined)
    if begin or not reply.thought:
        return begin
    answer = (reply.text or "").strip()  # the server took the thoughts out of the text, not out of the tokens
    whole = joined.rstrip()
    return len(whole) - len(answer) if answer and whole.endswith(answer) else None


def sampled_text(reply: Reply) -> str:
    """The sampled tokens, joined."""
    return "".join(token[0][0] for token in reply.tokens or () if token)
