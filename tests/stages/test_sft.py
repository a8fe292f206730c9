from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pytest
import torch
from artifacts import dialogue_ids
from jobs import typed
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTTrainer

from morlaif.data.chat import prompt_ids
from morlaif.data.records import Example, save_examples
from morlaif.errors import UserError
from morlaif.hardware import HardwareSettings
from morlaif.models import finetune as module
from morlaif.models.finetune import IGNORED, finetune, tokenize
from morlaif.models.generate import generate
from morlaif.models.load import load_causal_lm, load_policy, load_tokenizer, source_of
from morlaif.models.scratch import build_causal_lm, train_tokenizer
from morlaif.models.settings import FullSFT, LoRASettings, LoRASFT, ModelSettings, NoSFT, ScratchSettings
from morlaif.presets import preset
from morlaif.stages.sft import STAGE
from morlaif.stages.work import sft
from morlaif.units.job import Job

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COLOURS = ("red", "green", "blue", "grey")
SCRATCH = ScratchSettings(
    vocab_size=300, hidden_size=32, layers=2, heads=2, intermediate_size=64, max_positions=64, tie_embeddings=True,
    init_std=0.15,
)  # fmt: skip
TINY = ModelSettings(
    name="tiny", path=None, revision=None, trust_remote_code=False, attention="sdpa", scratch=SCRATCH, min_ended=0.5
)
TRAINING = {
    "learning_rate": 1e-2, "scheduler": "cosine", "warmup": 0.1, "epochs": 1, "max_steps": 120, "batch_size": 8,
    "micro_batch_size": None, "max_length": 48, "weight_decay": 0.0, "adam_beta2": 0.99, "max_grad_norm": 1.0,
    "gradient_checkpointing": False, "checkpoint_every": None, "log_every": 10,
}  # fmt: skip
FULL = FullSFT(method="full", **TRAINING)


def examples(count: int = 120) -> list[Example]:
    """A world with one rule: say the colour again."""
    rng = random.Random(0)
    return [
        Example.of(
            [{"role": "user", "content": f"{' '.join(['so'] * rng.randint(0, 4))} I like {colour}"}],
            demonstration=f"You like {colour}.",
        )
        for colour in rng.choices(COLOURS, k=count)
    ]


