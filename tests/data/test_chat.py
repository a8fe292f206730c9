from __future__ import annotations

import copy

import pytest
from artifacts import dialogue_ids
from hypothesis import given, settings
from hypothesis import strategies as st

from morlaif.data.chat import (
    HH_TEMPLATE,
    PAD_TOKEN,
    decode_response,
    dialogue_parts,
    fit_messages,
    prepare_tokenizer,
    prompt_ids,
    response_ids,
)
from morlaif.errors import UserError

MESSAGES = [
    {"role": "user", "content": "how are you?"},
    {"role": "assistant", "content": "I am well."},
    {"role": "user", "content": "today?"},
]
# a template with hooks for what others refuse or leave out
STRICT = (
    "{% for m in messages %}{% if false %}{{ raise_exception('no such role') }}{% endif %}"
    "{% if true %}[{{ m.role }}]{{ m.content }}[end]{% endif %}{% endfor %}[assistant]"
)
TEXT = "\n\nHuman: how are you?\n\nAssistant: I am well.\n\nHuman: today?\n\nAssistant:"


def test_the_template_writes_hh_dialogues(tokenizer):
    assert tokenizer.chat_template == HH_TEMPLATE
    assert tokenizer.decode(prompt_ids(tokenizer, MESSAGES)) == TEXT
    system = [{"role": "system", "content": "Be kind."}, MESSAGES[0]]
    assert tokenizer.decode(prompt_ids(tokenizer, system)) == "Be kind.\n\nHuman: how are you?\n\nAssistant:"


