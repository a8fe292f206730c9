from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE of 400 tokens, trained here."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from morlaif.data.chat import prepare_tokenizer

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<eos>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(["\n\nHuman: how are you today?\n\nAssistant: I am very well, thank you."] * 4, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>", clean_up_tokenization_spaces=False)
    assert prepare_tokenizer(made)
    return made


@pytest.fixture(scope="session")
def hh_folder() -> Path:
    """Slices of HH-RLHF, where they are: in $MORLAIF_HH_RLHF or beside the repository."""
    folder = Path(os.environ.get("MORLAIF_HH_RLHF", REPOSITORY.parent / "shared/data/hh-rlhf"))
    if not list(folder.glob("*.jsonl.gz")):
        pytest.skip(f"no HH-RLHF slices in {folder}; set MORLAIF_HH_RLHF")
    return folder
