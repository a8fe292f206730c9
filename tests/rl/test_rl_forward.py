"""Log-probabilities and values: against transformers' own logits, and unmoved by padding, dropout and batching."""

from __future__ import annotations

import pytest
import torch

from morlaif.models.generate import generate
from morlaif.rl import blocks, logprobs
from morlaif.rl.experience import collate, partition, response_mask
from morlaif.rl.logprobs import token_logprobs
from morlaif.rl.policy import ActorCritic

PROMPTS = [[3, 4, 5], [6, 7], [8, 9, 10, 11, 12]]
RESPONSES = [[20, 21, 1], [22, 23, 24, 25, 1], [26]]
CPU = torch.device("cpu")


def slow_logprobs(model, prompt, response, temperature):
    """One row alone, all logits, nothing padded."""
    logits = model(torch.tensor([prompt + response])).logits[0, :-1] / temperature
    table = logits.log_softmax(-1)
    return [table[len(prompt) - 1 + i, token].item() for i, token in enumerate(response)]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_the_unpadded_row(small, family, temperature):
    model = getattr(small, family)().eval()
    models = small.models(small.settings(temperature=temperature), model)
    batch = collate(PROMPTS, RESPONSES, 0, CPU)
    with torch.no_grad():
        found = models(batch)[0]
        expected = [x for p, r in zip(PROMPTS, RESPONSES, strict=True) for x in slow_logprobs(model, p, r, temperature)]
    assert torch.allclose(found, torch.tensor(expected), atol=2e-6)
    assert torch.allclose(models.reference_logprobs(batch), found, atol=1e-7)  # temperature for the reference too


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_left_padding_with_explicit_positions_agrees(small, family):
    """What generation sees (padding on the left, mask, positions) and what training sees (right) is one model."""
    model = getattr(small, family)().eval()
    width = 10
    rows = [p + r for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = (ids != 0).long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        table = model(ids, attention_mask=mask, position_ids=positions).logits.log_softmax(-1)
        found = small.models(small.settings(), model)(collate(PROMPTS, RESPONSES, 0, CPU))[0]
    expected = [table[i, width - len(r) - 1 + t, x] for i, r in enumerate(RESPONSES) for t, x in enumerate(r)]
    assert torch.allclose(found, torch.stack(expected), atol=2e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_extra_padding_and_pad_id_change_nothing(small, family, monkeypatch):
    models = small.models(small.settings(), getattr(small, family)())
    batch = collate(PROMPTS, RESPONSES, 0, CPU)
    monkeypatch.setattr("morlaif.rl.experience.BUCKET", {"cpu": 32})
    wide = collate(PROMPTS, RESPONSES, 7, CPU)
    assert wide.ids.shape[1] == 32 > batch.ids.shape[1]
    with torch.no_grad():
        for a, b in zip(models(batch), models(wide), strict=True):
            assert torch.allclose(a, b, atol=2e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_dropout_is_off_even_in_training_mode(small, family):
    """Gradient checkpointing needs training mode; two forwards must agree in it."""
    models = small.models(small.settings(**{"policy.gradient_checkpointing": True}), getattr(small, family)())
    batch = collate(PROMPTS, RESPONSES, 0, CPU)
    with torch.no_grad():
        expected = models(batch)[0]
    with models.updating():
        assert models.model.training
        assert torch.allclose(models(batch)[0], expected, atol=1e-6)
    assert not models.model.training


def test_gradient_checkpointing_leaves_the_gradient(small):
    batch = collate(PROMPTS, RESPONSES, 0, CPU)
    gradients = []
    for checkpointing in (False, True):
        models = small.models(small.settings(**{"policy.gradient_checkpointing": checkpointing}))
        with models.updating():
            logprob, _, values = models(batch)
            (logprob.sum() + values.square().sum()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in models.groups()["policy"]]))
    assert torch.allclose(*gradients, atol=1e-5)


@pytest.mark.parametrize("kept", [2**24, 0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_fused_logprobs_against_autograd(monkeypatch, kept, bias, softcap, temperature):
    """Kept in one piece, or the vocabulary read in blocks of 5 for 3 tokens at a time."""
    monkeypatch.setattr(logprobs, "CHUNK", {"cpu": kept})
    monkeypatch.setattr(blocks, "BLOCK", {"cpu": 15})
    monkeypatch.setattr(blocks, "ROWS", {"cpu": 3})
    torch.manual_seed(0)
    hidden = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    head = torch.nn.Linear(5, 32, bias=bias, dtype=torch.float64)
    targets, weights = torch.randint(0, 32, (7,)), torch.randn(7)
    inputs = [hidden, *head.parameters()]

    found, _ = token_logprobs(hidden, head, targets, temperature, softcap)
    fast = torch.autograd.grad((found * weights).sum(), inputs)
    logits = head(hidden)
    table = ((logits if softcap is None else softcap * (logits / softcap).tanh()) / temperature).log_softmax(-1)
    slow = torch.autograd.grad((table[range(7), targets] * weights).sum(), inputs)
    assert torch.allclose(found.double(), table[range(7), targets], atol=1e-6)
    for a, b in zip(fast, slow, strict=True):
        assert torch.allclose(a.double(), b, atol=1e-5)
    with torch.no_grad():
        again, entropy = token_logprobs(hidden, head, targets, temperature, softcap, entropy="value")
    assert torch.equal(again, found)  # with gradients or without: the first ratio is exactly 1
    assert torch.allclose(entropy.double(), -(table.exp() * table).sum(-1), atol=1e-6)


def test_under_autocast_the_head_computes_as_a_plain_one_would(monkeypatch):
    """In bfloat16, whatever type the last norm leaves: a product in float32 would be the slowest of all on a GPU."""
    torch.manual_seed(0)
    hidden, head = torch.randn(6, 16), torch.nn.Linear(16, 40, bias=False)
    targets = torch.arange(6)
    products = []
    plain = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda x, w, b=None: products.append(x.dtype) or plain(x, w, b))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = token_logprobs(hidden.requires_grad_(), head, targets, 1.0)
        other, _ = token_logprobs(hidden, head, targets, 1.0, entropy="gradient")  # by `head` itself
    assert products == [torch.bfloat16, *products[1:]] and torch.equal(found, other) and found.dtype == torch.float32
    found.sum().backward()
    assert hidden.grad.dtype == head.weight.grad.dtype == torch.float32


def test_blocks_hold_for_logits_of_any_size_and_tokens_that_are_certain(monkeypatch):
    """Larger and larger logits scale the sums anew; 1 - p of a sure token keeps its digits, in bfloat16 too."""
    monkeypatch.setattr(logprobs, "CHUNK", {"cpu": 0})
    monkeypatch.setattr(blocks, "BLOCK", {"cpu": 6})
    head = torch.nn.Linear(1, 12, bias=False)
    head.weight.data = torch.linspace(-264, 264, 12)[:, None]
    for hidden in (torch.tensor([[1.0], [-1.0], [0.02]]), torch.tensor([[0.125], [-0.125]], dtype=torch.bfloat16)):
        targets = torch.tensor([11, 0, 7])[: len(hidden)]
        hidden.requires_grad_()
        found, _ = token_logprobs(hidden, head, targets, 1.0)
        exact = hidden.detach().double().requires_grad_()
        table = (exact @ head.weight.double().T).log_softmax(-1)[range(len(hidden)), targets]
        (fast,), (slow,) = (torch.autograd.grad(x.sum(), y) for x, y in ((found, hidden), (table, exact)))
        assert torch.allclose(found.double(), table, atol=1e-5)
        assert torch.allclose(fast.double(), slow, rtol=2e-2 if hidden.dtype == torch.bfloat16 else 1e-4)


@pytest.mark.parametrize("kept", [2**24, 0])
def test_frozen_head_gets_no_gradient(monkeypatch, kept):
    monkeypatch.setattr(logprobs, "CHUNK", {"cpu": kept})
    hidden, head = torch.randn(4, 5, requires_grad=True), torch.nn.Linear(5, 8, bias=False).requires_grad_(False)
    token_logprobs(hidden, head, torch.tensor([0, 1, 2, 3]), 1.0)[0].sum().backward()
    assert hidden.grad is not None and head.weight.grad is None


def test_softcapped_logits():
    hidden, head = torch.randn(4, 5) * 10, torch.nn.Linear(5, 8)
    found, _ = token_logprobs(hidden, head, torch.tensor([0, 1, 2, 3]), 1.0, softcap=2.0)
    expected = (2 * torch.tanh(head(hidden) / 2)).log_softmax(-1)[range(4), range(4)]
    assert torch.allclose(found, expected)


def test_entropy_with_gradient():
    hidden, head = torch.randn(4, 5, requires_grad=True), torch.nn.Linear(5, 8)
    token_logprobs(hidden, head, torch.tensor([0, 1, 2, 3]), 1.0, entropy="gradient")[1].sum().backward()
    assert hidden.grad.abs().sum() > 0


def test_collate_points_at_the_state_before_each_token():
    batch = collate(PROMPTS, RESPONSES, 0, CPU)
    assert batch.ids.shape == (3, 7)
    assert batch.targets.tolist() == [20, 21, 1, 22, 23, 24, 25, 1, 26]
    following = batch.ids.flatten()[batch.read + 1]
    assert torch.equal(following, batch.targets)
    unpacked = batch.unpack(batch.targets.float())
    assert unpacked.tolist() == [[20, 21, 1, 0, 0], [22, 23, 24, 25, 1], [26, 0, 0, 0, 0]]
    assert torch.equal(batch.mask, response_mask(RESPONSES))


def test_partition_covers_each_row_once_and_ignores_the_micro_batch_size():
    lengths = [5, 3, 9, 1, 7, 7, 2, 8, 4, 6]
    parts = {}
    for size in (1, 2, 100):
        parts[size] = partition(lengths, 3, size, torch.Generator().manual_seed(1))
        assert max(len(rows) for minibatch in parts[size] for rows in minibatch) <= size
        assert sorted(row for minibatch in parts[size] for rows in minibatch for row in rows) == list(range(10))
    members = {
        size: [sorted(row for rows in minibatch for row in rows) for minibatch in part] for size, part in parts.items()
    }
    assert members[1] == members[2] == members[100]


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_the_critic_begins_by_knowing_nothing(small, kind):
    """Values of zero explain none of the variance of the returns, whatever the size of the states, and add none."""
    config = small.settings(**{"critic.kind": kind, "steps": 1})
    model = small.llama()
    model.model.norm.weight.data *= 5  # as large as those of pretrained models
    made = small.models(config, model)
    assert not made.value_head.weight.any() and not made.value_head.bias.any()
    row = small.trainer(config, made).run().curve[0]
    assert abs(row["explained_variance"]) < 1e-6
    assert made.value_head.weight.any(), "it learns"


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_reference_stays_when_the_policy_moves(small, kind):
    models = small.models(small.settings(**{"policy.kind": kind}))
    batch = collate(PROMPTS, RESPONSES, 0, CPU)
    before = models.reference_logprobs(batch)
    with torch.no_grad():
        for weight in models.groups()["policy"]:
            weight += 0.1
        assert not torch.allclose(models(batch)[0], before, atol=1e-3)
    assert torch.equal(models.reference_logprobs(batch), before)
    with models.as_reference() as reference, torch.no_grad():
        rows = generate(
            reference, small.tokenizer, PROMPTS, max_new_tokens=3, temperature=0, batch_size=3, generator=None
        )
    untouched = small.llama().eval()
    expected = generate(
        untouched, small.tokenizer, PROMPTS, max_new_tokens=3, temperature=0, batch_size=3, generator=None
    )
    assert rows == expected


def test_lora_learns_the_adapter_alone(small):
    models = small.models(small.settings(**{"policy.kind": "lora"}))
    trained = [name for name in models.trained_state() if not name.startswith("value_head")]
    assert trained and all("lora_" in name for name in trained)
    assert models.reference is None


@pytest.mark.parametrize("architecture", ["llama", "untied", "gpt2"])
def test_the_reference_of_a_whole_policy_is_narrow_and_the_same(small, architecture):
    """Its matrices are in the type that autocast computes in; the KL of a policy that has not moved is exactly 0."""
    config = small.settings(steps=1)
    model = small.gpt2() if architecture == "gpt2" else small.llama()
    if architecture == "untied":
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 1.1)
    made = ActorCritic(model, config, computed=torch.bfloat16)
    reference = {name: p.dtype for name, p in made.reference.named_parameters()}
    narrow = [name for name, dtype in reference.items() if dtype == torch.bfloat16]
    assert len(narrow) == (16 if architecture == "gpt2" else 14 + (architecture == "untied")), narrow
    assert not any("norm" in name or "ln_" in name or "embed" in name or "wte" in name for name in narrow)
    assert all(p.dtype == torch.float32 for p in made.policy.parameters())
    row = small.trainer(config, made, autocast=torch.bfloat16).run().curve[0]
    assert row["kl"] == row["kl_k3"] == 0.0 and row["entropy"] > 1


@pytest.mark.slow
@pytest.mark.parametrize("critic", ["shared", "adapter"])
def test_adapters_under_autocast_share_the_inputs_of_their_layers(small, critic):
    """The same numbers as with a copy in float32 for each, to the last digit, and half of the inputs kept."""
    found = []
    for copies in (False, True):
        config = small.settings(**{"policy.kind": "lora", "critic.kind": critic})
        torch.manual_seed(3)
        made = ActorCritic(small.llama().bfloat16(), config, computed=torch.bfloat16)
        layers = [layer for layer in made.modules() if hasattr(layer, "cast_input_dtype_enabled")]
        assert len(layers) == (28 if critic == "adapter" else 14)
        for layer in layers:
            layer.cast_input_dtype_enabled = layer.cast_input_dtype_enabled or copies
            torch.nn.init.normal_(layer.lora_B["default"].weight)
        kept: dict[int, torch.Tensor] = {}
        weights = {p.untyped_storage()._cdata for p in made.parameters()}

        def keep(tensor, kept=kept, weights=weights):
            if tensor.untyped_storage()._cdata not in weights:
                kept[tensor.untyped_storage()._cdata] = tensor
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16),
        ):
            logprobs, _, values = made(collate(PROMPTS, RESPONSES, 0, CPU))
        (logprobs.sum() + values.sum()).backward()
        grads = [p.grad for p in made.parameters() if p.grad is not None]
        found.append(
            (logprobs.detach(), values.detach(), grads, sum(t.untyped_storage().nbytes() for t in kept.values()))
        )
    shared, copied = found
    assert torch.equal(shared[0], copied[0]) and torch.equal(shared[1], copied[1])
    assert all(torch.allclose(a, b, atol=1e-2, rtol=1e-2) for a, b in zip(shared[2], copied[2], strict=True))
    assert shared[3] < 0.95 * copied[3]
