from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from pydantic import TypeAdapter

from morlaif import presets
from morlaif.data.records import load_split
from morlaif.data.settings import DataSettings
from morlaif.stages.data import DataReads
from morlaif.stages.work.data import build

CONF = Path(__file__).resolve().parents[2] / "conf/data"


def preset(name: str, **changes):
    tree = presets.preset("data", name)
    return TypeAdapter(DataSettings).validate_python(tree | changes)


def job(settings, out: Path, seed: int = 0) -> SimpleNamespace:
    out.mkdir()
    return SimpleNamespace(reads=DataReads(data=settings, seed=seed), out=out, keep=out.parent)


def test_toy_artifact(tmp_path):
    counts = build(job(preset("toy", sft=30, train=20, eval=10), tmp_path / "a"))
    assert counts == {"sft": 30, "train": 20, "eval": 10, "pairs": 30, "rows": 60, "duplicates": 0, "skipped": 0}
    again = build(job(preset("toy", sft=30, train=20, eval=10), tmp_path / "b"))
    assert again == counts
    for split in ("sft", "train", "eval"):
        assert load_split(tmp_path / "a", split) == load_split(tmp_path / "b", split)
        assert len(load_split(tmp_path / "a", split)) == counts[split]


def test_skipped_rows_are_listed_beside_the_dataset(tmp_path):
    path = tmp_path / "my.jsonl"
    rows = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(10)]
    rows.append({"prompt": "x", "chosen": "", "rejected": "b"})
    path.write_text("\n".join(map(json.dumps, rows)))
    counts = build(job(preset("jsonl", path=str(path), bad_rows="skip"), tmp_path / "out"))
    assert (counts["rows"], counts["skipped"], counts["pairs"]) == (11, 1, 10)
    assert "line 11" in (tmp_path / "out/skipped.jsonl").read_text()
