"""The workspace for Weights & Biases, as it would be saved: built without a login."""

from __future__ import annotations

import json
import sys

import pytest

from morlaif.tracking import workspace


@pytest.fixture(scope="module")
def spec():
    pytest.importorskip("wandb_workspaces")
    made = workspace.workspace("me", "morlaif", "scalarizers-1a2b", ["empathy", "bias"])
    return json.loads(made._to_model().spec.model_dump_json(by_alias=True))


def test_it_compares_the_scalarizers_of_one_sweep(spec):
    (runs,) = spec["section"]["runSets"]
    text = json.dumps(runs)
    assert '"value": "scalarizers-1a2b"' in text and '"value": "run"' in text
    assert runs["grouping"] == [{"section": "config", "name": "scalarizer.value.name"}]


def test_its_panels_show_what_a_run_tells_its_tracker(spec):
    sections = {s["name"]: s for s in spec["section"]["panelBankConfig"]["sections"]}
    names = ["Scalarizers", "PPO", "PPO's updates", "What the reward is made of", "Principles", "Samples and figures"]
    assert list(sections)[:6] == names
    text = json.dumps(spec)
    for key in ("win_rate.morlaif_vs_sft.value", "win_rate.morlaif_vs_rlaif.value", "ppo/morlaif/reward",
                "ppo/morlaif/step", "ppo/morlaif/score/empathy", "ppo/morlaif/updates/ratio_max",
                "ppo/morlaif/variance_share/bias", "figures/win_rates", "samples"):  # fmt: skip
        assert key in text, key


def test_it_is_shown_without_a_login(capsys, monkeypatch):
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert workspace.main(["--entity", "me", "--print"]) == 0
    assert json.loads(capsys.readouterr().out)["section"]


def test_without_the_package_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert workspace.main(["--entity", "me", "--print"]) == 2
    assert "pip install 'morlaif[wandb]'" in capsys.readouterr().err
