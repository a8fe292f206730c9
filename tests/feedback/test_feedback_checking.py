"""Yes or no about one response, by a model that runs here and by a server."""

from __future__ import annotations

import pytest
import torch
from chat_server import ChatServer

from morlaif.data.chat import prompt_ids
from morlaif.errors import UserError
from morlaif.feedback.judge import open_checker
from morlaif.feedback.prompt import checking_messages
from morlaif.feedback.rating import Single
from morlaif.feedback.settings import Criterion, HfSettings, HumanSettings
from morlaif.models.load import load_causal_lm, load_tokenizer
from morlaif.models.scratch import build_causal_lm, train_tokenizer
from morlaif.models.settings import ScratchSettings
from morlaif.presets import preset

FINE = Criterion(name="fine", ask="Is the reply fine?", covers=("toxicity",))
ASKED = [Single.of([{"role": "user", "content": "Well?"}], text, FINE) for text in ("Yes, it is fine.", "No.")]


@pytest.mark.slow
def test_a_local_judge_says_yes_as_likely_as_its_tokens_say(tmp_path):
    sizes = {"layers": 1, "heads": 2, "intermediate_size": 16, "max_positions": 512, "tie_embeddings": True}
    tokenizer = train_tokenizer(["yes no Yes No is the reply fine or not " * 3], 300)
    build_causal_lm(
        ScratchSettings(vocab_size=300, hidden_size=16, init_std=0.4, **sizes), tokenizer, seed=0
    ).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    settings = HfSettings(**preset("feedback", "hf") | {"path": str(tmp_path / "m"), "device": "cpu"})
    found = {single.id: rating for single, rating in open_checker(settings, ledger=tmp_path / "l").judge(ASKED)}
    model, tokenizer = load_causal_lm(tmp_path / "m"), load_tokenizer(tmp_path / "m")
    said = [tokenizer.decode([i]).strip().lower() for i in range(len(tokenizer))]
    for single in ASKED:
        ids = prompt_ids(tokenizer, checking_messages(single.messages, single.response, FINE))
        with torch.no_grad():
            p = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
        yes, no = (sum(p[i].item() for i, text in enumerate(said) if text == word) for word in ("yes", "no"))
        assert found[single.id].score == pytest.approx(2 * yes / (yes + no) - 1, abs=1e-5)
    again = open_checker(settings, ledger=tmp_path / "l")
    assert [r.score for _, r in again.judge(ASKED)] == [found[s.id].score for s in ASKED] and again.usage.requests == 0


@pytest.mark.parametrize("logprobs", [True, False])
def test_a_server_is_asked_and_its_answers_are_kept(logprobs, settings_for, tmp_path):
    with ChatServer(logprobs=logprobs) as server:
        settings = settings_for(server, votes=2, logprobs="always" if logprobs else "never")
        found = {s.id: r for s, r in open_checker(settings, ledger=tmp_path / "l").judge(ASKED)}
        assert [found[single.id].score for single in ASKED] == pytest.approx([1.0, -1.0], abs=0.2)
        asked = server.received
        list(open_checker(settings, ledger=tmp_path / "l").judge(ASKED))
        assert server.received == asked == (2 if logprobs else 4)


def test_people_and_files_answer_no_such_question(tmp_path):
    with pytest.raises(UserError, match="no question with yes or no"):
        open_checker(HumanSettings(source="human"), ledger=tmp_path / "l")
