"""One side of a comparison on a real model: loads once, then does its work each time that the driver says so.

python sides.py sample|judge|pm ours|theirs FOLDER THREADS
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "ppo"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from case import Wire, resident

wire = Wire()

import torch  # noqa: E402

Work = Callable[[], int]  # does it once, and gives the number of tokens, verdicts or scores that came of it
TEXT = """How do I plan a small garden that feeds a family of four through a whole year without much water or any help
from the neighbours next door"""
WORDS = TEXT.split()
ROWS, NEW = 16, 32  # sampling
PAIRS, PRINCIPLES = 1, 12  # the judge; principles of the models too
DIALOGUES, TOKENS, RANK = 8, 64, 8  # preference models


def sample(side: str, folder: Path) -> Work:
    """Tokens sampled at temperature 1 after prompts of 12 to 36 tokens, all rows as one batch."""
    from morlaif.models.generate import generate
    from morlaif.models.load import load_causal_lm, load_tokenizer

    tokenizer = load_tokenizer(folder)
    model = load_causal_lm(folder, tokenizer=tokenizer, dtype=torch.float32).eval()
    texts = [" ".join((WORDS * 2)[: 11 + i * 24 // (ROWS - 1)]) for i in range(ROWS)]
    prompts = [tokenizer(text).input_ids for text in texts]
    if side == "ours":
        generator = torch.Generator().manual_seed(0)

        def run() -> int:
            made = generate(
                model, tokenizer, prompts, max_new_tokens=NEW, temperature=1.0, batch_size=ROWS, generator=generator
            )
            return sum(map(len, made))

        return run
    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    torch.manual_seed(0)

    @torch.no_grad()
    def theirs() -> int:
        made = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            max_new_tokens=NEW, pad_token_id=pad,
        )  # fmt: skip
        return int((made[:, width:] != pad).sum())

    return theirs


def judge(side: str, folder: Path) -> Work:
    """Verdicts on pairs under twelve principles: `feedback=hf`, or a plain forward of each question in both orders."""
    from morlaif.feedback.prompt import comparison_messages
    from morlaif.feedback.settings import Principle
    from morlaif.feedback.sources.hf import LetterModel
    from morlaif.models.load import load_causal_lm, load_tokenizer
    from morlaif.presets import preset

    tokenizer = load_tokenizer(folder)
    model = load_causal_lm(folder, tokenizer=tokenizer, dtype=torch.float32).eval()
    letters = LetterModel(model, tokenizer, 32)
    listed = preset("principles", "paper12")["definitions"]
    wordings = [Principle(name=name, **fields) for name, fields in listed.items()][:PRINCIPLES]
    stems, questions = [], []
    for i in range(PAIRS):
        asked = [{"role": "user", "content": " ".join(WORDS[: 16 + 4 * i]) + "?"}]
        first = "Begin with the soil. " + " ".join(WORDS) + ", and note what grew well each month. " * 2
        second = "That depends on where you live; ask at a nursery. " * (2 + i)
        for a, b in ((first, second), (second, first)):
            prompts = [comparison_messages(asked, a, b, wording) for wording in wordings]
            stems.append(prompts)
            questions += prompts
    if side == "ours":
        return lambda: sum(len(rows) for rows in letters.logprobs([letters.stem(p) for p in stems])) // 2

    @torch.no_grad()
    def plain() -> int:
        for messages in questions:
            ids = torch.tensor([letters._ids(messages)])
            model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].float().log_softmax(-1)
        return len(questions) // 2

    return plain


def pm(side: str, folder: Path) -> Work:
    """Scores of dialogues under twelve LoRA models: stacked, or peft's `set_adapter` one after another."""
    import pm_scoring
    from pm_common import in_parts, random_adapter

    from morlaif.models.load import load_tokenizer
    from morlaif.preference.lora import forward_tokens
    from morlaif.preference.model import PaddedBatch, load_classifier
    from morlaif.preference.scorers import AdapterScorer

    model = load_classifier(folder, load_tokenizer(folder))
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 250, (DIALOGUES, TOKENS), generator=generator)
    full = torch.full((DIALOGUES,), TOKENS)
    batch = PaddedBatch(ids, full // 2, full)
    adapters = [random_adapter(model, RANK, k) for k in range(PRINCIPLES)]
    names = [str(k) for k in range(PRINCIPLES)]
    if side == "ours":
        tokens = forward_tokens(model)
        scorer = AdapterScorer(names, model, [lambda a=a: a for a in adapters], "last", tokens)
        rows = max(1, tokens // TOKENS)

        @torch.no_grad()
        def bank() -> int:
            return in_parts(scorer.score, batch, rows).numel()

        return bank
    with torch.no_grad():
        switched = pm_scoring.with_peft(model, adapters)

    @torch.no_grad()
    def one_by_one() -> int:
        scores = []
        for name in names:
            switched.set_adapter(name)
            scores.append(switched(input_ids=batch.ids).logits)
        return torch.cat(scores).numel()

    return one_by_one


def main() -> None:
    what, side, folder, threads = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(threads)
    imported = resident()
    work = {"sample": sample, "judge": judge, "pm": pm}[what](side, folder)
    wire.tell(imported=imported, loaded=resident())
    while wire.begin():
        wire.end(tokens=work())


main()
