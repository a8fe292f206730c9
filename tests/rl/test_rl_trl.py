"""On the same rollout, the first step has the loss and the gradient that TRL's GRPO and RLOO trainers have.

The loss alone says little, since advantages within a group add up to nothing; the gradient has each of them.
"""

from __future__ import annotations

import copy

import pytest
import torch
from small_ppo import algorithm, llama, word_reward

from morlaif.rl import schedule
from morlaif.rl.policy import ActorCritic
from morlaif.rl.trainer import PPOTrainer

trl = pytest.importorskip("trl")
pytestmark = pytest.mark.slow
if not all(hasattr(trl, name) for name in ("GRPOTrainer", "RLOOTrainer")):
    pytest.skip("this TRL has no GRPOTrainer and RLOOTrainer", allow_module_level=True)

GROUP, ROLLOUTS, NEW, BETA = 4, 16, 9, 0.3
PAPER = {"use_bias_correction_kl": False}  # TRL weighs k3 by the ratio (arXiv 2512.02556), DeepSeekMath does not
THEIRS = {
    "rloo": ("RLOO", {}),
    "grpo": ("GRPO", {"loss_type": "grpo", "scale_rewards": "group"} | PAPER),
    "dr_grpo": ("GRPO", {"loss_type": "dr_grpo", "scale_rewards": "none"} | PAPER),
    "gdpo": ("GRPO", {"loss_type": "grpo", "multi_objective_aggregation": "normalize_then_sum"} | PAPER),
}


def moved(model):
    """Away from the reference, so that its KL counts."""
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=chance)
    return model


def reward_of(column):
    return lambda completions, **_: word_reward(None, completions)[:, column].tolist()


def by_trl(name, folder, tokenizer, tmp_path):
    """Loss and gradient of its first step, with the prompts and responses of it."""
    from datasets import Dataset

    which, options = THEIRS[name]
    trainer_class, config_class = getattr(trl, f"{which}Trainer"), getattr(trl, f"{which}Config")
    config = config_class(
        output_dir=str(tmp_path / "trl"), max_steps=1, per_device_train_batch_size=ROLLOUTS, num_generations=GROUP,
        max_completion_length=NEW, beta=BETA, temperature=1.0, report_to=[], use_cpu=True, bf16=False,
        save_strategy="no", learning_rate=1e-4, gradient_checkpointing=False, seed=2, disable_tqdm=True, **options,
    )  # fmt: skip
    model = moved(type(llama()).from_pretrained(folder))
    prompts = Dataset.from_list([{"prompt": f"w{i} w{2 * i} w3"} for i in range(12)])
    rewards = [reward_of(0), reward_of(1)]
    trainer = trainer_class(
        model, rewards, args=config, train_dataset=prompts, processing_class=copy.deepcopy(tokenizer)
    )
    rows, losses = [], []
    chance = torch.Generator().manual_seed(5)

    def sampled(prompt_ids, *_):
        for ids in prompt_ids:
            length = int(torch.randint(1, NEW + 1, (), generator=chance))
            response = torch.randint(3, 32, (length,), generator=chance).tolist()
            rows.append((list(ids), [*response[:-1], 1] if length < NEW else response))
        answers = [response for _, response in rows]
        return answers if which == "RLOO" else (answers, None)

    compute = trainer.compute_loss

    def seen(*given, **named):
        loss = compute(*given, **named)
        losses.append((loss.item(), flat(torch.autograd.grad(loss, list(model.parameters()), retain_graph=True))))
        return loss

    trainer._generate_single_turn = sampled
    trainer.compute_loss = seen
    trainer.train()
    return *losses[0], rows


def flat(gradients) -> torch.Tensor:
    return torch.cat([grad.detach().flatten() for grad in gradients])


def by_us(name, small, folder, rows, tmp_path, monkeypatch):
    sizes = {"steps": 1, "rollouts": ROLLOUTS, "max_new_tokens": NEW, "micro_batch_size": 5, "minibatches": 1}
    free = {"shaping.missing_eos": "none", "samples_per_prompt": GROUP, "kl.coef": BETA}
    config = small.settings(**(algorithm(name) | sizes | free))
    twin = type(llama()).from_pretrained(folder)
    made = ActorCritic(moved(type(llama()).from_pretrained(folder)), config, reference=twin)
    monkeypatch.setattr(schedule, "stream", lambda size, start, count, seed: list(range(count)))
    run: PPOTrainer = small.trainer(
        config, made, prompts=small.prompts[: ROLLOUTS // GROUP], objective=lambda s: s.sum(1)
    )
    run.prompt_ids = [prompt for prompt, _ in rows[::GROUP]]
    run.rollout.sample = lambda prompts, *_: [response for _, response in rows]
    grads, step = [], run.engine.step
    run.engine.step = lambda *given: grads.append(flat(p.grad for p in made.model.parameters())) or step(*given)
    row = run.run().curve[0]
    return row["policy_loss"] + BETA * row.get("kl_loss", 0.0), grads[0], row["kl"]


@pytest.mark.parametrize("name", THEIRS)
def test_the_loss_of_the_first_step_is_trls(name, small, tokenizer, tmp_path, monkeypatch):
    model = llama()
    model.config.attention_dropout = 0.0
    folder = tmp_path / "policy"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    theirs, their_grad, rows = by_trl(name, folder, tokenizer, tmp_path)
    ours, grad, divergence = by_us(name, small, folder, rows, tmp_path, monkeypatch)
    apart = ((grad - their_grad).norm() / their_grad.norm()).item()
    print(f"{name}: TRL {theirs:.8f}, here {ours:.8f}, KL {divergence:.3f}, gradients apart by {apart:.1e}")
    assert abs(divergence) > 0.05 and their_grad.norm() > 1e-2
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert apart < 1e-5
