"""Evaluated prompts as a run keeps them, and raters who answer a form by a rule."""

from __future__ import annotations

import json
from collections.abc import Callable

from morlaif.evaluation.human.items import RatedPair, Study

WORDS = ("river", "stone", "bread", "candle", "window", "garden", "letter", "bridge", "copper", "lantern", "meadow")
COMPARISONS = (RatedPair("policy_vs_single", "zebra", "yak"), RatedPair("policy_vs_sft", "zebra", "ibex"))


def make_rows(count: int = 40, policies=("ibex", "zebra", "yak")) -> list[dict]:
    rows = []
    for k in range(count):
        thing = f"{WORDS[k % len(WORDS)]}{k}"
        texts = [f"Take {k} looks at the {thing}, kind {p}." for p in range(len(policies))]
        rows.append({
            "prompt_id": f"{k:016x}",
            "messages": [{"role": "user", "content": f"What of the {thing}?"}],
            "responses": {p: {"text": text, "tokens": 5} for p, text in zip(policies, texts, strict=True)},
        })  # fmt: skip
    return rows


def answer(study: Study, rater: str, rule: Callable[[dict, str], str], **kinds: Callable) -> str:
    """The JSON file of `rater`, who answers each item by `rule(key of the item, id)`, or by the rule of its kind."""
    key = study.key()
    rows = []
    for id_, item in key["items"].items():
        said = kinds.get(item["kind"], rule)(item, id_)
        if said is not None:
            rows.append({"item": id_, "answer": said, "seconds": 10.0, "comment": "", "when": "2030-01-01T00:00:00Z"})
    return json.dumps({"form": key["form"], "rater": rater, "started": "", "answers": rows})


def prefers(*names: str) -> Callable[[dict, str], str]:
    """A rule: whichever side is behind one of `names`; a tie where neither is."""
    return lambda item, _: "a" if item["a"] in names else "b" if item["b"] in names else "tie"
