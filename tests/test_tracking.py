"""Local rows, wandb's offline files read back with its own reader, and trackers that break."""

from __future__ import annotations

import json
import struct
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from morlaif.tracking import flatten, open_tracker, redact
from morlaif.tracking_settings import TrackingSettings

adapter = TypeAdapter(TrackingSettings)
OFFLINE = {
    "kind": "wandb", "mode": "offline", "project": "morlaif", "entity": None, "group": None, "job_type": "run",
    "tags": ["mine"],
}  # fmt: skip


def opened(settings: dict, folder, warnings: list[str]):
    return open_tracker(
        adapter.validate_python(settings),
        folder,
        name="linear",
        group="sweep",
        run_id="0123456789abcdef",
        tags=["linear", "k4"],
        config={
            "pm": {"lora": {"r": 8}},
            "principles": [{"name": "empathy", "weight": 1.0}],
            "note": "x sk-secret-1 y",
        },
        warn=warnings.append,
    )


def rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_local_rows(tmp_path):
    tracker = opened({"kind": "local"}, tmp_path, [])
    tracker.log("ppo", "ppo/multi", 3, {"reward": 0.5, "kl": float("nan")})
    (row,) = rows(tmp_path)  # before close: each row is flushed
    assert row.pop("time") > 1e9
    assert row == {"stage": "ppo", "unit": "ppo/multi", "step": 3, "metrics": {"reward": 0.5, "kl": None}}
    tracker.close()
    opened({"kind": "local"}, tmp_path, []).log("sft", "sft", 1, {"loss": 1})
    assert [row["unit"] for row in rows(tmp_path)] == ["ppo/multi", "sft"], "a resumed run appends"


def test_tensors_and_numpy_scalars_are_numbers(tmp_path):
    numpy = pytest.importorskip("numpy")
    opened({"kind": "local"}, tmp_path, []).log("pm", "pm/x", 0, {"loss": numpy.float32(0.25)})
    assert rows(tmp_path)[0]["metrics"] == {"loss": 0.25}


def wandb_records(data: bytes):
    """The protobuf records of a .wandb file: LevelDB's log format (blocks of 32 KiB, a record may span several) after a
    header of seven bytes. The wandb package itself no longer ships a reader in Python."""
    place, parts = 7, b""
    while place + 7 <= len(data):
        if (room := 32768 - place % 32768) < 7:
            place += room
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield parts
            parts = b""


@pytest.mark.timeout(120)
def test_wandb_offline_files_hold_metrics_summary_tags_and_no_secret(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("SOME_API_KEY", "sk-secret-1")
    warnings: list[str] = []
    tracker = opened(OFFLINE, tmp_path, warnings)
    tracker.log("ppo", "ppo/multi", 1, {"reward": 0.25})
    tracker.log("ppo", "ppo/multi", 2, {"reward": 0.75})
    tracker.samples("samples", ["prompt", "sft", "policy"], [["p", "a", "b"]])
    tracker.summary({"win_rate": {"policy_vs_sft": {"value": 0.9}}, "kl": None})
    tracker.close()
    assert warnings == []
    assert [row["metrics"]["reward"] for row in rows(tmp_path)] == [0.25, 0.75]

    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert b"sk-secret-1" not in file.read_bytes()
    run, history, summary = None, [], {}
    for data in wandb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        match record.WhichOneof("record_type"):
            case "run":
                run = record.run
            case "history":
                history.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item})
            case "summary":
                summary |= {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in record.summary.update}
    assert (run.run_group, run.job_type, run.project, run.run_id) == ("sweep", "run", "morlaif", "0123456789abcdef")
    assert list(run.tags) == ["k4", "linear", "mine"]
    config = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in run.config.update}
    assert config["principles"] == {"empathy": {"name": "empathy", "weight": 1.0}} and config["note"] == "x *** y"
    rewards = [(row["ppo/multi/step"], row["ppo/multi/reward"]) for row in history if "ppo/multi/reward" in row]
    assert rewards == [(1, 0.25), (2, 0.75)]
    assert any(key.startswith("samples") for row in history for key in row)
    assert summary["win_rate.policy_vs_sft.value"] == 0.9


def test_without_wandb_the_run_goes_on_and_says_so_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    warnings: list[str] = []
    tracker = opened(OFFLINE, tmp_path, warnings)
    for step in range(3):
        tracker.log("sft", "sft", step, {"loss": 1.0})
    tracker.summary({"a": 1})
    tracker.close()
    assert len(rows(tmp_path)) == 3
    assert len(warnings) == 1 and "pip install 'morlaif[wandb]'" in warnings[0]


def test_a_crash_of_wandb_in_the_middle_is_said_once(tmp_path):
    from morlaif.tracking import LocalTracker, WandbTracker

    class Service:
        """A run whose service dies at the second step."""

        steps = 0

        def define_metric(self, *args, **kwargs): ...

        def log(self, values):
            self.steps += 1
            if self.steps == 2:
                raise BrokenPipeError("service gone\ntraceback of the service")

    warnings: list[str] = []
    tracker = WandbTracker(LocalTracker(tmp_path / "metrics.jsonl"), Service, warnings.append)
    for step in range(4):
        tracker.log("sft", "sft", step, {"loss": 1.0})
    tracker.close()
    assert len(rows(tmp_path)) == 4
    assert warnings == ["wandb stopped (service gone); the run goes on, metrics stay in metrics.jsonl"]


def test_redact_and_flatten(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    monkeypatch.setenv("KEYBOARD", "qwertyuiop")
    assert redact({"a": ("Bearer hf_abcdefgh", "qwertyuiop", 1)}) == {"a": ["Bearer ***", "qwertyuiop", 1]}
    assert flatten({"a": {"b": {"c": 1}, "d": None}, "e": "x"}) == {"a.b.c": 1, "e": "x"}


def test_settings_refuse_what_they_do_not_know():
    with pytest.raises(ValidationError, match="extra"):
        adapter.validate_python({"kind": "local", "project": "x"})
    with pytest.raises(ValidationError, match="offline"):
        adapter.validate_python(OFFLINE | {"mode": "sometimes"})
