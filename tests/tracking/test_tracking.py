"""Local rows, wandb's offline files read back, and trackers that break."""

from __future__ import annotations

import json
import struct
import sys
import time
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from morlaif.texts import redact
from morlaif.tracking import flatten, goal, open_tracker
from morlaif.tracking.settings import TrackingSettings
from morlaif.tracking.values import filterable, spread

adapter = TypeAdapter(TrackingSettings)
OFFLINE = {
    "kind": "wandb", "mode": "offline", "project": "morlaif", "entity": None, "group": None, "job_type": "run",
    "tags": ["mine"],
}  # fmt: skip
CONFIG = {
    "pm": {"lora": {"r": 8, "target_modules": ["q", "v"]}},
    "principles": [{"name": "empathy", "weight": 1.0}],
    "note": "x sk-secret-1 y",
    "ppo": {"betas": [0.9, 0.95]},
}

LISTS = {
    "updates/ratio_max": [1.0, 1.25], "updates/grad_norm": [3.0, 2.0], "epochs/grad_norm": [2.5],
    "histogram/advantage": {"edges": [-1.0, 0.0, 1.0], "counts": [3, 4]},
    "cosines/advantage": {"names": ["a"], "values": [[1.0]]},
}  # fmt: skip


def opened(settings: dict, folder, warnings: list[str], sweep: str = "scalarizers-1a2b"):
    return open_tracker(
        adapter.validate_python(settings), folder,
        name="linear", group=sweep, run_id="0123456789abcdef", tags=["linear", "toy", "4 principles"],
        config=CONFIG, warn=warnings.append,
    )  # fmt: skip


def rows(folder, name: str = "metrics.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def tell_all(tracker, folder: Path) -> None:
    """Everything that a run tells its tracker."""
    from PIL import Image

    Image.new("RGB", (8, 6), "white").save(folder / "win_rates.png")
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "weights.bin").write_bytes(b"0123")
    tracker.log("ppo", "ppo/morlaif", 1, {"reward": 0.25, "kl": 0.1, "length": 30.0})
    tracker.log("ppo", "ppo/morlaif", 2, {"reward": 0.75, "kl": 0.2, "length": float("nan"), **LISTS})
    tracker.log("pm", "pm/empathy", 1, {"loss": 0.6})
    tracker.table("samples", ["prompt", "sft", "multi"], [["p", "a sk-secret-1", "b"], ["q", "c", None]])
    tracker.images({"win_rates": folder / "win_rates.png"})
    tracker.artifact("ppo-multi", "model", folder / "model", {"digest": "abcd", "reward": 0.75})
    tracker.summary({"win_rate/morlaif_vs_sft": 0.9}, {"win_rate": {"morlaif_vs_sft": {"tie": 0.1}}, "kl": None})


# --- local rows -----------------------------------------------------------------------------------------------------


def test_local_rows(tmp_path):
    tracker = opened({"kind": "local"}, tmp_path, [])
    tracker.log("ppo", "ppo/morlaif", 3, {"reward": 0.5, "kl": float("nan")})
    (row,) = rows(tmp_path)  # before close: each row is flushed
    assert row.pop("time") > 1e9
    assert row == {"stage": "ppo", "unit": "ppo/morlaif", "step": 3, "metrics": {"reward": 0.5, "kl": None}}
    tracker.close()
    opened({"kind": "local"}, tmp_path, []).log("sft", "sft", 1, {"loss": 1})
    assert [row["unit"] for row in rows(tmp_path)] == ["ppo/morlaif", "sft"], "a resumed run appends"


def test_tensors_and_numpy_scalars_are_numbers(tmp_path):
    numpy = pytest.importorskip("numpy")
    opened({"kind": "local"}, tmp_path, []).log("pm", "pm/x", 0, {"loss": numpy.float32(0.25)})
    assert rows(tmp_path)[0]["metrics"] == {"loss": 0.25}


