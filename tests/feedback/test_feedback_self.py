"""The run's own SFT model as the judge."""

from __future__ import annotations

import pytest
from composed import config

from morlaif.errors import UserError
from morlaif.feedback.judge import open_judge
from morlaif.feedback.local import LetterModel, called, path_of, unit_of
from morlaif.feedback.settings import HfSettings
from morlaif.models.load import save_policy
from morlaif.models.scratch import build_causal_lm, train_tokenizer
from morlaif.models.settings import ScratchSettings
from morlaif.pipeline.preflight import Preflight
from morlaif.planning.plan import plan
from morlaif.presets import preset


@pytest.mark.slow
def test_a_unit_of_labels_needs_the_model_that_gives_them():
    own, usual = (plan(config("experiment=smoke", *more)).by_name for more in (["feedback=self"], []))
    assert {unit.name for unit in own["feedback/helpfulness"].needs} == {"respond", "sft"}
    assert {unit.name for unit in usual["feedback/helpfulness"].needs} == {"respond"}
    assert own["feedback/helpfulness"].digest != usual["feedback/helpfulness"].digest


@pytest.mark.slow
def test_who_compares_policies_must_be_given():
    said = Preflight().problems(config("experiment=smoke", "feedback=self", "eval=hf"))
    assert any(line.startswith(("eval.judge.engine.path: give", "judge.path: give")) for line in said)
    assert not Preflight().problems(config("experiment=smoke", "feedback=self"))


@pytest.fixture(scope="module")
def unit(tmp_path_factory):
    """A finished unit that leaves a policy."""
    folder = tmp_path_factory.mktemp("store") / "sft" / "0123abcd"
    folder.mkdir(parents=True)
    sizes = {"layers": 1, "heads": 2, "intermediate_size": 16, "max_positions": 512, "tie_embeddings": True}
    scratch = ScratchSettings(vocab_size=300, hidden_size=16, init_std=0.2, **sizes)
    tokenizer = train_tokenizer(["A B A B option A or option B, which is better?"] * 3, 300)
    save_policy(build_causal_lm(scratch, tokenizer, seed=0), tokenizer, folder)
    return folder


def test_a_finished_units_folder_judges_under_its_stage_and_digest(unit, tmp_path):
    settings = HfSettings(**preset("feedback", "self") | {"path": str(unit), "device": "cpu"})
    assert called(settings) == "sft/0123abcd" and unit_of(str(unit)) == unit
    assert open_judge(settings, ledger=tmp_path / "l", seed=0).name == "hf:sft/0123abcd"
    assert LetterModel.load(settings).model.config.hidden_size == 16
    plain = settings.model_copy(update={"path": str(unit / "model")})
    assert called(plain) == str(unit / "model") and unit_of(plain.path) is None
    kept = [open_judge(made, ledger=tmp_path / "l", seed=0)._identity for made in (settings, plain)]
    assert kept[0] == kept[1]  # the same weights: the same answers are known


def test_nobody_judges_where_no_run_has_put_its_model():
    with pytest.raises(UserError, match="give the judge's folder"):
        path_of(HfSettings(**preset("feedback", "self")))
