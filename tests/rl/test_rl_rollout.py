"""Where responses come from: what a row draws, and how vLLM is asked.

vllm itself is not needed: `LLM`, the boundary, is played. test_rl_vllm.py runs it for real.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch

from morlaif import ranks
from morlaif.errors import MachineError, UserError
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
    """vllm.LLM as it is used here: made from a path, fed weights by name, asked for continuations of ids."""

    def __init__(self, **arguments):
        self.arguments, self.weights, self.asked, self.resets = arguments, {}, [], 0
        self.answers = iter(())

    def collective_rpc(self, method, kwargs):
        assert method == "reload_weights"
        self.weights = {name: value.clone() for name, value in kwargs["weights_iterator"]}

    def apply_model(self, function):
        function(torch.nn.Module())

    def reset_prefix_cache(self):
        self.resets += 1

    def generate(self, prompts, sampling_params, use_tqdm):
        self.asked.append((prompts, sampling_params))
        rows = [next(self.answers) for _ in prompts]
        told = [[{token: SimpleNamespace(logprob=-float(token))} for token in ids] for ids in rows]
        outputs = [SimpleNamespace(token_ids=ids, logprobs=own) for ids, own in zip(rows, told, strict=True)]
        return [SimpleNamespace(outputs=[output]) for output in outputs]


@pytest.fixture
def vllm(small, monkeypatch, tmp_path):
    """`make(settings)` -> the rollout and the engine, for a model on the disk."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: object() if name == "vllm" else find(name, *more)
    )
    for name in ("ENABLE_V1_MULTIPROCESSING", "LOGGING_LEVEL", "NO_USAGE_STATS", "CPU_OMP_THREADS_BIND"):
        monkeypatch.setenv(f"VLLM_{name}", "0")  # what is set stays
    fake = SimpleNamespace(LLM=FakeLLM, SamplingParams=lambda **how: how)
    monkeypatch.setitem(sys.modules, "vllm", fake)
    small.llama().save_pretrained(tmp_path / "model")

    def make(**changes):
        config = small.settings(rollout="vllm", **changes)
        model = small.llama()
        model.name_or_path = str(tmp_path / "model")
        engine = make_engine(small.models(config, model), config)
        return VLLMRollout(engine, small.tokenizer, config, torch.float32, tmp_path), engine

    return make


def test_the_engine_samples_as_the_settings_say(vllm):
    rollout, _ = vllm(temperature=0.7, stop=["w9"])
    llm = rollout.sampler.llm
    known = {"max_model_len": 256 + 6, "dtype": "float32", "enforce_eager": True, "load_format": "dummy"}
    assert known.items() <= llm.arguments.items() and llm.arguments["logprobs_mode"] == "processed_logprobs"
    llm.answers = iter([[5, 1], [6, 7, 8], [1], [9, 1], [10, 1], [11, 1]])
    found = rollout.sample(PROMPTS, torch.Generator(), 2)
    assert found == [[5, 1], [6, 7, 8], [1], [9, 1], [10, 1], [11, 1]]
    ((prompts, how),) = llm.asked
    assert [row["prompt_token_ids"] for row in prompts] == PROMPTS and len({one["seed"] for one in how}) == len(PROMPTS)
    for one in how:
        same = {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "max_tokens": 6, "stop": ["w9"], "stop_token_ids": [1]}
        assert same.items() <= one.items()


def test_a_row_ends_with_the_token_that_completes_a_stop_string(vllm):
    """What was sampled and no more, as in this process."""
    rollout, _ = vllm(stop=["w9"])
    rollout.sampler.llm.answers = iter([[5, 6, 12], [5, 6, 7], [12], [5, 1], [5, 12], [13, 14, 15]])  # 12 is w9
    found = rollout.sample(PROMPTS, torch.Generator(), 2)
    assert found == [[5, 6, 12], [5, 6, 7], [12], [5, 1], [5, 12], [13, 14, 15]]
    assert rollout.sampled == [[-5, -6, -12], [-5, -6, -7], [-12], [-5, -1], [-5, -12], [-13, -14, -15]]


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_engine_has_the_policys_weights_before_it_samples(vllm, kind):
    rollout, engine = vllm(**{"policy.kind": kind})
    with torch.no_grad():
        for weight in engine.models.groups()["policy"]:
            weight += 0.1
    before = {name: value.clone() for name, value in engine.models.named_parameters()}
    llm = rollout.sampler.llm
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


