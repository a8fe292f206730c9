"""Where responses come from: what a row draws, and the adapter to TRL's vLLM class.

vllm itself is not needed: `LLM`, the boundary behind TRL's class, is played by the model itself.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
from types import SimpleNamespace

import pytest
import torch
from trl.generation import vllm_generation

from morlaif import ranks
from morlaif.errors import UserError
from morlaif.models.generate import generate
from morlaif.rl.engines import make_engine
from morlaif.rl.rollout import TransformersRollout
from morlaif.rl.rollout_vllm import VLLMRollout

PROMPTS = [[3, 4, 5], [3, 4, 5], [6, 7], [6, 7], [8, 9, 10, 11, 12], [8, 9, 10, 11, 12]]


# --- transformers ---


def test_what_a_row_draws_does_not_depend_on_its_neighbours(small):
    config = small.settings()
    engine = make_engine(small.models(config), config)
    alone = small.settings(generation_batch_size=1)
    found = [
        TransformersRollout(engine, small.tokenizer, s, lambda: torch.autocast("cpu", enabled=False)).sample(
            PROMPTS, torch.Generator().manual_seed(4), 2
        )
        for s in (config, alone)
    ]
    assert found[0] == found[1] and len({tuple(row) for row in found[0]}) > 3


def test_noise_takes_the_place_of_the_generator(small):
    model = small.llama().eval()
    usual = {"max_new_tokens": 5, "temperature": 1.0, "batch_size": 2}
    noise = torch.rand(6, 5, dtype=torch.float64)
    whole = generate(model, small.tokenizer, PROMPTS, noise=noise, **usual)
    part = generate(model, small.tokenizer, PROMPTS[2:5], noise=noise[2:5], **usual)
    assert part == whole[2:5]


# --- vllm ---


class FakeLLM:
    """vllm.LLM as TRL's class uses it: made from a path, fed weights by name, asked for continuations of ids."""

    def __init__(self, **arguments):
        self.arguments, self.weights, self.asked = arguments, {}, []
        load = lambda pairs: self.weights.update((name, value.clone()) for name, value in pairs)  # noqa: E731
        runner = SimpleNamespace(model=SimpleNamespace(load_weights=load))
        worker = SimpleNamespace(model_runner=runner)
        self.llm_engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=worker))
        self.answers = iter(())
        self.resets = 0

    def reset_prefix_cache(self):
        self.resets += 1

    def generate(self, prompts, sampling_params, use_tqdm):
        self.asked.append((prompts, sampling_params))
        return [
            SimpleNamespace(
                prompt_token_ids=prompt["prompt_token_ids"],
                outputs=[SimpleNamespace(token_ids=next(self.answers), logprobs=None)],
            )
            for prompt in prompts
        ]


