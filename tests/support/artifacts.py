"""Short ways to what tests write and compare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from morlaif.data.arrow import save_splits
from morlaif.data.chat import dialogue_parts
from morlaif.data.records import Message
from morlaif.feedback.records import VERDICT_COLUMNS, VERDICTS, Verdict


def dialogue_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], response: str, max_length: int
) -> list[int]:
    """Ids of prompt and response together, at most `max_length`, ending in EOS."""
    prompt, answer = dialogue_parts(tokenizer, messages, response, max_length)
    return prompt + answer


def save_verdicts(folder: Path, splits: Mapping[str, Iterable[Verdict]]) -> None:
    """Write the verdicts of a `feedback` artifact whose folder is `folder`."""
    save_splits(Path(folder) / VERDICTS, splits, VERDICT_COLUMNS)
