"""What is known of a preference model: `pm.json`, which the bank reads, and the numbers in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from morlaif.errors import UserError
from morlaif.preference import metrics
from morlaif.preference.pairs import LabelledPairs

MODEL, REPORT = "model", "pm.json"  # inside the artifact of `pm`


@dataclass(frozen=True)
class PMReport:
    """One preference model."""

    principle: str
    text: str | None  # the principle in words: question and description
    kind: str
    pooling: Any  # last, mean; or own, where the model reads in its own way
    max_length: int
    max_prompt: int  # most tokens of a prompt, whatever the response
    base: dict[str, Any]  # path, revision, fingerprint of its weights, own: whether it is the run's SFT model
    adapter: str | None  # hash of the adapter in `model`, without its head: views of one trunk have the same
    accuracy: dict[str, Any]  # on held-out verdicts: value, low, high (Wilson, 95 %), n
    length_baseline: dict[str, Any]  # the same for the rule (longer, shorter) that fits the training pairs
    length_correlation: float | None  # of score and response length
    brier: float | None
    ece: float | None
    train_loss: float | None  # mean over the last tenth of the steps
    pairs: dict[str, int]  # train, held_out, invalid, ties
    cut: dict[str, dict[str, int]]  # of "train" and "held_out": pairs too long, tokens they lost, pairs equal after it
    first_preferred: float | None  # share of the training verdicts without a tie that prefer the first response
    steps: int
    together: list[str]  # principles whose verdicts trained the same weights, this one among them
    question: str | None = None  # kinds conditioned and salmon: the text behind the dialogue
    instruction: str | None = None  # the same kinds: of which that of another principle is made
    members: list[dict[str, Any]] | None = None  # kind ensemble: folder, adapter, offset, accuracy of each
    aggregate: dict[str, Any] | None = None  # kind ensemble: rule, penalty

    def save(self, folder: Path) -> None:
        (folder / REPORT).write_text(json.dumps(asdict(self), indent=2) + "\n")


def read_report(name: str, folder: Path) -> PMReport:
    """Raises `UserError`, naming the principle, where the folder holds no preference model that can be read."""
    path = folder / REPORT
    if not path.is_file():
        raise UserError(f"preference model '{name}': {path} is missing; is this the folder of a finished `pm` unit?")
    try:
        kept = json.loads(path.read_text())
        kept.pop("trust_remote_code", None)  # older reports have it; only a run's config may say so
        return PMReport(**kept)
    except (TypeError, AttributeError, json.JSONDecodeError) as error:
        raise UserError(f"preference model '{name}': {path} cannot be read ({error}); train it again") from None


def measures(
    k: int,
    data: LabelledPairs,
    learnt: Sequence[int] | NDArray[np.int64],
    held: LabelledPairs,
    scores: NDArray[np.float64],
) -> dict[str, Any]:
    """The part of a report that is counted: of principle `k`, trained on the pairs `learnt` of `data`.

    scores: (N, 2) of all held-out pairs' responses.
    """
    taught = np.asarray(learnt, dtype=int)
    p = data.probability[:, k].numpy()
    judged, tested = data.judged(k), held.judged(k)
    rule = metrics.length_rule(np.subtract(*data.response_lengths[taught].T), p[taught])
    ties = [metrics.tied(value) for value in p[judged]]
    sided = p[judged][~np.array(ties, dtype=bool)]
    return {
        "pairs": {
            "train": len(taught),
            "held_out": len(tested),
            "invalid": data.invalid[k] + held.invalid[k],
            "ties": int(sum(ties)),
        },
        "cut": {"train": data.cut, "held_out": held.cut},
        "first_preferred": float((sided > 0.5).mean()) if len(sided) else None,
        **metrics.held_out(scores[tested], held.response_lengths[tested], held.probability[tested, k].numpy(), rule),
    }
