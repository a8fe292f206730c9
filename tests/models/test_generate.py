from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from morlaif.errors import UserError
from morlaif.models.ends import Ends
from morlaif.models.generate import generate, nucleus, sample
from morlaif.models.scratch import train_tokenizer

TEXTS = ["The quick brown fox jumps over the lazy dog.", "Human: how? Assistant: so.\n\nHuman: and then?"] * 5
NEW = 24


class Readable(LlamaForCausalLM):
    """A Llama that says printable ASCII only."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits[..., self.banned] = -torch.inf
        return out


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 330)


def build(kind: str, tokenizer):
    torch.manual_seed(1)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": None, "pad_token_id": tokenizer.pad_token_id}
    if kind == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3, **ids
            )
        )  # its dropout of 0.1 stays: generation must switch it off
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, max_position_embeddings=64, initializer_range=0.3, **ids,
    )  # fmt: skip
    model = Readable(config)
    texts = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    model.banned = torch.tensor([not (text.isascii() and text.isprintable() and text) for text in texts])
    return model


def prompts_of(tokenizer, count: int) -> list[list[int]]:
    rng = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, 30, (count,), generator=rng).tolist()
    return [torch.randint(3, len(tokenizer), (n,), generator=rng).tolist() for n in lengths]


def by_transformers(model, tokenizer, prompts, eos: int | None) -> list[list[int]]:
    """Greedy continuations by `transformers.generate`, one batch padded on the left, each cut after its EOS."""
    model.eval()
    batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    out = model.generate(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], do_sample=False, max_new_tokens=NEW,
        eos_token_id=eos, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    rows = out[:, batch["input_ids"].shape[1] :].tolist()
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


def with_eos(tokenizer, token: int):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(token)
    return tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_greedy_equals_transformers(kind, batch_size, tokenizer):
    model, prompts = build(kind, tokenizer), prompts_of(tokenizer, 23)
    endless = by_transformers(model, tokenizer, prompts, None)
    # The end token: one that about half of the rows come upon, so that rows leave the batch at many different steps.
    eos = min({t for row in endless for t in row}, key=lambda t: abs(sum(t in row[:-1] for row in endless) - 12))
    tokenizer = with_eos(tokenizer, eos)
    expected = by_transformers(model, tokenizer, prompts, eos)
    assert 3 < sum(row[-1] == eos and len(row) < NEW for row in expected) < len(prompts)

    model.train()
    got = generate(model, tokenizer, prompts, max_new_tokens=NEW, temperature=0, batch_size=batch_size, generator=None)
    assert got == expected
    assert model.training  # the mode is put back


@pytest.mark.slow
def test_greedy_does_not_depend_on_the_order_of_the_batch(tokenizer):
    model, prompts = build("llama", tokenizer), prompts_of(tokenizer, 12)
    options = {"max_new_tokens": NEW, "temperature": 0, "batch_size": 5, "generator": None}
    forth = generate(model, tokenizer, prompts, **options)
    back = generate(model, tokenizer, prompts[::-1], **options)
    assert forth == back[::-1]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 16])
def test_stop_strings_cut_each_row_in_its_own_text(batch_size, tokenizer):
    model, prompts = build("llama", tokenizer), prompts_of(tokenizer, 16)
    options = {"max_new_tokens": NEW, "temperature": 0, "batch_size": batch_size, "generator": None}
    endless = generate(model, tokenizer, prompts, **options)
    texts = [tokenizer.decode(row) for row in endless]
    # Strings that begin and end amid tokens, one of them inside another row's token sequence too.
    stop = [texts[0][5:9], texts[3][11:13], texts[7][2:8], "never said"]

    got = generate(model, tokenizer, prompts, stop=stop, **options)
    ends = Ends.of(model, tokenizer, stop)
    ended = 0
    for free, row in zip(endless, got, strict=True):
        seen = [tokenizer.decode(free[:n]) for n in range(1, NEW + 1)]
        hit = next((text for text in seen if any(s in text for s in stop)), None)
        if hit is None:
            assert row == free and not ends.stopped(row)
            continue
        ended += 1
        assert row == free[: seen.index(hit) + 1], "what was sampled, to the id that completes the string, and no more"
        assert ends.ended(row) and ends.stopped(row) and not ends.turn.ended(row)
        cut = hit[: min(hit.find(s) for s in stop if s in hit)]
        assert ends.text(row) == cut
        held = ends.length(row)
        assert tokenizer.decode(row[:held]).startswith(cut)
        assert held == 0 or not tokenizer.decode(row[: held - 1]).startswith(cut)
    assert 3 <= ended < len(prompts)


def test_a_stop_string_of_several_bytes_is_found_across_tokens(tokenizer):
    """`é` is two bytes, each a token of its own here."""

    class Spells(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.script = build("llama", tokenizer), tokenizer.encode("so é so")
            self.config, self.device, self.said = self.inner.config, self.inner.device, 0

        def forward(self, **kwargs):
            out = self.inner(**kwargs)
            out.logits[:] = 0
            out.logits[..., self.script[self.said]] = 1
            self.said += 1
            return out

    options = {"max_new_tokens": 6, "temperature": 0, "batch_size": 1, "generator": None}
    model = Spells()
    (row,) = generate(model, tokenizer, [[5, 6]], stop=["é"], **options)
    ends = Ends.of(model, tokenizer, ["é"])
    assert row == model.script[: len(row)] and tokenizer.decode(row) == "so é"
    assert ends.text(row) == "so " and not ends.ended(row[:-1])


@pytest.mark.slow
def test_sampling_is_deterministic_given_the_generator(tokenizer):
    model, prompts = build("gpt2", tokenizer), prompts_of(tokenizer, 9)

    def draw(seed: int):
        return generate(
            model, tokenizer, prompts, max_new_tokens=NEW, temperature=1.0, top_p=0.9, batch_size=4,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)


@pytest.mark.parametrize("many", [2**14, 1])  # at once, or a block first
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.7)])
def test_sampled_frequencies_match_the_softmax(monkeypatch, temperature, top_p, many):
    monkeypatch.setattr("morlaif.models.generate.MANY", many)
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5, -3.0])
    expected = torch.softmax(logits.double() / temperature, -1)
    if top_p < 1:
        expected = brute_force_nucleus(expected, top_p)
    noise = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    draws = sample(logits.expand(20_000, -1), temperature, top_p, noise)
    counts = torch.bincount(draws, minlength=6).double()
    possible = expected > 0
    assert counts[~possible].sum() == 0
    assert stats.chisquare(counts[possible], expected[possible] * 20_000).pvalue > 0.01


@pytest.mark.parametrize("many", [2**14, 1])
def test_the_edges_of_the_noise_draw_no_impossible_id(monkeypatch, many):
    monkeypatch.setattr("morlaif.models.generate.MANY", many)
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(4, -1)
    noise = torch.tensor([0.0, 0.4999, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert sample(logits, 1.0, 1.0, noise).tolist() == [1, 1, 3, 3]


def test_drawing_by_blocks_finds_the_same_ids(monkeypatch):
    """Whatever number of ids there is, in whole blocks or not."""
    generator = torch.Generator().manual_seed(0)
    for count in (9, 10, 12, 1000):
        logits = torch.randn(500, count, generator=generator) * 3
        noise = torch.rand(500, dtype=torch.float64, generator=generator)
        at_once = sample(logits, 0.7, 1.0, noise)
        monkeypatch.setattr("morlaif.models.generate.MANY", 1)
        assert torch.equal(sample(logits, 0.7, 1.0, noise), at_once)
        monkeypatch.undo()


@pytest.mark.slow
def test_a_large_head_is_read_by_blocks(monkeypatch, tokenizer):
    """The same greedy answers, by the model's own head or by its rows block by block."""
    torch.manual_seed(1)
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, head_dim=8,
        num_key_value_heads=2, intermediate_size=48, initializer_range=0.3, final_logit_softcapping=3.0,
    )  # fmt: skip
    model, prompts = Gemma2ForCausalLM(config), prompts_of(tokenizer, 5)
    args = {"max_new_tokens": NEW, "temperature": 0.0, "batch_size": 5}
    whole = generate(model, tokenizer, prompts, **args)
    blocks = []
    one, many = torch.mm, torch.bmm
    monkeypatch.setattr(torch, "mm", lambda x, w, out: blocks.append(w.shape[1]) or one(x, w, out=out))
    monkeypatch.setattr(torch, "bmm", lambda x, w: blocks.append(w.shape[2]) or many(x, w))
    monkeypatch.setattr("morlaif.models.head.LARGE", 0)
    monkeypatch.setattr("morlaif.models.head.BLOCK", 100)
    assert generate(model, tokenizer, prompts, **args) == whole
    assert set(blocks) == {100, len(model.get_output_embeddings().weight) % 100}