def test_apart_or_in_one_the_ids_are_equal(tokenizer):
    whole = tokenizer(TEXT + " I am very well.", add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    assert dialogue_ids(tokenizer, MESSAGES, "I am very well.", 999) == whole
    assert prompt_ids(tokenizer, MESSAGES) + response_ids(tokenizer, "I am very well.") == whole
    prompt, answer = dialogue_parts(tokenizer, MESSAGES, "I am very well.", 999)
    assert prompt + answer == whole


@pytest.mark.slow
@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_response_comes_back(tokenizer, text):
    ids = response_ids(tokenizer, text)
    assert decode_response(tokenizer, ids) == text
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.pad_token_id not in ids and tokenizer.eos_token_id not in ids[:-1]


def test_special_tokens_in_text_are_only_text(tokenizer):
    said = f"<eos> {PAD_TOKEN} go on"
    assert response_ids(tokenizer, said).count(tokenizer.eos_token_id) == 1
    prompt = prompt_ids(tokenizer, [{"role": "user", "content": said}])
    assert tokenizer.eos_token_id not in prompt and tokenizer.pad_token_id not in prompt


@given(st.integers(1, 80), st.integers(0, 40))
def test_truncation_spares_the_response(tokenizer, max_length, words):
    answer = " ".join(["well"] * words)
    full_prompt, full_answer = prompt_ids(tokenizer, MESSAGES), response_ids(tokenizer, answer)
    prompt, response = dialogue_parts(tokenizer, MESSAGES, answer, max_length)
    least = min(len(full_prompt), max_length // 4)
    assert 0 < len(response) <= len(prompt) + len(response) <= max_length and response[-1] == tokenizer.eos_token_id
    assert response[:-1] == full_answer[: len(response) - 1]
    if len(full_prompt) + len(full_answer) <= max_length:
        assert (prompt, response) == (full_prompt, full_answer)
    if len(full_answer) + least <= max_length:
        assert response == full_answer
    ends = len(prompt_ids(tokenizer, [{"role": "user", "content": "?"}]))
    assert prompt[-1:] == full_prompt[-1:] or max_length < 4, "a prompt keeps its end"
    assert tokenizer.decode(prompt).startswith("\n\nHuman:") or max(max_length - len(full_answer), least) < ends


turns = st.lists(st.text("abc de", min_size=1, max_size=60).filter(str.strip), min_size=1, max_size=7)


@pytest.mark.slow
@settings(max_examples=60)
@given(turns, st.booleans(), st.booleans(), st.integers(70, 200))
def test_whole_turns_go_from_the_front_and_the_system_turn_stays(tokenizer, texts, with_system, own, room):
    """Whatever is cut: headers and the end are there, at most `room` tokens, and no turn that would fit is lost."""
    if own:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = STRICT
    texts = texts if len(texts) % 2 else texts[1:]
    said = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    messages = [{"role": "system", "content": "Be kind."}] * with_system + said
    length = lambda turns: len(prompt_ids(tokenizer, turns))  # noqa: E731
    kept = fit_messages(tokenizer, messages, room)
    ids = prompt_ids(tokenizer, messages, room)
    assert ids == prompt_ids(tokenizer, kept) and len(ids) <= room
    head, tail = kept[:with_system], kept[with_system:]
    assert head == messages[:with_system], "the system turn is short: it stays whole"
    assert tail[0]["role"] == "user" and tail[1:] == said[len(said) - len(tail) + 1 :]
    if len(tail) > 1 or tail == said[-1:]:
        assert tail == said[len(said) - len(tail) :]
        wider = said[max(0, len(said) - len(tail) - 2) :]
        assert wider == tail or length([*head, *wider]) > room
    else:  # the last turn alone was too long: it keeps its end
        assert length([*head, said[-1]]) > room and said[-1]["content"].endswith(tail[0]["content"])


def test_a_long_system_turn_leaves_half_to_the_question(tokenizer):
    long = [{"role": "system", "content": "be kind " * 200}, {"role": "user", "content": "how are you today? " * 90}]
    kept = fit_messages(tokenizer, long, 100)
    assert [turn["role"] for turn in kept] == ["system", "user"] and len(prompt_ids(tokenizer, kept)) <= 100
    assert (
        all(25 < len(tokenizer(turn["content"], add_special_tokens=False)["input_ids"]) <= 50 for turn in kept)
        and kept[0]["content"].startswith("be kind")
        and kept[1]["content"].endswith("today? ")
    )


def test_a_system_turn_that_a_template_refuses_or_drops_is_put_in_the_users_turn(tokenizer):
    own = copy.deepcopy(tokenizer)
    system, user = {"role": "system", "content": "Be kind."}, {"role": "user", "content": "how?"}
    folded = [{"role": "user", "content": "Be kind.\n\nhow?"}]
    for template in (
        STRICT.replace("if false", "if m.role == 'system'"),
        STRICT.replace("if true", "if m.role != 'system'"),
    ):
        own.chat_template = template
        assert prompt_ids(own, [system, user]) == prompt_ids(own, folded)
        assert prompt_ids(own, [user]) != prompt_ids(own, folded)
    own.chat_template = STRICT
    assert "Be kind." in own.decode(prompt_ids(own, [system, user])), "a template that knows the role keeps it"


def test_a_dialogue_that_a_template_refuses_is_named(tokenizer):
    own = copy.deepcopy(tokenizer)
    own.chat_template = STRICT.replace("if false", "if loop.first and m.role != 'user'")
    first = [{"role": "assistant", "content": "Welcome  to\nthis!"}, MESSAGES[0]]
    with pytest.raises(
        UserError, match=r"turns assistant, user that begins with 'Welcome to this!' .no such role."
    ) as told:
        prompt_ids(own, first)
    assert "\n" not in str(told.value) and "leave out such rows" in str(told.value)


def test_prompts_are_cut_on_the_left(tokenizer):
    ids = prompt_ids(tokenizer, MESSAGES)
    assert prompt_ids(tokenizer, MESSAGES, 5) == ids[-5:]
    assert prompt_ids(tokenizer, MESSAGES, len(ids)) == ids
    assert prompt_ids(tokenizer, MESSAGES, 0) == []
    with pytest.raises(ValueError, match="at least 1"):
        dialogue_ids(tokenizer, MESSAGES, "x", 0)


def test_bos_stays_where_the_tokenizer_begins_with_it(tokenizer):
    from tokenizers.processors import TemplateProcessing

    own = copy.deepcopy(tokenizer)
    own.add_special_tokens({"bos_token": "<bos>"})
    assert own.bos_token_id not in prompt_ids(own, MESSAGES), "it has a BOS, but begins nothing with it"
    own.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", own.bos_token_id)]
    )
    assert prompt_ids(own, MESSAGES) == [own.bos_token_id, *prompt_ids(tokenizer, MESSAGES)]
    last = [own.bos_token_id, *prompt_ids(tokenizer, MESSAGES[-1:])]
    assert prompt_ids(own, MESSAGES, len(last)) == last
    assert prompt_ids(own, MESSAGES, 4) == [own.bos_token_id, *prompt_ids(tokenizer, MESSAGES)[-3:]]
    assert own.bos_token_id not in response_ids(own, "well")


def test_a_template_of_its_own_is_kept(tokenizer):
    own = copy.deepcopy(tokenizer)
    own.chat_template = "{% for m in messages %}<eos>{{ m['content'] }}{% endfor %}"
    assert not prepare_tokenizer(own)
    assert own.decode(prompt_ids(own, MESSAGES[:1])) == "<eos>how are you?"
    assert own.decode(response_ids(own, "well")) == "well<eos>", "no space that the template does not have"
    assert decode_response(own, response_ids(own, "well")) == "well"


def test_pad_is_never_eos(tokenizer):
    own = copy.deepcopy(tokenizer)
    own.pad_token = own.eos_token
    assert not prepare_tokenizer(own), "the vocabulary holds a pad token already"
    assert own.pad_token == PAD_TOKEN and own.pad_token_id != own.eos_token_id
    assert not prepare_tokenizer(own)


def test_a_tokenizer_without_eos_is_refused(tokenizer):
    own = copy.deepcopy(tokenizer)
    own.eos_token = None
    with pytest.raises(UserError, match="no EOS token"):
        prepare_tokenizer(own)


def test_sentencepiece_tokenizers_get_no_second_space():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    unigram.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    unigram.train_from_iterator(["Human: how are you Assistant: I am well a"] * 5, trainer)
    own = PreTrainedTokenizerFast(tokenizer_object=unigram, eos_token="</s>", unk_token="<unk>")
    assert prepare_tokenizer(own)
    ids = response_ids(own, "I am well")
    assert ids == [*own("I am well", add_special_tokens=False)["input_ids"], own.eos_token_id]
    assert decode_response(own, ids) == "I am well"