def make_job(folder: Path, model: ModelSettings = TINY, settings=FULL, rows=None, on_progress=None, **hardware) -> Job:
    for name in ("data", "out", "keep"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    save_examples(folder / "data", {"sft": examples() if rows is None else rows, "train": [], "eval": []})
    machine = preset("hardware", "cpu") | {"workers": 1} | hardware
    return Job(
        "sft", "sft", "0" * 16, *typed(STAGE, {"model": model, "sft": settings}, {"data": folder / "data"}),
        out=folder / "out", keep=folder / "keep", ledger=folder / "ledger.sqlite",
        seed=5, hardware=HardwareSettings(**machine),
        on_progress=on_progress or (lambda step, total, metrics: None),
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    job = make_job(tmp_path_factory.mktemp("sft"))
    return job, sft.build(job)


def test_a_model_from_nothing_learns_the_rule(trained):
    job, numbers = trained
    assert numbers["steps"] == 120 and numbers["examples"] == 120
    assert numbers["loss"] < 0.2
    model, tokenizer = load_policy(job.out)
    prompts = [prompt_ids(tokenizer, [{"role": "user", "content": f"so I like {colour}"}]) for colour in COLOURS]
    out = generate(model, tokenizer, prompts, max_new_tokens=20, temperature=0, batch_size=4, generator=None)
    assert [row[-1] for row in out] == [tokenizer.eos_token_id] * 4
    assert [tokenizer.decode(row[:-1]) for row in out] == [f" You like {colour}." for colour in COLOURS]


def test_the_artifact_loads_with_transformers_alone(trained):
    job, numbers = trained
    path = source_of(job.out).path
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    assert model.num_parameters() == numbers["parameters"]
    assert len(tokenizer) == model.config.vocab_size
    assert list(job.keep.iterdir()) == []


def test_the_same_seed_gives_the_same_weights(trained, tmp_path):
    job, numbers = trained
    again = make_job(tmp_path)
    assert sft.build(again) == numbers
    first, second = (load_causal_lm(source_of(j.out).path).state_dict() for j in (job, again))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_rows_are_the_dialogues_token_for_token(trained):
    job, _ = trained
    tokenizer = load_tokenizer(source_of(job.out).path)
    rows = examples(20)
    rows[3] = dataclasses.replace(rows[3], demonstration=None)
    table = tokenize(tokenizer, rows, max_length=24)
    with_demonstration = [row for row in rows if row.demonstration is not None]
    assert len(table) == 19
    for row, example in zip(table, with_demonstration, strict=True):
        assert row["input_ids"] == dialogue_ids(tokenizer, example.messages, example.demonstration, 24)
        assert row["length"] == len(row["input_ids"]) <= 24
        answer = [token for token in row["labels"] if token != IGNORED]
        assert answer == row["input_ids"][-len(answer) :] and answer[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(answer[:-1]) == " " + example.demonstration


@pytest.mark.parametrize("num_items", [None, 37])
def test_the_loss_is_that_of_trl(num_items, tmp_path):
    rows = examples(8)
    tokenizer = train_tokenizer([row.demonstration for row in rows], 300)
    model = build_causal_lm(SCRATCH, tokenizer, 0)
    table = tokenize(tokenizer, rows, 48)
    trainer = module._QuietSFTTrainer(
        model=model, args=module._arguments(FULL, seed=0, keep=tmp_path, device=model.device, dtype=torch.float32),
        train_dataset=table, processing_class=tokenizer,
    )  # fmt: skip
    batch = trainer.data_collator(list(table))
    ours = trainer.compute_loss(model, dict(batch), num_items_in_batch=num_items)
    theirs = SFTTrainer.compute_loss(trainer, model, dict(batch), num_items_in_batch=num_items)
    torch.testing.assert_close(ours, theirs)
    ours.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    theirs.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_accumulation_does_not_change_the_trajectory(tmp_path):
    rows = examples(64)
    tokenizer = train_tokenizer([row.demonstration for row in rows], 300)
    ends = []
    for size in (8, 2):
        settings = FULL.model_copy(update={"micro_batch_size": size, "max_steps": 6, "log_every": 6})
        model, report = finetune(
            build_causal_lm(SCRATCH, tokenizer, 0), tokenizer, rows, settings, seed=0, keep=tmp_path / str(size)
        )
        ends.append((report.loss, model.state_dict()))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-4)
    for key, weight in ends[0][1].items():
        torch.testing.assert_close(weight, ends[1][1][key], rtol=1e-2, atol=2e-4)


def test_progress_reports_losses(tmp_path):
    seen = []
    settings = FULL.model_copy(update={"max_steps": None, "epochs": 2.0, "log_every": 15})
    sft.build(make_job(tmp_path, settings=settings, on_progress=lambda *args: seen.append(args)))
    assert [(step, total) for step, total, _ in seen] == [(step, 30) for step in range(1, 31)]
    logged = {step: metrics for step, _, metrics in seen if metrics}
    assert [*logged] == [15, 30] and logged[30]["loss"] < logged[15]["loss"]
    assert logged[30].keys() == {"loss", "learning_rate"}


def test_a_training_shorter_than_its_log_has_a_loss_too(tmp_path):
    settings = FULL.model_copy(update={"max_steps": 2, "log_every": 10})
    assert 0 < sft.build(make_job(tmp_path, settings=settings))["loss"] < 20


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path):
    settings = FULL.model_copy(update={"max_steps": 12, "checkpoint_every": 5, "log_every": 1})
    whole = make_job(tmp_path / "whole", settings=settings)
    sft.build(whole)

    class Killed(Exception):
        pass

    def kill(step: int, total: int | None, metrics: dict[str, float]) -> None:
        if step == 8:
            raise Killed

    cut = make_job(tmp_path / "cut", settings=settings, on_progress=kill)
    with pytest.raises(Killed):
        sft.build(cut)
    (cut.keep / "checkpoint-9").mkdir()  # what a kill amid writing leaves behind
    steps = []
    sft.build(dataclasses.replace(cut, on_progress=lambda step, *_: steps.append(step)))
    assert steps[0] == 6
    one, other = (load_causal_lm(source_of(j.out).path).state_dict() for j in (whole, cut))
    for key in one:
        torch.testing.assert_close(one[key], other[key])


@pytest.mark.parametrize("file", ["training.pt", "trainer_state.json"])
def test_a_damaged_checkpoint_is_removed_and_the_training_begins_anew(file, tmp_path, caplog):
    settings = FULL.model_copy(update={"max_steps": 4, "checkpoint_every": 2, "log_every": 1})

    class Killed(Exception):
        pass

    def kill(step: int, total: int | None, metrics: dict[str, float]) -> None:
        if step == 3:
            raise Killed

    job = make_job(tmp_path, settings=settings, on_progress=kill)
    with pytest.raises(Killed):
        sft.build(job)
    (state,) = job.keep.glob(f"checkpoint-*/{file}")
    content = bytearray(state.read_bytes())
    content[len(content) // 2 :] = b"x" * (len(content) // 4)
    state.write_bytes(content)
    steps = []
    sft.build(dataclasses.replace(job, on_progress=lambda step, *_: steps.append(step)))
    assert steps[0] == 1 and "checkpoint-2 is damaged" in caplog.text


def pretrained(trained) -> ModelSettings:
    path = source_of(trained[0].out).path
    return TINY.model_copy(update={"path": path, "scratch": None})


def test_lora_is_merged(trained, tmp_path):
    lora = LoRASFT(
        method="lora", **TRAINING | {"max_steps": 40, "learning_rate": 2e-2},
        lora=LoRASettings(r=4, alpha=8, dropout=0.0, target_modules="all-linear"),
    )  # fmt: skip
    rows = [dataclasses.replace(row, demonstration="No.") for row in examples(64)]
    job = make_job(tmp_path, pretrained(trained), lora, rows)
    numbers = sft.build(job)
    base, tuned = (load_causal_lm(source_of(folder).path) for folder in (trained[0].out, job.out))
    assert type(tuned) is type(base) and numbers["parameters"] == base.num_parameters()
    assert not (job.out / "model" / "adapter_config.json").exists()
    before, after = base.state_dict(), tuned.state_dict()
    assert before.keys() == after.keys()
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])  # no adapter there
    assert not torch.equal(before["model.layers.0.mlp.up_proj.weight"], after["model.layers.0.mlp.up_proj.weight"])
    tokenizer = load_tokenizer(source_of(job.out).path)
    prompt = prompt_ids(tokenizer, rows[0].messages)
    (out,) = generate(tuned, tokenizer, [prompt], max_new_tokens=9, temperature=0, batch_size=1, generator=None)
    assert tokenizer.decode(out[:-1]) == " No."