def test_a_row_draws_the_same_whenever_the_others_end(tokenizer):
    """The first row meets the same noise in both batches, though the others of one are stopped at once."""
    model, prompts = build("llama", tokenizer), prompts_of(tokenizer, 6)
    prompts[0] = [5] * 31  # the longest, so that it sits first

    def draw(stop):
        return generate(
            model, tokenizer, prompts, max_new_tokens=NEW, temperature=1.0, batch_size=6, stop=stop,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip

    free = draw([])
    said = set(tokenizer.decode(free[0]))
    stopped = draw([letter for letter in map(chr, range(32, 127)) if letter not in said])
    assert sum(len(row) < NEW for row in stopped) >= 4
    assert stopped[0] == free[0]


def test_first_tokens_follow_the_model(tokenizer):
    """The whole path, model included: 4,000 draws of the first token against the model's own softmax."""
    model, prompt = build("gpt2", tokenizer).eval(), [5, 9, 11]
    with torch.no_grad():
        probs = torch.softmax(model(torch.tensor([prompt])).logits[0, -1].double(), -1)
    out = generate(
        model, tokenizer, [prompt] * 4000, max_new_tokens=1, temperature=1.0, batch_size=500,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    counts = torch.bincount(torch.tensor([row[0] for row in out]), minlength=len(tokenizer)).double()
    common = probs > 5 / 4000
    observed = torch.cat([counts[common], counts[~common].sum()[None]])
    expected = torch.cat([probs[common], probs[~common].sum()[None]]) * 4000
    assert stats.chisquare(observed, expected).pvalue > 0.01


def brute_force_nucleus(probs: torch.Tensor, top_p: float) -> torch.Tensor:
    """Add ids from the most likely on until their mass reaches `top_p`; one row, normalised."""
    kept, mass = torch.zeros_like(probs), 0.0
    for index in sorted(range(len(probs)), key=lambda i: (-probs[i], i)):
        kept[index] = probs[index]
        mass += float(probs[index])
        if mass >= top_p:
            break
    return kept / kept.sum()


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=12), st.sampled_from([0.1, 0.35, 0.5, 0.8, 0.95]))
def test_nucleus_equals_brute_force(weights, top_p):
    probs = torch.tensor(weights, dtype=torch.float64)
    probs /= probs.sum()
    got = nucleus(probs[None], top_p)[0]
    if any(abs(float(m) - top_p) < 1e-9 for m in probs.sort(descending=True).values.cumsum(0)):
        return  # on the edge, rounding decides
    assert torch.allclose(got / got.sum(), brute_force_nucleus(probs, top_p))
    assert (got > 0).any()


def test_clear_errors(tokenizer):
    model = build("llama", tokenizer)
    options = {"temperature": 0, "batch_size": 2, "generator": None}
    with pytest.raises(UserError, match="prompt 1 is empty"):
        generate(model, tokenizer, [[4], []], max_new_tokens=2, **options)
    with pytest.raises(UserError, match=r"prompt 0 has 60 tokens; with 5 new ones that exceeds .* 64 positions"):
        generate(model, tokenizer, [[4] * 60], max_new_tokens=5, **options)
    mute = copy.deepcopy(tokenizer)
    mute.eos_token = None
    with pytest.raises(UserError, match="no eos token"):
        generate(model, mute, [[4]], max_new_tokens=2, **options)
    assert generate(model, tokenizer, [], max_new_tokens=2, **options) == []
