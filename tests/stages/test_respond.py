from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from jobs import typed

from morlaif.data.records import Example, Pair, load_pairs, prompt_id, save_examples
from morlaif.errors import UserError
from morlaif.hardware import HardwareSettings
from morlaif.models.load import save_policy
from morlaif.models.respond import sample_pairs, source_pairs
from morlaif.models.scratch import build_causal_lm, train_tokenizer
from morlaif.models.settings import PairResponses, SampleResponses, ScratchSettings
from morlaif.presets import preset
from morlaif.stages.respond import STAGE
from morlaif.stages.work import respond
from morlaif.units.job import Job

CPU = preset("hardware", "cpu")
SAMPLE = SampleResponses(
    source="sample", temperature=1.0, top_p=1.0, max_prompt_tokens=None, max_new_tokens=12, stop=(), batch_size=8,
    attempts=3,
)  # fmt: skip
PAIRS = PairResponses(source="pairs")


def ask(text: str):
    return [{"role": "user", "content": text}]


def pair_of(number: int) -> Example:
    return Example.of(ask(f"question {number}"), chosen=f"good {number}", rejected=f"bad {number}")


@pytest.fixture(scope="module")
def policy():
    tokenizer = train_tokenizer(["question good bad answer"] * 3, 280)
    shape = ScratchSettings(
        vocab_size=280, hidden_size=16, layers=1, heads=2, intermediate_size=16, max_positions=96, tie_embeddings=True,
        init_std=0.1,
    )  # fmt: skip
    return build_causal_lm(shape, tokenizer, 0), tokenizer