def test_lists_become_what_a_chart_can_show():
    flat, updates, histograms = spread({"reward": 0.5, **LISTS})
    assert flat == {"reward": 0.5, "epochs/grad_norm/1": 2.5} and histograms.keys() == {"histogram/advantage"}
    assert [row["updates/ratio_max"] for row in updates] == [1.0, 1.25] and updates[1]["updates/grad_norm"] == 2.0


@pytest.mark.parametrize("settings", [{"kind": "local"}, OFFLINE], ids=["local", "wandb"])
def test_everything_is_local_too(tmp_path, settings, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "sk-secret-1")
    monkeypatch.setitem(sys.modules, "wandb", None)
    tracker = opened(settings, tmp_path, [])
    tell_all(tracker, tmp_path)
    tracker.close()
    told = {row.pop("kind"): row for row in rows(tmp_path, "tracked.jsonl")}
    assert told["run"]["group"] == "scalarizers-1a2b" and "linear" in told["run"]["tags"]
    assert told["run"]["config"]["note"] == "x *** y"
    assert told["table"]["rows"] == [["p", "a ***", "b"], ["q", "c", None]]
    assert told["summary"]["values"] == {"win_rate/morlaif_vs_sft": 0.9}
    assert told["summary"]["details"]["win_rate"]["morlaif_vs_sft"] == {"tie": 0.1}
    assert told["images"]["files"] == {"win_rates": str(tmp_path / "win_rates.png")}
    assert told["artifact"]["folder"] == str(tmp_path / "model") and told["artifact"]["about"]["digest"] == "abcd"
    assert len(rows(tmp_path)) == 3


# --- wandb's offline files ------------------------------------------------------------------------------------------


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


def _when_finished(file: Path) -> bytes:
    """wandb's service, a process of its own, may still be writing when `finish` returns: its last record is `exit`."""
    from wandb.proto import wandb_internal_pb2

    until = time.monotonic() + 60
    while time.monotonic() < until:
        *_, last = [b"", *wandb_records(content := file.read_bytes())]
        record = wandb_internal_pb2.Record()
        record.ParseFromString(last)
        if record.WhichOneof("record_type") == "exit":
            return content
        time.sleep(0.05)
    raise TimeoutError(f"{file} has no end")


class Offline:
    """One offline run, read back."""

    def __init__(self, folder: Path) -> None:
        from wandb.proto import wandb_internal_pb2

        self.folder = folder
        (file,) = folder.glob("*.wandb")
        self.bytes = _when_finished(file)
        self.run, self.history, self.artifacts, self.metrics = None, [], [], {}
        self.summary: dict = {}
        self.config: dict = {}
        for data in wandb_records(self.bytes):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            match record.WhichOneof("record_type"):
                case "run":
                    self.run = record.run
                    self._configure(record.run.config)
                case "config":
                    self._configure(record.config)
                case "history":
                    named = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
                    self.history.append(named)
                case "summary":
                    changed = record.summary.update
                    self.summary |= {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in changed}
                case "metric":
                    self.metrics[record.metric.name] = record.metric
                case "artifact":
                    self.artifacts.append(record.artifact)
                case "request" if record.request.HasField("log_artifact"):
                    self.artifacts.append(record.request.log_artifact.artifact)

    def _configure(self, config) -> None:
        self.config |= {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in config.update}

    def logged(self, key: str) -> list:
        return [row[key] for row in self.history if key in row]

    def media(self, key: str) -> dict:
        """The facts of the one table or figure that was logged as `key`; its file is under files/."""
        (row,) = [row for row in self.history if f"{key}/_type" in row]
        return {name.removeprefix(f"{key}/"): value for name, value in row.items() if name.startswith(f"{key}/")}


def offline_runs(folder: Path) -> list[Offline]:
    return [Offline(path) for path in sorted(folder.glob("wandb/offline-run-*"))]


