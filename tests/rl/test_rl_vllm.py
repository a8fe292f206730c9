"""PPO whose responses vLLM samples, for real. Skipped where vllm is not installed; docs/launch.md has the command."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from morlaif.errors import MachineError, UserError
from morlaif.models.generate import generate
from morlaif.rl.diagnostics import mismatch, sampler_table
from morlaif.rl.engines import make_engine
from morlaif.rl.rollout_vllm import VLLMRollout

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MOVING = {"optimizer.learning_rate": 3e-3, "optimizer.warmup_steps": 0, "epochs": 2}
GAP = 1e-4  # nats a token: rounding in float32


def llama(tied: bool = True) -> LlamaForCausalLM:
    """As small as the engine's attention allows."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=512, tie_word_embeddings=tied, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        initializer_range=0.2,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model whose head is tied to its embeddings, and one whose head is its own."""
    from small_ppo import tokenizer

    made = {}
    for tied in (True, False):
        made[tied] = tmp_path_factory.mktemp("models") / str(tied)
        llama(tied).save_pretrained(made[tied])
        tokenizer().save_pretrained(made[tied])
    return made


def trainer(small, folder, settings, tied=True, **more):
    model = llama(tied)
    model.name_or_path = str(folder)
    return small.trainer(settings, small.models(settings, model), **more)


# --- in the training process ---


@pytest.fixture
def colocated():
    pytest.importorskip("vllm")


@pytest.mark.parametrize(("kind", "tied"), [("full", True), ("lora", True), ("full", False)])
def test_the_sampler_has_the_policys_weights_at_every_step(small, colocated, folders, kind, tied):
    config = small.settings(rollout="vllm", **MOVING, **{"policy.kind": kind})
    run = trainer(small, folders[tied], config, tied)
    before = {name: value.clone() for name, value in run.models.model.named_parameters()}
    curve = run.run().curve
    assert curve[-1]["kl"] > 0.01  # it has moved, so weights of the first step would show
    assert max(row["sampler/gap_max"] for row in curve) < GAP, curve
    assert [row["first_ratio_error"] for row in curve] == [0.0] * len(curve)
    if kind == "lora":  # nothing was merged into the frozen base
        own = run.models.model.named_parameters()
        assert all(torch.equal(value, before[name]) for name, value in own if not value.requires_grad)


def test_weights_that_stay_behind_are_an_error(small, colocated, folders, monkeypatch):
    config = small.settings(rollout="vllm", **MOVING)
    run = trainer(small, folders[True], config)
    run.step(0)
    monkeypatch.setattr(run.rollout.sampler, "load", lambda weights: None)
    with pytest.raises(MachineError, match=r"vllm (samples from another model|did not take over)"):
        run.step(1)


def test_it_samples_as_the_settings_say(small, colocated, folders):
    config = small.settings(rollout="vllm", stop=["w9"], temperature=0.7, max_new_tokens=12)
    run = trainer(small, folders[True], config)
    prompts = [[3 + i % 20, 4, 5] for i in range(64)]
    rows = run.rollout.sample(prompts, torch.Generator().manual_seed(1))
    again = run.rollout.sample(prompts, torch.Generator().manual_seed(1))
    assert rows == again and len({tuple(row) for row in rows}) > 40  # each row has its seed
    assert all(12 not in row[:-1] and (row[-1] in (1, 12) or len(row) == 12) for row in rows)  # 12 is w9
    assert any(row[-1] == 12 for row in rows)
    assert [len(own) for own in run.rollout.sampled] == list(map(len, rows)), "nothing was put in or taken out"


def test_greedy_answers_are_those_of_the_trainer(small, colocated, folders):
    config = small.settings(rollout="vllm")
    run = trainer(small, folders[True], config)
    run.rollout.sampler.settings = run.rollout.settings = config.model_copy(update={"temperature": 0.0})
    prompts = [[3 + i, 4, 5] for i in range(8)]
    own = generate(run.models.model, run.tokenizer, prompts, max_new_tokens=6, temperature=0.0, batch_size=8)
    assert run.rollout.sample(prompts, torch.Generator()) == own


