"""The model card beside each preference model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from morlaif.preference.settings import TrainedPM
    from morlaif.preference.train import PMReport

_ADAPTER = """import torch
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
pad = tokenizer.pad_token_id
model = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=1, pad_token_id=pad)"""
_WHOLE = """import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder)"""
_LAST = """scores = model.eval()(input_ids=ids, attention_mask=mask).logits[:, 0]  # (B,)"""
_MEAN = """trunk = model.get_base_model() if hasattr(model, "get_base_model") else model
states = getattr(trunk, trunk.base_model_prefix)(input_ids=ids, attention_mask=mask).last_hidden_state
inside = mask * (torch.arange(mask.shape[1]) >= starts.unsqueeze(1))  # starts (B,): where each response begins
mean = (states * inside.unsqueeze(-1)).sum(1) / inside.sum(1, keepdim=True)
scores = trunk.score(mean)[:, 0]  # (B,); `model(...).logits` would read the last token instead"""


def write_card(path: Path, report: PMReport, settings: TrainedPM) -> None:
    """README.md with data, accuracy, calibration, and the lines that load the model without this project."""
    load = _ADAPTER if report.kind == "lora" else _WHOLE
    score = _MEAN if report.pooling == "mean" else _LAST
    accuracy, length = report.accuracy, report.length_baseline
    pairs = report.pairs
    interval = f"{_share(accuracy['low'])} to {_share(accuracy['high'])}, n = {accuracy['n']}"
    library = "peft" if report.kind == "lora" else "transformers"
    path.write_text(f"""---
library_name: {library}
pipeline_tag: text-classification
---

# Preference model: {report.principle}

Scores a dialogue's last response under the principle "{report.principle}"; higher is better. Only differences between
responses to one prompt have a meaning: σ(s₁ - s₂) is the probability that the first is preferred.

| | |
|---|---|
| kind | {report.kind}, state read: {report.pooling} |
| base | {report.base["path"]} ({report.base["revision"] or "no revision"}) |
| loss | {settings.loss}, {settings.epochs} epochs, learning rate {settings.learning_rate:g} |
| training pairs | {pairs["train"]} ({pairs["ties"]} ties); {pairs["invalid"]} invalid verdicts left out |
| held-out accuracy | {_share(accuracy["value"])} ({interval}) |
| length alone | {_share(length["value"])} (prefers the {length["rule"]} response) |
| correlation with length | {_share(report.length_correlation)} |
| Brier score, calibration error | {_share(report.brier)}, {_share(report.ece)} |

Text is prompt (chat template, generation prompt included) and response, tokenized apart, closed by EOS, at most
{report.max_length} tokens: a longer prompt loses its beginning.

```python
{load}
{score}
```
""")


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
