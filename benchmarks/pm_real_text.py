"""Human labels: each kind of preference model on a slice of HH-RLHF, beside the rule that longer is better.

    python benchmarks/pm_real_text.py --data helpful.jsonl.gz [--pairs 1000] [--kinds toy toy_heads …]

The base is a toy-sized model with random weights and a tokenizer trained on the slice: what is shown is that each kind
learns from real text and what that gives beside the length of the responses, not how good such models can be.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from pm_training import settings_of
from pydantic import TypeAdapter

from morlaif.data.load import load
from morlaif.data.records import Pair
from morlaif.data.settings import DataSettings
from morlaif.feedback.records import Verdict
from morlaif.models.scratch import build_causal_lm, train_tokenizer
from morlaif.models.settings import ScratchSettings
from morlaif.preference.tasks import Corpus, Task
from morlaif.preference.train import train_pms
from morlaif.presets import preset

KINDS = ["toy", "toy_full", "toy_trunk", "toy_heads", "toy_ensemble", "toy_conditioned"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--held", type=int, default=500)
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    given = parser.parse_args()
    pairs = slice_of(given.data, given.pairs, given.held)
    verdicts = {split: [Verdict(p.id, p.human, 0.0, True, "human") for p in pairs[split]] for split in pairs}
    print(f"{len(pairs['train'])} pairs, {len(pairs['eval'])} held out")
    print(f"{'':<16} {'accuracy':>8} {'95 %':>13} {'longer':>7} {'CPU s':>7}")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        texts = [text for pair in pairs["train"] for text in (pair.first, pair.messages[-1]["content"])]
        tokenizer = train_tokenizer(texts, 2048)
        build_causal_lm(ScratchSettings(**preset("model", "toy")["scratch"]), tokenizer,
                        seed=0).save_pretrained(base)  # fmt: skip
        tokenizer.save_pretrained(base)
        for kind in given.kinds:
            out = Path(folder) / kind
            out.mkdir()
            began = time.process_time()
            task = Task("human", verdicts["train"], verdicts["eval"], out)
            report = train_pms([task], Corpus(pairs["train"], pairs["eval"], base), settings_of(kind, []), seed=0)
            found, length = report["human"].accuracy, report["human"].length_baseline
            span = f"{found['low']:.3f}–{found['high']:.3f}"
            spent = time.process_time() - began
            print(f"{kind:<16} {found['value']:8.3f} {span:>13} {length['value']:7.3f} {spent:7.1f}", flush=True)


def slice_of(path: Path, train: int, held: int) -> dict[str, list[Pair]]:
    """The better response is first in every other pair."""
    values = preset("data", "hh_rlhf")
    values |= {"path": str(path.absolute()), "limit": train + held, "eval_size": held, "eval_fraction": None}
    splits = load(TypeAdapter(DataSettings).validate_python(values), seed=0).splits
    return {
        split: [
            Pair.of(e.messages, *((e.rejected, e.chosen) if i % 2 else (e.chosen, e.rejected)), float(i % 2 == 0))
            for i, e in enumerate(splits[split])
        ]
        for split in ("train", "eval")
    }


if __name__ == "__main__":
    main()
