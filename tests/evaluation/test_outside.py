"""What the plan says of policies, judges and files from outside, before anything is built."""

from __future__ import annotations

import json

import cli
import pytest

from morlaif.errors import UserError
from morlaif.evaluation.outside import parts_of
from morlaif.evaluation.settings import EvalSettings
from morlaif.planning.contents import SPOKEN, Contents


def identities(policies):
    """As the plan takes them."""
    return Contents(None).policies(EvalSettings.model_construct(policies=policies, trust_remote_code=()))


def test_a_folder_is_named_by_its_files_and_a_hub_id_by_its_revision(tmp_path):
    for name in ("a", "b", "artifact/model"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": "llama"}))
    a, b, artifact = (str(tmp_path / name) for name in ("a", "b", "artifact"))
    made = identities(
        {"a": a, "b": b, "artifact": artifact, "hub": "owner/model", "old": "owner/model@v1", "plain": "gpt2"}
    )
    assert made["a"] == made["b"] == made["artifact"], "where it lies does not count"
    assert made["hub"] == f"owner/model@main+{SPOKEN}" and made["old"] == f"owner/model@v1+{SPOKEN}"
    assert made["plain"] == f"gpt2@main+{SPOKEN}"
    (tmp_path / "b" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert identities({"b": b})["b"] != made["a"]


def test_a_finished_unit_that_points_elsewhere_is_named_by_what_it_points_to(tmp_path):
    unit, base, adapter = tmp_path / "unit", tmp_path / "base", tmp_path / "unit" / "adapter"
    for folder in (base, adapter):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    (unit / "model.json").write_text(json.dumps({"path": str(base)}))
    untouched = identities({"a": str(unit)})["a"]
    assert untouched == identities({"a": str(base)})["a"]
    (unit / "model.json").write_text(json.dumps({"path": str(base), "adapter": "adapter"}))
    adapted = identities({"a": str(unit)})["a"]
    (adapter / "weights").write_text("other")
    assert len({untouched, adapted, identities({"a": str(unit)})["a"]}) == 3
    (base / "config.json").write_text("[]")
    assert len({untouched, adapted, identities({"a": str(unit)})["a"]}) == 3


def test_a_revision_is_behind_an_at_sign(tmp_path):
    (tmp_path / "a@b").mkdir()
    assert parts_of("owner/model@v1") == ("owner/model", "v1") and parts_of("gpt2") == ("gpt2", None)
    assert parts_of(str(tmp_path / "a@b")) == (str(tmp_path / "a@b"), None)
    assert parts_of("./no@where") == ("./no@where", None)


@pytest.mark.slow
def test_only_policies_that_are_compared_may_run_their_own_code(tmp_path):
    given = ["eval.trust_remote_code=[bose]", "+eval.policies.base=gpt2", "dry_run=true"]
    done = cli.morlaif(given, tmp_path)
    assert done.returncode == 2 and "no policy 'bose' among `policies`. Did you mean 'base'?" in done.stderr


@pytest.mark.parametrize("where, told", [("./nowhere", "no such folder"), ("a/b/c", "no such folder")])
def test_a_path_that_is_not_there_is_named_by_its_key(where, told):
    with pytest.raises(UserError, match=rf"eval\.policies\.base='{where}': {told}"):
        identities({"base": where})


def test_a_folder_without_a_model_is_none(tmp_path):
    with pytest.raises(UserError, match="no model in this folder"):
        identities({"base": str(tmp_path)})


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, told",
    [
        (["+eval.policies.sft=gpt2/x"], "'sft' names a policy of the run itself"),
        (["+eval.policies.a_b=gpt2/x"], "eval.policies.a_b"),
        (["+eval.policies.old=./nowhere"], "eval.policies.old='./nowhere': no such folder"),
        (["eval=hf"], "eval.judge.engine.path: give the judge's folder"),
        (["eval.rewardbench=nowhere.jsonl"], "no such file"),
        (["eval.rewardbench=bad.jsonl"], "bad.jsonl, line 1: no 'rejected'"),
    ],
)
def test_the_command_line_tells_a_mistake_in_one_line_before_anything_is_built(arguments, told, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "chosen": "b"}\n')
    done = cli.morlaif([*arguments, "dry_run=true"], tmp_path)
    assert done.returncode == 2 and told in done.stderr.replace("\n", " "), done.stderr
    assert "Traceback" not in done.stderr and [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]
