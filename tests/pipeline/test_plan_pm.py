"""What a thirteenth principle, another kind or another file of weights makes new."""

from __future__ import annotations

import pytest
from composed import config

from morlaif.errors import UserError
from morlaif.planning.plan import plan


def digests(*overrides: str) -> dict[str, str]:
    return {unit.name: unit.digest for unit in plan(config(*overrides)).units}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["toy", "toy_trunk", "toy_ensemble", "toy_full"])
def test_one_principle_more_trains_only_itself(kind: str) -> None:
    few, more = (digests(f"pm={kind}", f"principles.count={n}") for n in (11, 12))
    models = {name: digest for name, digest in few.items() if name.startswith("pm/")}
    assert len(models) == 12 and all(more[name] == digest for name, digest in models.items())
    assert not any(name.startswith("backbone/") for name in more)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["toy_heads", "toy_conditioned"])
def test_what_is_shared_is_trained_anew(kind: str) -> None:
    few, more = (digests(f"pm={kind}", f"principles.count={n}") for n in (11, 12))
    assert few["backbone/principles"] != more["backbone/principles"] and few["pm/helpfulness"] != more["pm/helpfulness"]
    assert few["backbone/constitution"] == more["backbone/constitution"] and few["pm/single"] == more["pm/single"]
    assert few["feedback/helpfulness"] == more["feedback/helpfulness"]


@pytest.mark.slow
def test_how_it_is_trained_together_changes_no_digest() -> None:
    plain = digests("pm=toy_trunk")
    assert digests("pm=toy_trunk", "pm.joint=1", "pm.joint_tokens=99", "pm.cache_gb=0") == plain | {
        "report": digests("pm=toy_trunk", "pm.joint=1", "pm.joint_tokens=99", "pm.cache_gb=0")["report"]
    }
    assert digests("pm=toy_trunk", "pm.top=1.0")["pm/empathy"] != plain["pm/empathy"]


@pytest.mark.slow
def test_pretrained_models_must_be_named_and_are_pinned(tmp_path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"one")
    given = ["pm=pretrained", "principles.count=1", "arms.select=[morlaif]", f"pm.paths={{helpfulness: {tmp_path}}}"]
    first = digests(*given)
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert digests(*given)["pm/helpfulness"] != first["pm/helpfulness"]
    assert digests(*given)["feedback/helpfulness"] == first["feedback/helpfulness"]
    with pytest.raises(UserError, match=r"pm\.paths: no reward model for 'ethicality'; give 'pm\.paths=\{ethicality: "):
        digests("pm=pretrained", "principles.count=2", "arms.select=[morlaif]", f"pm.paths={{helpfulness: {tmp_path}}}")
    with pytest.raises(
        UserError, match=r"'single'; .* or leave out the arms of a constitution, as in arms\.select=\[morlaif\]"
    ):
        digests("pm=pretrained", "principles.count=1", f"pm.paths={{helpfulness: {tmp_path}}}")
