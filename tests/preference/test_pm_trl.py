"""TRL's RewardTrainer as the oracle: on hard labels our loss and its gradients are TRL's, the margin form included."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from trl import RewardConfig, RewardTrainer

from morlaif.models.load import load_tokenizer
from morlaif.preference.learners import FullLearner, Texts
from morlaif.preference.loss import pair_losses
from morlaif.preference.model import load_classifier, tokenize


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["hard", "margin", "centred"])
def test_loss_and_gradients_are_trls(variant: str, llama, pm_settings, make_pairs, tmp_path) -> None:
    pairs, verdicts = make_pairs(6, 0)
    tokenizer = load_tokenizer(llama)
    settings = pm_settings("toy_full", pooling="last", center=0.1 if variant == "centred" else 0.0)
    hard = [1.0 if verdict.p_first > 0.5 else 0.0 for verdict in verdicts]
    texts = [[tokenize(tokenizer, p.messages, text, 128) for p in pairs for text in [side(p)]] for side in SIDES]
    margins = [0.4 + 0.1 * i for i in range(6)]

    ours = load_classifier(llama, tokenizer).train()
    learner = FullLearner("x", ours, "last", torch.Generator().manual_seed(0))
    theirs = load_classifier(llama, tokenizer)
    theirs.load_state_dict(ours.state_dict())

    probability = torch.tensor(hard)
    if variant == "margin":  # a judge whose logit gap is the margin
        settings = settings.model_copy(update={"loss": "margin", "margin_scale": 1.0})
        probability = torch.sigmoid(torch.tensor(margins) * (2 * probability - 1))
    rows = texts[0] + texts[1]
    scores = learner.score(Texts(rows, tokenizer.pad_token_id, torch.device("cpu")), range(12))
    loss = pair_losses(scores, probability.unsqueeze(1), settings).mean()
    loss.backward()

    examples = [
        {"chosen_ids": (a if p else b).ids, "rejected_ids": (b if p else a).ids}
        for a, b, p in zip(*texts, hard, strict=True)
    ]
    if variant == "margin":
        examples = [example | {"margin": margin} for example, margin in zip(examples, margins, strict=True)]
    arguments = RewardConfig(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", bf16=False, gradient_checkpointing=False,
        center_rewards_coefficient=settings.center or None, max_length=None,
    )  # fmt: skip
    trainer = RewardTrainer(theirs, arguments, train_dataset=Dataset.from_list(examples), processing_class=tokenizer)
    want = trainer.compute_loss(theirs.train(), trainer.data_collator(examples))
    want.backward()
    torch.testing.assert_close(loss, want, atol=1e-6, rtol=1e-6)
    gradients = dict(theirs.named_parameters())
    for name, weight in ours.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad, gradients[name].grad, atol=1e-6, rtol=1e-4)


SIDES = (lambda pair: pair.first, lambda pair: pair.second)
