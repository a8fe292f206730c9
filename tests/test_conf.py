"""Every preset composes and validates; every key is explained; the list of keys is current."""

from __future__ import annotations

from pathlib import Path

import pytest
from composed import composed
from golden_presets import OPTIONS, differences, meaning
from written import ALL, heirs, idle, leaves, trees

import morlaif.cli  # noqa: F401
from morlaif.compose import plain, run_name
from morlaif.config import validate
from morlaif.errors import UserError
from morlaif.presets import options
from morlaif.reference import reference
from morlaif.worlds import strangers

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
MOST_SETTINGS = 1204  # written in conf/, wordings included


GIVEN = {  # what a preset leaves to its user
    "experiment=local": ["model.path=m", "judge.path=j", "data.path=d.jsonl"],
    "steer=answer": ["steer.run=r", "steer.prompt=p"],
    "model=hf": ["model.path=m"],
    "feedback=trained": ["feedback.path=m"],
}


@pytest.mark.slow
@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("option", OPTIONS)
def test_every_preset_composes_and_validates_and_means_what_it_did(option):
    tree = composed(option, hydra=True)
    config = validate(plain(composed(option, *GIVEN[option]) if option in GIVEN else tree))
    config.model_dump(mode="json")  # pydantic warns where a class stands behind the one that it refines
    lines = list(strangers(config, tree.hydra.runtime.choices))
    assert all(" Take " in line or " take " in line for line in lines), lines
    assert not differences(option, meaning(tree)), "if that is meant: python tests/support/golden_presets.py"


@pytest.mark.slow
def test_config_reference_is_current():
    written = (ROOT / "docs" / "config.md").read_text()
    assert written == reference(CONF), "run `make docs`"


@pytest.mark.slow
def test_what_presets_inherit_from_is_no_option():
    assert not [group for group in options() if "_base" in group]
    assert "trained" not in options()["pm"]


def test_a_key_is_explained_where_it_is_first_given(tmp_path):
    files = {
        "pm/_base/all.yaml": "# how often\nepochs: 1\nseed: 0\n",
        "pm/plain.yaml": "defaults:\n  - _base/all@_here_\n  - _self_\n\nepochs: 2\nrate: 3\n",
        "run/long.yaml": "# @package _global_\npm:\n  epochs: 9\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        reference(tmp_path)
    assert str(error.value).splitlines() == [
        "pm/_base/all.yaml:3: pm.seed has no comment", "pm/plain.yaml:6: pm.rate has no comment",
    ]  # fmt: skip


@pytest.mark.slow
def test_run_names_are_stable_and_leave_out_what_changes_no_number():
    name = run_name(composed())
    assert name.startswith("quickstart-")
    assert run_name(composed("hardware=gpu", "paths.store=elsewhere", "tracking=wandb_offline")) == name
    assert run_name(composed("ppo.steps=3")) != name
    assert run_name(composed("seed=3")) != name


def test_no_secret_and_no_default_hides_in_the_settings_classes():
    """Defaults live in YAML alone: a settings class with one would disagree with it some day."""
    from morlaif.settings import Seeded, Settings

    def classes(base):
        for sub in base.__subclasses__():
            yield sub
            yield from classes(sub)

    with_default = [
        f"{sub.__module__}.{sub.__name__}.{name}"
        for sub in classes(Settings)
        if sub.__module__.startswith("morlaif.")
        for name, info in sub.model_fields.items()
        if not (info.is_required() or (name == "seed" and issubclass(sub, Seeded)))
    ]
    assert not with_default


@pytest.mark.slow
def test_conf_stays_small_enough_to_read():
    """A preset inherits and writes what differs; what others inherit from may be long, for it explains each key."""
    files = trees()
    written = {name: sum(1 for _ in leaves(tree)) for name, tree in files.items()}
    assert sum(written.values()) <= MOST_SETTINGS, sorted(written.items(), key=lambda item: -item[1])[:12]
    inherited_from = heirs(files)
    long = {name for name, file in ALL.items() if len(file.read_text().splitlines()) > 60}
    assert {name for name in long if name not in inherited_from} == {"config.yaml"}
    assert not idle(files), "these lines repeat what is inherited"