def test_a_pad_token_that_the_folder_does_not_know(small, colocated, folders):
    config = small.settings(rollout="vllm", steps=1)
    model = llama()
    model.name_or_path = str(folders[True])
    model.resize_token_embeddings(40, mean_resizing=False)
    (row,) = small.trainer(config, small.models(config, model)).run().curve
    assert row["sampler/gap_max"] < GAP


# --- on a server ---


@pytest.fixture(scope="module")
def server(folders, tmp_path_factory):
    """Address and process of a `vllm serve` that takes weights and adapters."""
    command = shutil.which("vllm", path=os.path.dirname(sys.executable)) or os.environ.get("MORLAIF_VLLM")
    if command is None:
        pytest.skip("no vllm; MORLAIF_VLLM may name the command")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    environment = os.environ | {
        "VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
    }  # fmt: skip
    words = [
        command, "serve", str(folders[False]), "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "300",
        "--dtype", "float32", "--enforce-eager", "--max-num-seqs", "16", "--enable-lora", "--max-lora-rank", "16",
    ]  # fmt: skip
    with log.open("w") as lines:
        process = subprocess.Popen(words, env=environment, stdout=lines, stderr=lines, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def served(small, url, handover, **more):
    own = {"vllm.mode": "server", "vllm.server_url": url, "vllm.handover": handover, "vllm.server_timeout": 400.0}
    return small.settings(rollout="vllm", **MOVING, **(own | more))


@pytest.mark.parametrize(("handover", "kind"), [("adapter", "lora"), ("folder", "full"), ("folder", "lora")])
def test_a_server_takes_the_weights_over(small, folders, server, handover, kind):
    config = served(small, server[0], handover, **{"policy.kind": kind})
    curve = trainer(small, folders[False], config, tied=False).run().curve
    assert curve[-1]["kl"] > 0.01 and max(row["sampler/gap_max"] for row in curve) < GAP, curve


def test_a_server_samples_ahead(small, folders, server):
    """From the policy before the update that is made meanwhile: by its own log-probabilities, as by the trainer's."""
    config = served(small, server[0], "adapter", overlap=True, **{"policy.kind": "lora"})
    run = trainer(small, folders[False], config, tied=False)
    before = run.engine.weights()
    run.step(0)
    ahead, gaps = run.ahead, []
    for state in (before, run.engine.weights()):
        run.engine.load_weights(state)
        plan = run.cuts.passes(1, [run.prompt_ids[row] for row in run._rows(1)], ahead.responses)
        mask = run._masks(ahead.responses)[1]
        policy = run.evaluate(plan[0], mask)[0]
        gaps.append(mismatch(policy, *sampler_table(ahead.sampled, policy))["sampler/gap_max"])
    assert gaps[0] < GAP < gaps[1]
    assert run.step(1)["sampler/gap_max"] == pytest.approx(gaps[1], rel=1e-3)


def test_what_a_server_was_not_started_for(small, folders, server):
    def made(**changes):
        config = served(small, server[0], "folder", **changes)
        model = llama(False)
        model.name_or_path = str(folders[False])
        engine = make_engine(small.models(config, model), config)
        return VLLMRollout(engine, small.tokenizer, config, torch.float32, folders[False])

    with pytest.raises(UserError, match=r"it takes 300 tokens, and .* are 306; start it with --max-model-len 306"):
        made(max_prompt_length=300)
    with pytest.raises(UserError, match="--logprobs-mode processed_logprobs"):
        made(temperature=0.7)
    with pytest.raises(UserError, match=r"adapter needs ppo.policy.kind=lora"):
        made(**{"vllm.handover": "adapter"})
    with pytest.raises(UserError, match="nccl moves weights between GPUs"):
        made(**{"vllm.handover": "nccl"})


def test_a_server_that_dies_is_one_line_and_loses_no_step(small, folders, server, tmp_path):
    """Last of all, since it ends the server."""
    config = served(small, server[0], "folder", steps=4, checkpoint_every=10)
    run = trainer(small, folders[False], config, tied=False, keep=tmp_path / "keep")

    def ends_it(row):
        if row["step"] == 2:
            os.killpg(server[1].pid, signal.SIGKILL)
            time.sleep(1)

    with pytest.raises(
        MachineError, match=r"ppo\.vllm\.server_url=http://127.0.0.1:\d+: no answer .* start the server"
    ):
        run.run(ends_it)
    assert run.checkpoints.last() == 2