def make_job(folder: Path, policy, settings, train, eval_, on_progress=lambda *args: None) -> Job:
    for name in ("data", "sft", "out", "keep"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    save_examples(folder / "data", {"sft": [], "train": train, "eval": eval_})
    save_policy(*policy, folder / "sft")
    return Job(
        "respond", "respond", "0" * 16,
        *typed(STAGE, {"respond": settings}, {"data": folder / "data", "sft": folder / "sft"}),
        out=folder / "out", keep=folder / "keep",
        ledger=folder / "ledger.sqlite", seed=3,
        hardware=HardwareSettings(**CPU), on_progress=on_progress,
    )  # fmt: skip


def test_source_pairs_keep_the_human_label_in_either_order():
    examples = [pair_of(number) for number in range(200)]
    got = source_pairs(examples)
    assert got.dropped == 0 and len(got.pairs) == 200
    for pair, example in zip(got.pairs, examples, strict=True):
        assert {pair.first, pair.second} == {example.chosen, example.rejected}
        assert pair.human == float(pair.first == example.chosen)
        assert pair == Pair.of(example.messages, pair.first, pair.second, pair.human)
    assert 70 < sum(pair.human for pair in got.pairs) < 130  # 100 ± 4 deviations


def test_the_order_does_not_leak_who_was_chosen():
    for number in range(20):
        example = pair_of(number)
        flipped = Example.of(example.messages, chosen=example.rejected, rejected=example.chosen)
        (one,), (other,) = source_pairs([example]).pairs, source_pairs([flipped]).pairs
        assert (one.id, one.first, one.second) == (other.id, other.first, other.second)
        assert one.human == 1 - other.human


def test_a_pair_judged_twice_has_the_mean_label_and_equal_responses_are_dropped():
    example = pair_of(0)
    flipped = Example.of(example.messages, chosen=example.rejected, rejected=example.chosen)
    same = Example.of(ask("q"), chosen="x", rejected="x")
    got = source_pairs([example, flipped, same])
    assert [pair.human for pair in got.pairs] == [0.5]
    assert got.dropped == 2


@pytest.mark.slow
def test_samples_are_two_different_texts_for_each_prompt(policy):
    examples = [Example.of(ask(f"question {number}")) for number in range(11)]
    done = []
    got = sample_pairs(*policy, examples, SAMPLE, seed=0, on_progress=done.append)
    assert [pair.prompt_id for pair in got.pairs] == [prompt_id(example.messages) for example in examples]
    assert all(pair.first != pair.second and pair.human is None for pair in got.pairs)
    assert got.dropped == 0 and 0 <= got.ended <= 1 and 0 < got.tokens <= 12
    assert done == [4, 8, 11]
    assert sample_pairs(*policy, examples, SAMPLE, seed=0) == got
    assert sample_pairs(*policy, examples, SAMPLE, seed=1).pairs != got.pairs


@pytest.mark.slow
def test_equal_samples_are_drawn_again_and_then_dropped(policy):
    examples = [Example.of(ask(f"question {number}")) for number in range(40)]
    one_token = SAMPLE.model_copy(update={"max_new_tokens": 1, "temperature": 0.08, "attempts": 1})
    few = sample_pairs(*policy, examples, one_token, seed=0)
    more = sample_pairs(*policy, examples, one_token.model_copy(update={"attempts": 6}), seed=0)
    assert 0 < more.dropped < few.dropped
    assert len(few.pairs) + few.dropped == len(more.pairs) + more.dropped == 40
    assert all(pair.first != pair.second for pair in more.pairs)
    # the first draws of both responses are the same in both runs
    firsts = {pair.id: pair.first for pair in more.pairs}
    assert all(firsts[pair.id] == pair.first for pair in few.pairs)


def test_long_prompts_leave_room_for_the_response(policy):
    examples = [Example.of(ask("question " * 200)), Example.of(ask("q"))]
    assert len(sample_pairs(*policy, examples, SAMPLE, seed=0).pairs) == 2
    with pytest.raises(UserError, match=r"respond\.max_new_tokens=96 leaves no room"):
        sample_pairs(*policy, examples, SAMPLE.model_copy(update={"max_new_tokens": 96}), seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [SAMPLE, PAIRS])
def test_the_stage_writes_both_splits(settings, policy, tmp_path):
    seen = []
    train, eval_ = [pair_of(number) for number in range(9)], [pair_of(number) for number in range(20, 25)]
    job = make_job(tmp_path, policy, settings, train, eval_, lambda *args: seen.append(args))
    numbers = respond.build(job)
    assert (numbers["train"], numbers["eval"]) == (9, 5)
    assert numbers["train_dropped"] == numbers["eval_dropped"] == 0
    assert seen[-1][:2] == (14, 14)
    for split, examples in (("train", train), ("eval", eval_)):
        pairs = load_pairs(job.out, split)
        assert [pair.messages for pair in pairs] == [example.messages for example in examples]
        assert all((pair.human is None) == (settings is SAMPLE) for pair in pairs)
    assert ("train_ended" in numbers) == (settings is SAMPLE)


@pytest.mark.slow
def test_more_training_prompts_leave_the_eval_pairs_alone(policy, tmp_path):
    eval_ = [pair_of(number) for number in range(20, 25)]
    few, many = (make_job(tmp_path / str(n), policy, SAMPLE, [pair_of(i) for i in range(n)], eval_) for n in (2, 7))
    respond.build(few)
    respond.build(many)
    assert load_pairs(few.out, "eval") == load_pairs(many.out, "eval")


def test_clear_errors(policy, tmp_path):
    lacking = [pair_of(0), Example.of(ask("and now?"), demonstration="d")]
    with pytest.raises(UserError, match=r"respond\.source=pairs: row 1 of the data .* has no 'chosen' response"):
        respond.build(make_job(tmp_path / "a", policy, PAIRS, lacking, [pair_of(1)]))
    half = dataclasses.replace(pair_of(0), rejected=None)
    with pytest.raises(UserError, match=r"row 0 .* has no 'rejected' response"):
        source_pairs([half])
    with pytest.raises(UserError, match="no prompt of split 'eval' has two different responses"):
        respond.build(make_job(tmp_path / "b", policy, PAIRS, [pair_of(1)], []))


def test_generation_does_not_touch_the_global_generator(policy):
    before = torch.get_rng_state()
    sample_pairs(*policy, [pair_of(1)], SAMPLE, seed=0)
    assert torch.equal(before, torch.get_rng_state())
