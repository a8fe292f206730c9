"""How long a plan says that its units take."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from composed import config

from morlaif.devices import processor_lacks_bfloat16
from morlaif.memory.advice import halves
from morlaif.memory.estimate import fits
from morlaif.pipeline.changes import apply
from morlaif.pipeline.resources import machine_of, memory_of, stage_memories, ways_to_fit
from morlaif.pipeline.times import amounts, unit_efforts, unit_times
from morlaif.planning.plan import plan
from morlaif.units.store import Store


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return config("experiment=smoke", f"paths.store={tmp_path_factory.mktemp('store')}")


def seconds(made):
    return unit_times(plan(made), Store(made.paths.store), made, rate=lambda one: one.operations / 1e9)


def test_each_unit_that_is_to_do_has_a_time_and_all_of_them_a_sum(made):
    times = seconds(made)
    assert times.seconds.keys() == {unit.name for unit in plan(made).units}
    assert times.total == pytest.approx(sum(times.seconds.values())) and times.total > 0
    assert times.seconds["data"] == times.seconds["report"] == 0


def test_twice_the_steps_take_twice_the_time_and_twice_the_pairs_too(made):
    before = seconds(made).seconds
    after = seconds(apply(made, [f"sft.max_steps={2 * made.sft.max_steps}"])).seconds
    assert after["sft"] == pytest.approx(2 * before["sft"])
    more = apply(made, [f"data.train={2 * made.data.train}", f"data.eval={2 * made.data.eval}"])
    name = next(name for name in before if name.startswith("pm/"))
    assert seconds(more).seconds[name] == pytest.approx(2 * before[name], rel=0.15)


@pytest.mark.slow
def test_times_are_not_guessed_where_the_data_is_not_known(made, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    other = config(
        "experiment=hh_cpu", f"data.path={tmp_path / 'a.jsonl'}", "data.limit=null", f"paths.store={tmp_path}"
    )
    data = amounts(plan(other), Store(tmp_path), other)
    assert data.examples is None
    times = seconds(other)
    assert times.total is None and None in {s for name, s in times.seconds.items() if name.startswith("pm/")}


@pytest.mark.slow
def test_lengths_are_those_of_the_first_rows_and_padded_to_the_longest_of_a_batch(tmp_path):
    rows = [{"prompt": "word " * words, "chosen": "a" * 80, "rejected": "b" * 40} for words in (10, 90, 10, 90)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = config("experiment=hh_cpu", "data=jsonl", f"data.path={tmp_path / 'a.jsonl'}", f"paths.store={tmp_path}")
    data = amounts(plan(other), Store(tmp_path), other)
    assert data.response == 15 and data.prompt == pytest.approx((12 + 112) / 2 + 4, abs=2)
    assert data.padded(2, None) == max(data.prompts) and data.padded(2, 50) == 50
    assert data.padded(1, None) == data.prompt and data.padded(2, 50, beside=8) == 50
    assert data.padded(8, None) == max(data.prompts), "fewer prompts than a batch has rows"


@pytest.mark.slow
def test_the_file_of_a_model_is_in_memory_while_its_weights_are_converted(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    made = config(
        "model=gpt2", "model.path=Qwen/Qwen2.5-0.5B", "data=jsonl", f"data.path={tmp_path / 'a.jsonl'}", "sft=none",
        "respond=sample", "pm=lora", "feedback=human", f"paths.store={tmp_path}", "arms.select=[morlaif]",
    )  # fmt: skip
    (loading,) = [items for name, items in memory_of(made, "respond").turns if name == "loading"]
    assert loading[0].bytes == pytest.approx(2 * 494e6, rel=0.01)
    for other in (["sft=lora"], ["hardware=gpu"]):
        assert "loading" not in dict(memory_of(apply(made, other), "respond").turns)


def test_a_processor_is_asked_for_bfloat16(tmp_path):
    file = tmp_path / "cpuinfo"
    for flags, lacks in (("fpu avx2", True), ("avx512f avx512_bf16", False), ("amx_bf16", False)):
        file.write_text(f"processor: 0\nflags\t\t: {flags}\nbugs:\n")
        assert processor_lacks_bfloat16(file) is lacks
    assert not processor_lacks_bfloat16(tmp_path / "none")


@pytest.mark.slow
@pytest.mark.parametrize("hardware", ["cpu", "rtx3090"])
@pytest.mark.parametrize("model", ["Qwen/Qwen3-8B", "meta-llama/Llama-3.2-3B", "HuggingFaceTB/SmolLM2-360M"])
def test_what_would_fit_fits(model, hardware, tmp_path):
    """Whatever a plan advises, followed, fits."""
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    made = config(
        "model=gpt2", f"model.path={model}", "data=jsonl", f"data.path={tmp_path / 'a.jsonl'}", "respond=sample",
        "sft=lora", "pm=lora", "ppo=paper", f"hardware={hardware}", "feedback=human", "arms.select=[morlaif]",
        f"paths.store={tmp_path}",
    )  # fmt: skip
    planned = plan(made)
    for memory in stage_memories(made, planned):
        if fits(memory, made.hardware):
            continue
        for way in ways_to_fit(made, planned, memory.stage):
            changed = apply(made, way)
            assert fits(memory_of(changed, memory.stage), changed.hardware), (memory.stage, way)


@pytest.mark.slow
def test_as_many_preference_models_learn_at_once_as_fit(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    made = config(
        "model=gpt2", "model.path=Qwen/Qwen2.5-0.5B", "data=jsonl", f"data.path={tmp_path / 'a.jsonl'}", "pm=lora",
        "respond=pairs", "sft=none", "hardware=gpu", "feedback=human", f"paths.store={tmp_path}",
    )  # fmt: skip
    large = next(m for m in stage_memories(made, plan(made)) if m.stage == "pm")
    assert fits(large, made.hardware)
    assert machine_of(made, plan(made)).kind.joint_tokens is None
    for size in halves("hardware.machine.device_memory", 64):
        smaller = memory_of(apply(made, [size]), "pm")
        assert smaller.device <= large.device


@pytest.mark.slow
def test_a_judge_reads_once_what_a_pairs_verdicts_share(made, tmp_path):
    """And of a sampled response no more than it may be long."""
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 1000, **shape}))

    def of(*more):
        judged = apply(made, ["feedback=hf", f"feedback.path={tmp_path}", "respond=sample", *more])
        return seconds(judged).seconds["feedback/single"]

    once, twice = of("principles.verdicts_per_pair=1"), of("principles.verdicts_per_pair=2")
    assert once < twice < 2 * once
    assert of("respond.max_new_tokens=16") < of("respond.max_new_tokens=32")


@pytest.mark.slow
def test_a_probe_times_what_the_plan_counts(made, monkeypatch):
    """Each forward once or twice on the model's own shape, which the policy and the base have in common."""
    torch = pytest.importorskip("torch")
    from morlaif.pipeline import probe

    small = apply(made, ["model.scratch.hidden_size=16", "model.scratch.intermediate_size=16", "hardware.threads=1"])
    planned, store = plan(small), Store(small.paths.store)
    machine = machine_of(small, planned)
    efforts = [one for _, several in unit_efforts(planned, store, small, machine) for one in several or ()]
    assert {one.op for one in efforts} == {"load", "read", "adapt", "learn", "sample"}
    models = []
    monkeypatch.setattr(probe, "_model", lambda *args, own=probe._model: models.append(own(*args)) or models[-1])
    before = torch.get_num_threads()
    rate, _ = probe.measured(efforts, small, lambda one: 1e3)
    assert len(models) == 1 and torch.get_num_threads() == before
    assert all(0 < rate(one) < 100 for one in efforts if one.op != "load")
    loads = {rate(one) for one in efforts if one.op == "load"}
    assert loads == {1e3}, "a model from nothing has no tokenizer to open"
    dropped = next(one for one in efforts if one.dropout == 0 and one.op == "adapt")
    unseen = replace(dropped, rows=2 * dropped.rows)
    assert 0 < rate(unseen) < 1e3, "what was not timed is scaled by its operations"
