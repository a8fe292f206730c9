"""What preference models are made of, from folders as stage `pm` leaves them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small_ppo
import torch
from safetensors.torch import save_file

from morlaif.pipeline.pm_cost import pm_cost, with_bases_named


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    small_ppo.llama().save_pretrained(folder)
    return folder


def written(root: Path, name: str, base: Path, kind: str = "lora", adapter: str | None = "a", **report) -> Path:
    folder = root / name
    (folder / "model").mkdir(parents=True)
    save_file({"weight": torch.full((3, 5), float(len(name)))}, folder / "model" / "adapter_model.safetensors")
    facts = {"kind": kind, "base": {"path": str(base)}, "adapter": adapter, "together": [name]} | report
    (folder / "pm.json").write_text(json.dumps(facts))
    manifest = {"stage": "pm", "name": f"pm/{name}", "digest": "d", "seconds": 2.5}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_adapters_stand_beside_one_base(tmp_path: Path, base: Path) -> None:
    folders = [written(tmp_path, name, base) for name in ("detail", "toxicity", "bias")]
    parameters = sum(weight.numel() for weight in small_ppo.llama().parameters())
    each = (folders[0] / "model" / "adapter_model.safetensors").stat().st_size
    assert pm_cost(folders) == {
        "base_parameters": parameters, "bytes": 4 * parameters + 3 * each, "seconds": 7.5, "models": 3,
    }  # fmt: skip


def test_whole_models_need_no_base_and_views_of_one_network_count_once(tmp_path: Path, base: Path) -> None:
    whole = [written(tmp_path / "full", name, base, kind="full", adapter=None) for name in ("detail", "bias")]
    each = (whole[0] / "model" / "adapter_model.safetensors").stat().st_size
    assert pm_cost(whole)["bytes"] == 2 * each
    both = ["detail", "bias"]
    views = [written(tmp_path / "heads", name, base, kind="heads", together=both) for name in both]
    found = pm_cost(views, [whole[0]])  # a network that they are views of, with a manifest like any unit
    assert found["seconds"] == 7.5
    assert found["bytes"] == 4 * found["base_parameters"] + each


def test_a_base_that_is_gone_or_that_differs_has_no_size(tmp_path: Path, base: Path) -> None:
    assert pm_cost([written(tmp_path, "detail", tmp_path / "gone")]) is None
    assert pm_cost([written(tmp_path, "bias", base), written(tmp_path, "toxicity", tmp_path)]) is None


def test_a_base_is_called_by_its_name_or_as_a_unit_by_its_size(tmp_path: Path) -> None:
    of_unit, folder = tmp_path / "sft" / "0123" / "model", tmp_path / "gemma3-270m"
    of_unit.mkdir(parents=True)
    (of_unit.parent / "manifest.json").write_text("{}")
    given = [None, "org/model", str(folder), str(of_unit)]
    runs = [{"config": {"pm.base": base, "seed": 1}, "pm": {"base_parameters": 74_400}} for base in given]
    found = with_bases_named(runs)
    assert [run["config"]["pm.base"] for run in found] == [None, "org/model", "gemma3-270m", "of 0.0744 M parameters"]
    assert all(run["config"]["seed"] == 1 for run in found) and runs[3]["config"]["pm.base"] == str(of_unit)
    other = {"config": {"pm.base": str(tmp_path / "other" / "gemma3-270m")}, "pm": {"base_parameters": 1}}
    assert with_bases_named([*runs, other]) == [*runs, other], "two that would have one name stay apart"
    of_hub = {"config": {"pm.base": "gemma3-270m"}, "pm": {"base_parameters": 1}}
    assert with_bases_named([*runs, of_hub]) == [*runs, of_hub], "one of the hub too"
    unknown = {"config": {"pm.base": str(of_unit)}, "pm": None}
    assert with_bases_named([unknown]) == [unknown]
