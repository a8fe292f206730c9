"""The model card beside each preference model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from morlaif.preference.report import PMReport
from morlaif.texts import markdown, visible

if TYPE_CHECKING:
    from morlaif.preference.settings import TrainedPM

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


def write_card(path: Path, report: PMReport, settings: TrainedPM, about: str) -> None:
    """README.md with principle, data, accuracy, calibration, and the lines that load the model without this project.

    about: the kind in a sentence, in which {together}, {members}, {offsets} and {rule} may be used.
    """
    adapter = report.adapter is not None
    accuracy, length, pairs = report.accuracy, report.length_baseline, report.pairs
    interval = f"{_share(accuracy['low'])} to {_share(accuracy['high'])}, n = {accuracy['n']}"
    ties = "kept: they pull the two scores together" if settings.ties == "keep" else "left out"
    rows = [
        ("kind", f"{report.kind}, state read: {report.pooling}"),
        ("base", f"{report.base['path']} ({report.base['revision'] or 'no revision'})"),
        ("loss", f"{settings.loss}, {settings.epochs} epochs, learning rate {settings.learning_rate:g}"),
        ("training pairs", f"{pairs['train']}; {pairs['invalid']} invalid verdicts left out"),
        ("ties", f"{pairs['ties']}, {ties}"),
        ("first response preferred", f"{_share(report.first_preferred)} (the loss is symmetric: no weights needed)"),
        ("early stopping", _stopping(settings)),
        ("held-out accuracy", f"{_share(accuracy['value'])} ({interval})"),
        ("length alone", f"{_share(length['value'])} (prefers the {length['rule']} response)"),
        ("correlation of score and length", _share(report.length_correlation)),
        ("Brier score, calibration error", f"{_share(report.brier)}, {_share(report.ece)}"),
    ]
    table = "\n".join(f"| {name} | {markdown(value)} |" for name, value in rows)
    path.write_text(f"""---
library_name: {"peft" if adapter else "transformers"}
pipeline_tag: text-classification
---

# Preference model: {markdown(report.principle)}

Scores a dialogue's last response under this principle; higher is better. Only differences between responses to one
prompt have a meaning: σ(s₁ - s₂) is the probability that the first is preferred.
{_principle(report)}
{_about(report, about)}

| | |
|---|---|
{table}

Text is prompt (chat template, generation prompt included) and response, tokenized apart, closed by EOS, at most
{report.max_length} tokens: a prompt of more than {report.max_prompt} loses whole turns from its front, whatever the
response; a response has the rest. {_cut(report)}
{_question(report)}
```python
{_ADAPTER if adapter else _WHOLE}
{_MEAN if report.pooling == "mean" else _LAST}
```
""")


def _cut(report: PMReport) -> str:
    train, held = report.cut["train"], report.cut["held_out"]
    if not train["pairs"] + held["pairs"]:
        return "No pair was cut."
    return (
        f"Of the training pairs {train['pairs']} were cut (prompts by {train['prompt_tokens']:,} tokens, responses by "
        f"{train['response_tokens']:,}), of the held-out ones {held['pairs']}; "
        f"{train['equal'] + held['equal']} whose sides were equal after it were left out."
    )


def write_pretrained_card(path: Path, report: PMReport) -> None:
    """README.md of a reward model that somebody else trained."""
    fingerprint = report.base["fingerprint"]
    about = (
        f"The reward model {_base(report)}, used as it is; its weights are not\nkept here (fingerprint {fingerprint})."
    )
    write_short_card(path, report, about)


def write_short_card(path: Path, report: PMReport, about: str) -> None:
    """README.md of a model of which only its scores are known. about: what it is, in a sentence."""
    accuracy, length = report.accuracy, report.length_baseline
    interval = f"{_share(accuracy['low'])} to {_share(accuracy['high'])}, n = {accuracy['n']}"
    path.write_text(f"""# Preference model: {markdown(report.principle)}

{about}
{_principle(report)}
| | |
|---|---|
| held-out accuracy | {_share(accuracy["value"])} ({interval}) |
| length alone | {_share(length["value"])} (prefers the {length["rule"]} response) |
| correlation of score and length | {_share(report.length_correlation)} |
| Brier score, calibration error | {_share(report.brier)}, {_share(report.ece)} |
""")


def _base(report: PMReport) -> str:
    return f"{markdown(report.base['path'])} ({markdown(report.base['revision'] or 'no revision')})"


def _principle(report: PMReport) -> str:
    return f"\n> {markdown(report.text)}\n" if report.text else ""


def _about(report: PMReport, text: str) -> str:
    members = report.members or []
    rule = {
        "mean": "mean",
        "min": "least",
        "uncertainty": "mean less {penalty:g} times their variance",
        "lcb": "mean less {penalty:g} times their deviation",
    }
    aggregate = report.aggregate or {"rule": "mean", "penalty": 0.0}
    return text.format(
        together=", ".join(map(markdown, report.together)),
        members=len(members),
        offsets=", ".join(f"{member['offset']:.3f}" for member in members),
        rule=rule[aggregate["rule"]].format(**aggregate),
    )


def _question(report: PMReport) -> str:
    if report.question is None:
        return ""
    asked = report.question.replace("\n", "\n    ")
    return f"""
Behind it, not counted in that length, come two line breaks, this text, and EOS again:

    {visible(asked, lines=True)}
"""


def _stopping(settings: TrainedPM) -> str:
    stop = settings.early_stopping
    if stop is None:
        return "none"
    return f"best of every {stop.every} steps on {stop.share:g} of the training prompts, patience {stop.patience}"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
