"""What a kind of preference model answers about itself, without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from morlaif.preference.kinds import KINDS, kind_of

PRESETS = {
    "lora": "lora", "trunk": "trunk", "heads": "heads", "conditioned": "conditioned", "ensemble": "ensemble",
    "full": "full", "salmon": "salmon",
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_what_each_kind_is(name: str, pm_settings) -> None:
    settings = pm_settings(PRESETS[name])
    kind = kind_of(settings)
    assert kind.settings is settings and settings.kind == name
    assert kind.trains and kind.network and kind.on_policy and kind.base is None and not kind.existing
    assert kind.shared == (name in ("heads", "conditioned", "salmon"))
    assert kind.on_ranks == (not kind.shared)
    assert kind.joint == (settings.joint if name in ("lora", "trunk", "ensemble") else 1)
    assert kind.batch == (settings.batch_size, settings.micro_batch_size)
    footprint = kind.footprint
    assert (footprint.lora is None) == (name == "full") and footprint.one_adapter == kind.shared
    assert footprint.top == (settings.top if name == "trunk" else 1.0)
    assert footprint.members == (4 if name == "ensemble" else 1)


def test_a_base_of_their_own(pm_settings) -> None:
    kind = kind_of(pm_settings("lora", base="org/model", revision="v1"))
    assert not kind.on_policy and (kind.base.path, kind.base.revision, kind.base.key) == ("org/model", "v1", "pm.base")


def test_models_that_exist_already(pm_settings) -> None:
    kind = kind_of(pm_settings("pretrained", paths={"kind": "org/model"}, revisions={"kind": "v1"}))
    assert not (kind.trains or kind.shared or kind.on_ranks or kind.network or kind.on_policy) and kind.batch is None
    assert (kind.existing["kind"].path, kind.existing["kind"].revision) == ("org/model", "v1")
    assert kind.footprint.lora is None and kind.joint == 1


@pytest.mark.slow
def test_asking_imports_no_torch() -> None:
    code = f"""
import sys
from morlaif.preference.kinds import KINDS
assert [KINDS.find(name) for name in {KINDS.names()!r}]
assert not {{"torch", "transformers"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
