"""Stage `data`: prompts, demonstrations and human preferences, as Arrow datasets."""

from __future__ import annotations

import json
from typing import Any

from morlaif.data.load import Loaded, load
from morlaif.data.records import save_examples
from morlaif.data.settings import ToyData
from morlaif.stages.data import DataJob
from morlaif.toy.world import make_world


def build(job: DataJob) -> dict[str, Any]:
    """Leaves out/dataset (splits sft, train, eval) and, where rows were skipped, out/skipped.jsonl: where and why."""
    settings, seed = job.reads.data, job.reads.seed
    loaded = _made(settings, seed) if isinstance(settings, ToyData) else load(settings, seed, job.keep)
    save_examples(job.out, loaded.splits)
    if loaded.skipped:
        with (job.out / "skipped.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in loaded.skipped)
    counted = {} if loaded.openings is None else {"openings": loaded.openings, "left_out": loaded.left_out}
    return {
        **{split: len(examples) for split, examples in loaded.splits.items()},
        "pairs": loaded.pairs,
        "rows": loaded.rows,
        "duplicates": loaded.duplicates,
        "skipped": len(loaded.skipped),
        **counted,
    }


def _made(settings: ToyData, seed: int) -> Loaded:
    """The dialogues of the toy world."""
    splits = make_world(seed, sft=settings.sft, train=settings.train, eval=settings.eval)
    pairs = sum(e.chosen is not None for split in ("train", "eval") for e in splits[split])
    return Loaded(splits, sum(map(len, splits.values())), 0, [], pairs=pairs)