@pytest.fixture
def vllm(small, monkeypatch, tmp_path):
    """`make(settings)` -> the rollout and the engine, for a model on the disk."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: object() if name == "vllm" else find(name, *more)
    )
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):  # TRL's class sets them
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(vllm_generation, "is_vllm_available", lambda: True)
    monkeypatch.setattr(vllm_generation, "LLM", FakeLLM, raising=False)
    monkeypatch.setattr(vllm_generation, "SamplingParams", lambda **how: how, raising=False)
    small.llama().save_pretrained(tmp_path / "model")

    def make(**changes):
        config = small.settings(rollout="vllm", **changes)
        model = small.llama()
        model.name_or_path = str(tmp_path / "model")
        engine = make_engine(small.models(config, model), config)
        return VLLMRollout(engine, small.tokenizer, config), engine

    return make


def test_every_argument_is_one_that_trl_knows(small, monkeypatch, vllm):
    seen = {}
    known = inspect.signature(vllm_generation.VLLMGeneration.__init__)
    original = vllm_generation.VLLMGeneration.__init__

    def spy(self, *args, **named):
        known.bind(self, *args, **named)  # a TypeError for a name that is gone
        seen.update(named)
        original(self, *args, **named)

    monkeypatch.setattr(vllm_generation.VLLMGeneration, "__init__", spy)
    vllm(temperature=0.7, stop=["w9"], max_prompt_length=20, **{"vllm.gpu_memory_utilization": 0.4})
    assert (seen["temperature"], seen["top_p"], seen["top_k"], seen["max_completion_length"]) == (0.7, 1.0, 0, 6)
    assert seen["generation_kwargs"] == {"stop": ["w9"]} and seen["max_model_length"] == 26
    signature = inspect.signature(vllm_generation.VLLMGeneration.generate)
    assert list(signature.parameters)[:4] == ["self", "prompts", "images", "num_generations"]


def test_the_engine_samples_as_the_settings_say(vllm):
    rollout, _ = vllm(temperature=0.7)
    llm = rollout.source.llm
    assert llm.arguments["gpu_memory_utilization"] == 0.3 and llm.arguments["max_model_len"] == 256 + 6
    llm.answers = iter([[5, 1], [6, 7, 8], [1], [9, 1], [10, 1], [11, 1]])
    found = rollout.sample(PROMPTS, torch.Generator(), 2)
    assert found == [[5, 1], [6, 7, 8], [1], [9, 1], [10, 1], [11, 1]]
    ((prompts, how),) = llm.asked
    assert [row["prompt_token_ids"] for row in prompts] == PROMPTS
    assert (how["temperature"], how["top_p"], how["top_k"], how["min_p"], how["max_tokens"], how["n"]) == (
        0.7, 1.0, 0, 0.0, 6, 1,
    )  # fmt: skip
    assert how["logprobs"] is None and "stop" not in how


def test_a_stop_string_is_cut_off_and_counts_as_an_end(vllm):
    """vLLM's ids go on to the end of the stop string; ours end before it, with EOS."""
    rollout, _ = vllm(stop=["w9"])
    rollout.source.llm.answers = iter([[5, 6, 12], [5, 6, 7], [12], [5, 1], [5, 12], [13, 14, 15]])  # 12 is w9
    found = rollout.sample(PROMPTS, torch.Generator(), 2)
    assert found == [[5, 6, 1], [5, 6, 7], [1], [5, 1], [5, 1], [13, 14, 15]]
    assert rollout.source.llm.asked[0][1]["stop"] == ["w9"]


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_engine_has_the_policys_weights_before_it_samples(vllm, kind):
    rollout, engine = vllm(**{"policy.kind": kind})
    with torch.no_grad():
        for weight in engine.models.groups()["policy"]:
            weight += 0.1
    before = {name: value.clone() for name, value in engine.models.named_parameters()}
    llm = rollout.source.llm
    llm.answers = iter([[5, 1]] * 6)
    rollout.sample(PROMPTS, torch.Generator(), 2)
    assert all(torch.equal(value, before[name]) for name, value in engine.models.named_parameters())  # to the bit
    expected = copy.deepcopy(engine.models.policy)
    expected = expected.merge_and_unload() if kind == "lora" else expected
    expected = expected.state_dict()
    assert llm.resets == 1 and {"model.embed_tokens.weight", "model.norm.weight"} <= llm.weights.keys()
    for name, value in llm.weights.items():
        assert torch.allclose(value, expected[name], atol=1e-5), name
    missing = expected.keys() - llm.weights.keys()
    assert missing <= {"lm_head.weight"}  # tied to the embeddings


def test_training_with_it(small, vllm, tmp_path):
    """The whole loop: log-probabilities come from the training forward, so the first ratio is 1 all the same."""
    config = small.settings(steps=2, rollout="vllm", eval_prompts=2, samples=2, **{"policy.kind": "lora"})
    model = small.llama()
    model.name_or_path = str(tmp_path / "model")
    run = small.trainer(config, small.models(config, model), held_out=small.prompts[:2])
    llm = run.rollout.source.llm
    chance = torch.Generator().manual_seed(1)

    def words():
        count = int(torch.randint(1, 5, (), generator=chance))
        return [*torch.randint(3, 30, (count,), generator=chance).tolist(), 1]

    llm.answers = iter(words, None)
    result = run.run()
    assert [row["first_ratio_error"] for row in result.curve] == [0.0, 0.0] and len(result.samples) == 2
    assert llm.resets == 4  # before the first step, two steps, the evaluation at the end


def test_what_cannot_work_is_said(small, vllm, monkeypatch, tmp_path):
    monkeypatch.setattr(ranks, "count", lambda: 5)
    with pytest.raises(UserError, match=r"ppo\.rollouts: 12 prompts do not come out even on 5 processes"):
        vllm()
    monkeypatch.setattr(ranks, "count", lambda: 4)
    with pytest.raises(UserError, match="tensor_parallel_size: 3 does not divide 4"):
        vllm(**{"vllm.tensor_parallel_size": 3})
    monkeypatch.setattr(ranks, "count", lambda: 1)
    larger = small.llama()
    larger.name_or_path = str(tmp_path / "model")
    larger.resize_token_embeddings(40, mean_resizing=False)
    config = small.settings(rollout="vllm")
    with pytest.raises(UserError, match="vocabulary of 32, and the policy has 40"):
        VLLMRollout(make_engine(small.models(config, larger), config), small.tokenizer, config)


def test_without_vllm_one_line_says_what_to_install(small):
    if importlib.util.find_spec("vllm"):
        pytest.skip("vllm is installed")
    with pytest.raises(UserError, match=r"vllm is not installed; pip install 'trl\[vllm\]'"):
        small.trainer(small.settings(rollout="vllm"))
