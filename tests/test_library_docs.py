"""The examples of docs/library.md run as they stand, one after another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[1] / "docs" / "library.md"


@pytest.mark.slow
def test_the_examples_run_and_say_what_they_promise(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, object] = {}
    with torch.random.fork_rng():
        for number, block in enumerate(blocks, 1):
            exec(compile(block, f"example {number} of {PAGE.name}", "exec"), names)
    said = capsys.readouterr().out
    for words in ("first responses are better", "accuracy 0.", "reward ", "win rate over the start: "):
        assert words in said
    scores = names["scores"]
    assert scores.shape == (len(names["pairs"]), 2) and torch.isfinite(names["objective"](scores)).all()