def test_bfloat16_trains_in_mixed_precision_with_checkpointing(trained, tmp_path):
    settings = FULL.model_copy(update={"max_steps": 3, "gradient_checkpointing": True, "log_every": 1})
    job = make_job(tmp_path, pretrained(trained), settings, dtype="bfloat16")
    sft.build(job)
    config = json.loads((job.out / "model" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"


def test_none_leaves_the_base_untouched(trained, tmp_path):
    job = make_job(tmp_path, pretrained(trained), NoSFT(method="none"))
    assert sft.build(job) == {"base": str(trained[0].out / "model")}
    assert [file.name for file in job.out.iterdir()] == ["model.json"]
    source = source_of(job.out)
    assert (source.path, source.revision) == (str(trained[0].out / "model"), None)


def test_clear_errors(trained, tmp_path):
    with pytest.raises(UserError, match="sft=none needs a pretrained model"):
        sft.build(make_job(tmp_path / "a", settings=NoSFT(method="none")))
    lora = LoRASFT(method="lora", **TRAINING, lora=LoRASettings(r=4, alpha=8, dropout=0.0, target_modules="all-linear"))
    with pytest.raises(UserError, match=r"sft\.method=lora needs a pretrained model"):
        sft.build(make_job(tmp_path / "b", settings=lora))
    with pytest.raises(UserError, match=r"sft\.max_length=65 exceeds the model's 64 positions"):
        sft.build(make_job(tmp_path / "c", settings=FULL.model_copy(update={"max_length": 65})))
    mute = [dataclasses.replace(row, demonstration=None) for row in examples(4)]
    with pytest.raises(UserError, match="no row of the data's split 'sft' has a demonstration"):
        sft.build(make_job(tmp_path / "d", rows=mute))
    missing = TINY.model_copy(update={"path": str(tmp_path / "gone"), "scratch": None})
    with pytest.raises(UserError, match=r"model\.path='.*gone': no such folder"):
        sft.build(make_job(tmp_path / "e", missing))
    with pytest.raises(UserError, match=r"the loss became nan; lower sft\.learning_rate"):
        sft.build(
            make_job(
                tmp_path / "f",
                settings=FULL.model_copy(update={"learning_rate": 1e30, "max_grad_norm": 1e30, "max_steps": 9}),
            )
        )
