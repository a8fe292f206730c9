"""What a question can cost, and what it makes of the answer."""

from __future__ import annotations

from morlaif.feedback.ledger import Answer
from morlaif.feedback.modes import Question, Reading
from morlaif.feedback.reply import Reply
from morlaif.feedback.settings import OpenAISettings


def most_usd(question: Question, settings: OpenAISettings) -> float:
    """What a request can cost at most: a token is at least a byte."""
    read = sum(len(message["content"].encode()) + 16 for message in question.messages)
    written = question.decoding[settings.max_tokens_key]
    return settings.price.usd(read, written)


def reading(question: Question, answer: Answer, reply: Reply | None) -> Reading:
    """What one question makes of an answer, with its share of what the answer cost."""
    cost = (answer.input_tokens / question.share, answer.output_tokens / question.share, answer.usd / question.share)
    if question.field is not None and reply is not None:
        return Reading(*question.read(reply), cost)
    return Reading(answer.value, answer.outcome, cost)
