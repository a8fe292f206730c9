"""TRL's DPOTrainer as the oracle: on the same pairs, policy and reference, loss and gradient are its own."""

from __future__ import annotations

import pytest
import small_ppo
import torch
from datasets import Dataset

trl = pytest.importorskip("trl")
pytestmark = pytest.mark.slow


def moved(model, seed=1):
    """Away from the reference."""
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=chance)
    return model


def twin(model):
    """A copy without dropout, which TRL leaves on in attention."""
    other = small_ppo.llama()
    other.load_state_dict(model.state_dict())
    for layer in other.model.layers:
        layer.self_attn.attention_dropout = 0.0
    return other


def of_trl(pairs, policy, reference, tokenizer, folder, swapped=False, **options):
    """Loss and gradient of TRL's trainer on all pairs as one batch."""
    sides = [(pairs.rejected, pairs.chosen), (pairs.chosen, pairs.rejected)][not swapped]
    examples = [
        {"prompt_ids": a.ids[: a.start], "chosen_ids": a.ids[a.start :], "rejected_ids": b.ids[b.start :]}
        for a, b in zip(*sides, strict=True)
    ]
    config = trl.DPOConfig(
        output_dir=str(folder), use_cpu=True, report_to="none", bf16=False, gradient_checkpointing=False, beta=0.1,
        max_length=None, per_device_train_batch_size=len(examples), **options,
    )  # fmt: skip
    text = Dataset.from_list([{"prompt": "w1", "chosen": " w2", "rejected": " w3"}])
    trainer = trl.DPOTrainer(policy, ref_model=reference, args=config, train_dataset=text, processing_class=tokenizer)
    loss = trainer.compute_loss(trainer.model.eval(), trainer.data_collator(examples))
    named = [(name, weight) for name, weight in policy.named_parameters()]
    return loss.item(), torch.cat([g.flatten() for g in torch.autograd.grad(loss, [weight for _, weight in named])])


def of_ours(small, pairs, policy, reference, config):
    """The same of our first step, whatever its micro-batches."""
    trainer = small.trainer(config, pairs, model=reference, keep="ours")
    trainer.models.model.load_state_dict(policy.state_dict())
    gradients, step = [], trainer.engine.step

    def seen():
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.models.model.parameters()]))
        return step()

    trainer.engine.step = seen
    row = trainer.run().curve[0]
    return row["loss"], gradients[0]


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_loss_and_gradient_are_trls(loss, small, tmp_path):
    config = small.settings(loss=loss, batch_size=24, max_steps=1, targets="hard")
    pairs = small.pairs(config)
    reference = small.llama()
    policy = moved(small.llama())
    theirs, their_gradient = of_trl(
        pairs, twin(policy), twin(reference), small.tokenizer, tmp_path / "trl", loss_type=[loss]
    )
    ours, gradient = of_ours(small, pairs, policy, reference, config)
    assert abs(ours - 0.6931) > 0.01 and their_gradient.norm() > 1e-2  # it has moved
    assert ours == pytest.approx(theirs, abs=1e-6, rel=1e-6)
    assert ((gradient - their_gradient).norm() / their_gradient.norm()).item() < 1e-5


def test_soft_targets_are_trls_losses_of_both_orders_weighed(small, tmp_path):
    """TRL has no soft labels: t of its loss, and 1 - t of that with the sides exchanged."""
    config = small.settings(batch_size=24, max_steps=1)
    pairs = small.pairs(config, target=0.7)
    reference, policy = small.llama(), moved(small.llama())
    forth, back = (
        of_trl(pairs, twin(policy), twin(reference), small.tokenizer, tmp_path / str(swapped), swapped)
        for swapped in (False, True)
    )
    ours, gradient = of_ours(small, pairs, policy, reference, config)
    assert ours == pytest.approx(0.7 * forth[0] + 0.3 * back[0], abs=1e-6)
    want = 0.7 * forth[1] + 0.3 * back[1]
    assert ((gradient - want).norm() / want.norm()).item() < 1e-5