@pytest.mark.slow
def test_offline_files_hold_everything_promised(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("SOME_API_KEY", "sk-secret-1")
    warnings: list[str] = []
    tracker = opened(OFFLINE, tmp_path, warnings)
    tell_all(tracker, tmp_path)
    tracker.close()
    assert warnings == []
    (read,) = offline_runs(tmp_path)
    assert b"sk-secret-1" not in read.bytes

    # the run, its tags and a config that can be filtered by
    assert (read.run.run_group, read.run.job_type, read.run.project) == ("scalarizers-1a2b", "run", "morlaif")
    assert read.run.run_id == "0123456789abcdef" and read.run.display_name == "linear"
    assert list(read.run.tags) == ["4 principles", "linear", "mine", "toy"]
    assert read.config["principles"] == {"empathy": {"name": "empathy", "weight": 1.0}}
    assert read.config["pm"]["lora"] == {"r": 8, "target_modules": {"q": True, "v": True}}
    assert read.config["ppo"] == {"betas": {"0": 0.9, "1": 0.95}} and read.config["note"] == "x *** y"

    # every metric against its own step, with the way that is better
    assert read.logged("ppo/morlaif/reward") == [0.25, 0.75] and read.logged("ppo/step") == [1, 1.5, 2, 2]
    assert read.logged("ppo/morlaif/length") == [30.0, None] and read.logged("pm/empathy/loss") == [0.6]
    reward, kl, length = (read.metrics[f"ppo/morlaif/{name}"] for name in ("reward", "kl", "length"))
    assert all(one.step_metric == "ppo/step" and one.summary.last for one in (reward, kl, length))
    assert read.metrics["ppo/morlaif/updates/ratio_max"].summary.none and read.metrics["pm/empathy/loss"].summary.none
    assert read.config["goals"] == {"ppo/morlaif/reward": "maximize", "pm/empathy/loss": "minimize"}
    assert read.config["sweeps"] == {"scalarizers-1a2b": True}
    # what an update showed lies in the middle of its step
    assert [(row["ppo/step"], row["ppo/morlaif/updates/ratio_max"]) for row in read.history
            if "ppo/morlaif/updates/ratio_max" in row] == [(1.5, 1.0), (2, 1.25)]  # fmt: skip
    assert read.logged("ppo/morlaif/epochs/grad_norm/1") == [2.5] and not read.logged("ppo/morlaif/cosines/advantage")
    assert read.media("ppo/morlaif/histogram/advantage")["values"] == [3, 4]
    assert read.summary["win_rate/morlaif_vs_sft"] == 0.9
    details = read.summary.get("details") or {k: v for k, v in read.summary.items() if k.startswith("details")}
    assert "0.1" in json.dumps(details) and not any(key.startswith("win_rate.") for key in read.summary)

    # the table, the figure and the artifact
    table = read.media("samples")
    content = json.loads((read.folder / "files" / table["path"]).read_text())
    assert content["columns"] == ["prompt", "sft", "multi"]
    assert content["data"] == [["p", "a ***", "b"], ["q", "c", None]]
    image = read.media("figures/win_rates")
    assert (image["width"], image["height"]) == (8, 6)
    assert (read.folder / "files" / image["path"]).read_bytes() == (tmp_path / "win_rates.png").read_bytes()
    (artifact,) = [found for found in read.artifacts if found.type == "model"]
    assert artifact.name == "ppo-multi" and json.loads(artifact.metadata)["digest"] == "abcd"
    assert [entry.ref for entry in artifact.manifest.contents] == [(tmp_path / "model" / "weights.bin").as_uri()]


@pytest.mark.slow
def test_the_same_command_again_sends_nothing_twice(tmp_path):
    pytest.importorskip("wandb")
    for steps in (2, 3):
        tracker = opened(OFFLINE, tmp_path, [])
        for step in range(1, steps + 1):
            tracker.log("sft", "sft", step, {"loss": 1.0 / step})
        tracker.close()
    assert [read.logged("sft/step") for read in offline_runs(tmp_path)] == [[1, 2], [3]]


@pytest.mark.slow
def test_a_run_of_two_sweeps_is_on_both_dashboards(tmp_path):
    """It keeps the group of the first, and its config names both."""
    pytest.importorskip("wandb")
    for sweep in ("scalarizers-1a2b", "seeds-3c4d"):
        opened(OFFLINE, tmp_path, [], sweep).close()
    first, second = offline_runs(tmp_path)
    assert first.run.run_group == second.run.run_group == "scalarizers-1a2b"
    assert second.config["sweeps"] == {"scalarizers-1a2b": True, "seeds-3c4d": True}


# --- trackers that break --------------------------------------------------------------------------------------------


def test_without_wandb_the_run_goes_on_and_says_so_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    warnings: list[str] = []
    tracker = opened(OFFLINE, tmp_path, warnings)
    tell_all(tracker, tmp_path)
    tracker.close()
    assert len(rows(tmp_path)) == 3
    assert len(warnings) == 1 and "pip install 'morlaif[wandb]'" in warnings[0]


@pytest.mark.slow
@pytest.mark.parametrize("error", [BrokenPipeError("service gone\ntraceback"), SystemExit("service gone")])
@pytest.mark.parametrize("place", ["init", "define_metric", "log", "log_artifact", "finish"])
def test_wandb_may_break_anywhere(tmp_path, monkeypatch, place, error):
    wandb = pytest.importorskip("wandb")

    def broken(*_: object, **__: object) -> None:
        raise error

    run = wandb.init(mode="offline", dir=str(tmp_path), settings=wandb.Settings(silent=True, console="off"))
    monkeypatch.setattr(wandb, "init", lambda **_: run)
    monkeypatch.setattr(*((wandb, "init") if place == "init" else (type(run), place)), broken)
    warnings: list[str] = []
    tracker = opened(OFFLINE, tmp_path, warnings)
    tell_all(tracker, tmp_path)
    tracker.close()
    monkeypatch.undo()
    run.finish()
    assert len(rows(tmp_path)) == 3 and len(rows(tmp_path, "tracked.jsonl")) == 5
    assert warnings == ["wandb stopped (service gone); the run goes on, metrics stay in metrics.jsonl"]


# --- values ---------------------------------------------------------------------------------------------------------


def test_redact_flatten_and_filterable(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    monkeypatch.setenv("KEYBOARD", "qwertyuiop")
    assert redact({"a": ("Bearer hf_abcdefgh", "qwertyuiop", 1)}) == {"a": ["Bearer ***", "qwertyuiop", 1]}
    assert flatten({"a": {"b": {"c": 1}, "d": None}, "e": "x"}) == {"a.b.c": 1, "e": "x"}
    assert filterable({"a": [], "b": ["x", "x"], "c": [{"d": [1]}]}) == {
        "a": {}, "b": {"0": "x", "1": "x"}, "c": {"0": {"d": {"0": 1}}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "better"),
    [("reward", "maximize"), ("score/empathy", "maximize"), ("train_loss", "minimize"), ("kl", None),
     ("accuracy", "maximize"), ("length", None), ("learning_rate", None), ("seconds", "minimize"),
     ("seconds/score", "minimize"), ("policy_loss", None), ("value_loss", "minimize"), ("reward_clipped", None),
     ("deviation/empathy", None), ("eval/gain_low", None), ("eval/gain", "maximize"), ("kl_coef", None)],
)  # fmt: skip
def test_which_way_is_better(metric, better):
    assert goal(metric) == better


def test_settings_refuse_what_they_do_not_know():
    with pytest.raises(ValidationError, match="extra"):
        adapter.validate_python({"kind": "local", "project": "x"})
    with pytest.raises(ValidationError, match="offline"):
        adapter.validate_python(OFFLINE | {"mode": "sometimes"})
