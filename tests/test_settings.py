"""Every number of the config is finite and bounded by what it means; every text can be written down."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
from composed import composed
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError

import morlaif.scalarize.functions as scalarizers
from morlaif.config import Config, validate
from morlaif.errors import UserError
from morlaif.params import annotation
from morlaif.scalarize.registry import _parameters
from morlaif.settings import Address, Folder, Label, Line, Params, PathText, Settings, Stop, Text

# The only numbers that may lie below zero.
SIGNED = {
    "AnswerSettings.weights",  # refused in words of its own
    "Column.weight", "EvalSettings.reference", "RulesSettings.position_bias", "ShapingSettings.missing_eos_value",
    "WeightsSettings.values", "gated.threshold", "lagrangian.thresholds", "lexicographic.threshold",
    "log_sigmoid_sum.reference", "power_mean.exponent", "smooth_tchebycheff.ideal", "tchebycheff.ideal",
}  # fmt: skip
NAMES_TOO = {"PretrainedPM.output"}
NOT_NUMBERS = [math.nan, math.inf, -math.inf, float("1e400"), "nan", "inf", "-Infinity", 1e12, 10**12, -1e12, True]


def models(base: type[Settings] = Settings) -> Iterator[type[Settings]]:
    for model in base.__subclasses__():
        if model.__module__.startswith("morlaif."):
            yield model
        yield from models(model)


def numeric(annotation: Any) -> bool:
    """Whether a number may stand somewhere in this type, apart from settings of their own."""
    parts = get_args(annotation)
    return annotation in (int, float) or any(numeric(part) for part in parts if not isinstance(part, int | float))


def wrapped(annotation: Any, value: Any) -> Iterator[Any]:
    """`value` as it stands in that type: by itself, or in a mapping, a list or a pair."""
    yield value
    if "dict" in str(annotation):
        yield {"x": value}
    if "list" in str(annotation) or "tuple" in str(annotation):
        yield [value]
        yield [value, 0.5]
        yield [0.5, value]


def numbers() -> dict[str, Any]:
    """The type of every numeric field, and of every numeric parameter of a scalarizer, by name."""
    found = {
        f"{model.__name__}.{name}": Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        for model in models()
        for name, field in model.model_fields.items()
        if numeric(field.annotation)
    }
    for name, function in vars(scalarizers).items():
        if hasattr(function, "properties") and callable(function):
            for key, where in _parameters(function).items():
                if numeric(annotation(*where)):
                    found[f"{name}.{key}"] = annotation(*where)
    return found


NUMBERS = numbers()
ADAPTERS = {key: TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)) for key, kind in NUMBERS.items()}


def taken(key: str, value: Any) -> bool:
    for shape in wrapped(NUMBERS[key], value):
        try:
            ADAPTERS[key].validate_python(shape)
        except ValidationError:
            continue
        return True
    return False


def test_the_walk_finds_the_numbers():
    assert len(NUMBERS) > 150 and {"OptimizerSettings.betas", "WeightsSettings.values", "cvar.alpha"} <= set(NUMBERS)


@pytest.mark.parametrize("key", sorted(NUMBERS))
def test_a_number_is_finite_and_bounded(key):
    texts = key in NAMES_TOO  # any text is a name
    assert [value for value in NOT_NUMBERS if taken(key, value) and not (texts and isinstance(value, str))] == []
    assert taken(key, -1) == (key in SIGNED)


@given(st.sampled_from(sorted(NUMBERS)), st.floats() | st.integers())
@example("OpenAISettings.seed", 2**32 - 1)
@example("OpenAISettings.seed", 2**32)
def test_whatever_is_taken_is_a_finite_number_of_a_known_size(key, value):
    assert not taken(key, value) or abs(value) <= (2**32 - 1 if key.endswith(".seed") else 1e9)


@pytest.mark.parametrize(
    ("key", "right", "wrong"),
    [
        ("OptimizerSettings.betas", [0.9, 0.999], [[1, 1], [0.9, 1.0], [-0.1, 0.9], [0.9]]),
        ("OptimizerSettings.learning_rate", 1e-3, [0, -1e-3, 1.5]),
        ("PPOSettings.temperature", 0.7, [0, 101]),
        ("PPOSettings.gamma", 1.0, [1.01]),
        ("PPOSettings.lam", 0.0, [-0.01]),
        ("EvalSettings.temperature", 0.0, [101]),
        ("EvalSettings.top_p", 1.0, [0, 1.1]),
        ("EvalSettings.confidence", 0.95, [0, 1, 95]),
        ("LoRASettings.dropout", 0.0, [1.0]),
        ("VLLMSettings.group_port", 1, [0, 65536]),
        ("Config.seed", 2**32 - 1, [2**32]),
        ("PPOSettings.rollouts", 64.0, [0, 64.5, 10**7]),
        ("BatchSettings.discount", 0.5, [0, 50]),
        ("BatchSettings.wait", 0, [-1]),
        ("OpenAISettings.timeout", 60, [0, 1e9]),
    ],
)
def test_bounds_follow_from_what_a_number_means(key, right, wrong):
    ADAPTERS[key].validate_python(right)
    for value in wrong:
        with pytest.raises(ValidationError):
            ADAPTERS[key].validate_python(value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": {"b": [1, math.nan]}}, "a.b[1]: nan is no finite number"),
        ({"a": math.inf}, "a: inf is no finite number"),
        ({"a": 10**400}, "a: a number of 1329 bits is too large"),
        ({1: "a"}, "the key 1 should be a text"),
        ({"a": {None: 1}}, "a: the key None should be a text"),
        ({"a": "\udcff"}, "a: is no valid UTF-8"),
        ({"a": b"x"}, "a: a bytes has no place here"),
    ],
)
def test_parameters_of_any_kind_are_plain(value, said):
    with pytest.raises(ValidationError, match=said.replace("[", r"\[").replace("]", r"\]")):
        TypeAdapter(Params).validate_python(value)
    TypeAdapter(Params).validate_python({"a": {"b": [1, 2.5, None, True, "x"]}})


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (Text, ["a\nb", "héllo"], ["", " \n", "a\0b", "\udcff"]),
        (Line, ["a b"], ["", " ", "a\nb", "a\x1b[31m", "a\u2028b", " a", "a ", "\udcff"]),
        (Label, ["a" * 200], ["a" * 201]),
        (Stop, ["\n", " "], ["", "\udcff"]),
        (PathText, ["a/b c", "~/x", "org/model"], ["", " ", "a\nb", "a" * 256, "/".join(["abc"] * 1001)]),
        (Folder, ["runs", "~/runs"], ["", " ", "a\0b", "~nobody-at-all-here/x", "x" * 300, 3, None, ["a"]]),
        (
            Address,
            ["http://localhost:8000/v1", "https://api.example.org"],
            ["", "localhost:8000", "ftp://a/b", "http://", "http://:80", "http://a:99999", "http://a:b/",
             "http://me:word@host/v1", "http://a/v1?key=1", "http://a b/"],
        ),
    ],
)  # fmt: skip
def test_texts_can_be_written_and_printed(kind, right, wrong):
    adapter = TypeAdapter(kind)
    for value in right:
        adapter.validate_python(value)
    for value in wrong:
        with pytest.raises(ValidationError):
            adapter.validate_python(value)


@pytest.fixture(scope="module")
def tree() -> dict[str, Any]:
    return OmegaConf.to_container(composed(), resolve=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("name", "..", "name='..': should be letters, digits"),
        ("name", ".", "name='.': should be letters, digits"),
        ("name", "-x", "name='-x': should be letters, digits"),
        ("name", "", "name='': should be letters, digits"),
        ("name", "a/b", "name='a/b': should be letters, digits"),
        ("name", "ä" * 60, "is longer than 100 bytes (120)"),
        ("paths.store", "", "paths.store='': is empty."),
        ("paths.runs", None, "paths.runs=null: should be the path of a folder."),
        ("stages", [], "stages=[]: names no stage. Give all"),
        ("stages", None, "stages=null: names no stage. Give all"),
        ("stages", ["pm", "pm"], "stages=['pm', 'pm']: names 'pm' twice."),
        ("arms.select", [], "arms.select=[]: names no arm."),
        ("arms", ["multi"], "arms=['multi']: is a group of keys now: write arms.select=[morlaif]"),
        ("arms.select", ["rlaif", "rlaif"], "names 'rlaif' twice"),
        ("arms.definitions", {"multi": {"labels": "principles"}}, "'multi': small letters, digits and underscores"),
        ("arms.definitions", {"constitution": {"labels": "human"}}, "and none of sft, policy, gold, multi, single"),
        ("seed", True, "seed=true: should be a number, not true."),
        ("ppo.temperature", math.inf, "ppo.temperature=inf: should be a finite number."),
        ("feedback.position_bias", math.nan, "feedback.position_bias=nan: should be a finite number."),
        ("ppo.optimizer.betas", [0.9, 1], "ppo.optimizer.betas[1]=1: should be less than 1."),
        ("ppo.stop", [""], "ppo.stop[0]='': should have at least 1 character."),
        ("weights.zero", ["detail", "detail"], "names 'detail' twice"),
        ("pm.lora.target_modules", [], "pm.lora.target_modules"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(key, value, line, tree):
    *parents, last = key.split(".")
    wrong = OmegaConf.to_container(OmegaConf.create(tree))
    at = wrong
    for parent in parents:
        at = at[parent]
    at[last] = value
    with pytest.raises(UserError) as told:
        validate(wrong)
    assert line in str(told.value) and len(str(told.value).splitlines()) == 1


def test_a_number_as_a_text_is_that_number(tree):
    config: Config = validate({**tree, "seed": "3"})
    assert config.seed == 3


def test_a_folder_is_read_from_yaml_and_from_a_workers_json():
    made = TypeAdapter(Folder)
    python, given = made.validate_python("/a/b"), made.validate_json('"/a/b"')
    assert python == given == made.validate_python(Path("/a/b")) == Path("/a/b")
