"""The GPU script's configs compose and its tables read what it writes: the place to find that out is not the GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from composed import config

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks" / "gpu"))

import figures  # noqa: E402
import made  # noqa: E402
import smoke  # noqa: E402
import table  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("policy", figures.POLICIES)
@pytest.mark.parametrize(("size", "device"), [(figures.Size(), "cuda"), (figures.FEW, "cuda"), (figures.SMALL, "cpu")])
def test_its_runs_are_valid(tmp_path, policy, size, device):
    made.write_dialogues(tmp_path / "pairs.jsonl", 20, 8, 8)
    words = figures.overrides(size, tmp_path, tmp_path / "pairs.jsonl", device)
    found = config(*words, *figures.POLICIES[policy])
    assert found.ppo.rollouts == size.rollouts and len(found.principles.chosen) == size.principles


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_its_checks_are_valid(tmp_path, device):
    check = smoke.Check("check", tmp_path, tmp_path, device)
    for more in (
        [],
        *([*smoke.ONE_ARM, *words] for words, _ in smoke.KILLED.values()),
        *([f"pm={kind}"] for kind in smoke.KINDS),
        ["hardware=cpu2_zero3"],
    ):
        command = check.morlaif(*more, dtype="bfloat16")
        assert command[:3] == [sys.executable, "-m", "morlaif"]
        config(*command[3:])


def test_a_killed_sft_is_valid(tmp_path):
    words, _ = smoke._adapter_sft(smoke.Check("check", tmp_path, tmp_path, "cpu"))
    found = config(*words)
    assert found.sft.lora.dropout == 0.1 and found.sft.checkpoint_every == 2 and found.sft.max_steps == 8


def test_words_fill_what_they_are_to_fill(tmp_path):
    tokenizer = made.tokenizer(1000)
    assert len(tokenizer) == 1000
    made.write_dialogues(tmp_path / "pairs.jsonl", 3, 40, 20)
    for row in map(json.loads, (tmp_path / "pairs.jsonl").read_text().splitlines()):
        for key, least in (("prompt", 40), ("chosen", 20), ("rejected", 20)):
            assert least <= len(tokenizer(row[key])["input_ids"]) < 3 * least


def test_operations_of_a_forward(tmp_path):
    """Twice a parameter and token, and two products of queries with half the tokens before."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    values = dict(zip(names, made.SHAPES["0.5b"], strict=True)) | {"model_type": "qwen2", "vocab_size": made.QWEN}
    (tmp_path / "config.json").write_text(json.dumps(values | {"tie_word_embeddings": True}))
    shape = figures.of_path(str(tmp_path))
    assert figures.forward(shape, 1, 0) == 2 * 24 * (896 * 896 * 2 + 2 * 896 * 128 + 3 * 896 * 4864)
    assert figures.forward(shape, 10, 0, 10) - figures.forward(shape, 10, 0) == 2 * 10 * 151_936 * 896
    assert figures.forward(shape, 4, 8) - figures.forward(shape, 4, 0) == 2 * 24 * 896 * 8 * 4


def test_tables(tmp_path, capsys):
    figures.Figures(tmp_path / "figures.jsonl", "tiny", "cpu").speed("sampling", 100, 2.0, 4e12, times=1.5)
    figures.Figures(tmp_path / "figures.jsonl", "tiny", "cpu").row("sft", wall=3.0, peak_gb=1.0)
    (tmp_path / "smoke.jsonl").write_text(json.dumps({"check": "killed", "ok": False, "seconds": 1, "error": "a|b"}))
    table.main(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert "| killed | failed | 1 | a/b |" in lines
    assert "| sampling | 100 | 2.0 | 50 | 2.0 |  | times 1.5 |" in lines and "| sft | 3.0 | 1.0 |  |  |" in lines


def test_a_page_takes_what_a_gpu_did_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    figures.Figures(tmp_path / "figures.jsonl", "0.5b", "cuda").row("run, full", left_out="out of time")
    for device, kept in (("a CPU", True), ("NVIDIA H100", False)):
        (tmp_path / "run.json").write_text(json.dumps({"device": device, "commit": "abc", "date": "2026-01-01"}))
        table.main(tmp_path, page)
        assert ("\nold\n" in page.read_text()) == kept
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "NVIDIA H100, commit abc" in text
    assert "0.5b, left out for want of time: run, full" in text


def test_it_starts_where_there_is_no_gpu(tmp_path):
    """The shortest of all: one check of a few thousand weights, one shape, one policy, and the tables."""
    environment = os.environ | {
        "PYTHON": sys.executable, "CHECKS": "agree-sample", "POLICIES": "rloo", "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1", "SECONDS_IN_ALL": "1000",
    }  # fmt: skip
    script = ROOT / "benchmarks" / "gpu" / "run.sh"
    done = subprocess.run(["bash", str(script), "all", str(tmp_path)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "table.md").read_text()
    assert "| agree-sample | passed |" in text and "| ppo updates, rloo |" in text and "left out" not in text
    assert '"error":' not in (tmp_path / "figures.jsonl").read_text()


def test_the_script_knows_its_words():
    script = ROOT / "benchmarks" / "gpu" / "run.sh"
    done = subprocess.run(["bash", str(script), "wrong"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and "smoke|figures|sample|all" in done.stdout and "set -" not in done.stdout