def test_the_samplers_log_probabilities_are_held_against_the_trainers(vllm):
    """Rounding passes; another model's, or those of the policy that the run began with, do not."""
    rollout, _ = vllm()
    rollout.sampled = [[-1.0, -2.0], [-3.0]]
    policy = torch.tensor([[-1.0, -2.0001], [-3.0, -99.0]])  # the last place is padding
    found = rollout.compare(policy, policy)
    assert (found["sampler/gap"], found["sampler/gap_max"]) == pytest.approx((1e-4 / 3, 1e-4), rel=1e-2)
    assert found["sampler/ratio_min"] == pytest.approx(1 - 1e-4, rel=1e-5) and found["sampler/ratio_max"] == 1
    with pytest.raises(MachineError, match=r"another model .* by 0\.5 nats a token .* 1\.5 at most"):
        rollout.compare(torch.tensor([[-1.0, -2.0], [-4.5, 0.0]]), policy)
    began = torch.tensor([[-1.0, -2.0], [-3.0, 0.0]])
    with pytest.raises(MachineError, match="did not take over the policy's weights"):
        rollout.compare(began + 0.002, began)
    assert rollout.compare(began + 1e-6, began)["sampler/gap"] < 1e-5
    rollout.sampled = [[], []]
    assert rollout.compare(policy, policy) == {}


@pytest.mark.slow
def test_training_with_it(small, vllm, tmp_path):
    """The whole loop: log-probabilities come from the training forward, so the first ratio is 1 all the same."""
    config = small.settings(steps=2, rollout="vllm", eval_prompts=2, samples=2, **{"policy.kind": "lora"})
    model = small.llama()
    model.name_or_path = str(tmp_path / "model")
    run = small.trainer(config, small.models(config, model), held_out=small.prompts[:2])
    llm = run.rollout.sampler.llm
    run.rollout.compare = lambda policy, reference: {}  # this engine's numbers are no log-probabilities
    chance = torch.Generator().manual_seed(1)

    def words():
        count = int(torch.randint(1, 5, (), generator=chance))
        return [*torch.randint(3, 30, (count,), generator=chance).tolist(), 1]

    llm.answers = iter(words, None)
    result = run.run()
    assert [row["first_ratio_error"] for row in result.curve] == [0.0, 0.0] and len(result.samples) == 2
    assert llm.resets == 4  # before the first step, two steps, the evaluation at the end


def test_what_cannot_work_is_reported(small, vllm, monkeypatch, tmp_path):
    monkeypatch.setattr(ranks, "count", lambda: 4)
    with pytest.raises(UserError, match="tensor_parallel_size: 3 does not divide 4"):
        vllm(**{"vllm.tensor_parallel_size": 3})


def test_a_vocabulary_that_grew_by_a_pad_token_is_the_engines_too(small, vllm, tmp_path):
    vllm()
    larger = small.llama()
    larger.name_or_path = str(tmp_path / "model")
    larger.resize_token_embeddings(40, mean_resizing=False)
    config = small.settings(rollout="vllm")
    engine = make_engine(small.models(config, larger), config)
    made = VLLMRollout(engine, small.tokenizer, config, torch.float32, tmp_path)
    assert made.sampler.llm.arguments["hf_overrides"] == {"vocab_size": 40}


def test_without_vllm_one_line_says_what_to_install(small):
    if importlib.util.find_spec("vllm"):
        pytest.skip("vllm is installed")
    with pytest.raises(UserError, match=r"vllm is not installed; pip install vllm"):
        small.trainer(small.settings(rollout="vllm"))
