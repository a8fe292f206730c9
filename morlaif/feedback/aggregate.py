"""What only shows when the labels of all principles are laid side by side, from the finished artifacts of
`feedback`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from morlaif.feedback.chunks import PairChunks, arrow_batches
from morlaif.feedback.quality import between
from morlaif.feedback.records import VERDICTS


def label_report(folders: Mapping[str, Path], respond: Path, split: str) -> dict[str, Any]:
    """How the principles' labels on `split` relate, and what each took. Ready for JSON.

    Args:
        folders: the artifact of `feedback` for each principle, by its name.
        respond: the artifact of `respond` with their pairs.

    Returns:
        names, agreement (K, K), correlation (K, K), mean_correlation, human {name: {agreement, kappa}} as in
        `quality.between`; cost {name: {input_tokens, output_tokens, usd}} over both splits; halo, where principles
        were asked in one request, else None.
    """
    chunks = list(PairChunks.open(respond, split).chunks())
    place = {id: i for i, id in enumerate(id for chunk in chunks for id in chunk.ids)}
    human = np.concatenate([chunk.human for chunk in chunks]) if chunks else np.zeros(0)
    labels, cost, halo = {}, {}, None
    for name, folder in folders.items():
        column = np.full(len(place), np.nan)
        for batch in arrow_batches(Path(folder) / VERDICTS / split):
            rows = [place[id] for id in batch.column("pair_id").to_pylist()]
            column[rows] = batch.column("p_first").to_numpy(zero_copy_only=False)
        labels[name] = column
        measured = json.loads((Path(folder) / "quality.json").read_text(encoding="utf-8"))
        parts = [measured[part].get("cost", {}) for part in ("train", "eval")]
        cost[name] = {
            kind: sum(part.get(kind, 0.0) for part in parts) for kind in ("input_tokens", "output_tokens", "usd")
        }
        halo = halo or measured.get("halo")
    return between(labels, human) | {"cost": cost, "halo": halo}
