"""The workspace for Weights & Biases, as it would be saved: built without a login."""

from __future__ import annotations

import json
import sys

import pytest

from morlaif.tracking import workspace

SHOWN = {
    "group": "scalarizers-1a2b", "keys": ["scalarizer.name", "ppo.kl.coef", "ppo.seed"],
    "arms": {"morlaif": "ppo", "rlaif": "ppo", "own": "untouched"}, "principles": ["empathy", "bias"],
}  # fmt: skip


@pytest.fixture(scope="module")
def spec():
    pytest.importorskip("wandb_workspaces")
    made = workspace.workspace("me", "morlaif", workspace.Shown(**SHOWN))
    return json.loads(made._to_model().spec.model_dump_json(by_alias=True))


@pytest.mark.slow
def test_it_groups_the_runs_of_one_sweep_by_what_it_varies_and_averages_over_seeds(spec):
    (runs,) = spec["section"]["runSets"]
    assert "sweeps" in json.dumps(runs["filters"]) and "scalarizers-1a2b" in json.dumps(runs["filters"])
    assert [key["name"] for key in runs["grouping"]] == ["scalarizer.value.name", "ppo.value.kl.coef"]


def test_it_opens_with_the_comparison_and_shows_every_arm_and_each_principle(spec):
    sections = {s["name"]: s for s in spec["section"]["panelBankConfig"]["sections"]}
    assert list(sections)[:3] == ["Comparison", "Training", "Principles"] and sections["Comparison"]["isOpen"]
    text = json.dumps(sections["Comparison"])
    for key in ("win_rate/morlaif_vs_sft", "win_rate/own_vs_sft", "win_rate/morlaif_vs_rlaif", "leaderboard",
                "over_seeds", "runs", "ppo.value.seed"):  # fmt: skip
        assert key in text, key
    plots = [panel["config"] for panel in sections["Training"]["panels"] if "metrics" in panel["config"]]
    together = [plot for plot in plots if plot["xAxis"] == "ppo/step"]
    assert ["ppo/morlaif/reward", "ppo/rlaif/reward"] in [plot["metrics"] for plot in together]
    assert ["untouched/own/reward"] in [plot["metrics"] for plot in plots if plot["xAxis"] == "untouched/step"]
    text = json.dumps(spec)
    for name in SHOWN["principles"]:
        assert all(f"ppo/{arm}/score/{name}" in text for arm in ("morlaif", "rlaif")) and f"pm/{name}/loss" in text


def test_the_folder_of_a_sweep_says_what_is_shown(tmp_path, capsys):
    (tmp_path / workspace.FILE).write_text(json.dumps(SHOWN))
    assert workspace.read(tmp_path / workspace.FILE) == workspace.Shown(**SHOWN)
    assert workspace.main(["--entity", "me", "--sweep", str(tmp_path / "none")]) == 2
    assert "no workspace.json of a finished sweep" in capsys.readouterr().err


def test_it_is_shown_without_a_login(capsys, monkeypatch):
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert workspace.main(["--entity", "me", "--print"]) == 0
    assert json.loads(capsys.readouterr().out)["section"]


def test_without_the_package_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert workspace.main(["--entity", "me", "--print"]) == 2
    assert "pip install 'morlaif[wandb]'" in capsys.readouterr().err
