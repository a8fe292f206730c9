"""Ends of turns and templates over the conventions of real chat models, from sampling to what is exported."""

from __future__ import annotations

import copy
import logging

import pytest
from chat_styles import STYLES, model, tokenizer
from real_models import folder_of
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from morlaif.data import chat
from morlaif.data.chat import decode_response, prepare_tokenizer, prompt_ids, response_ids
from morlaif.data.form import form_of
from morlaif.errors import UserError
from morlaif.models import decode
from morlaif.models.ends import Ends, ends_of
from morlaif.models.generate import generate
from morlaif.models.load import load_causal_lm, load_policy, load_tokenizer, save_policy

USER = [{"role": "user", "content": "how are you?"}]
DIALOGUE = [*USER, {"role": "assistant", "content": "I am well."}, {"role": "user", "content": "today?"}]
SYSTEM = {"role": "system", "content": "Be kind."}
GREEDY = {"temperature": 0.0, "batch_size": 4}


@pytest.fixture(params=list(STYLES))
def style(request):
    return STYLES[request.param]


@pytest.fixture
def own(style):
    made = tokenizer(style)
    prepare_tokenizer(made)
    return made


def says(made, script: list[int]):
    """`made`, which will say the ids of `script` one after another, then the first again."""
    inner, said = made.forward, [0]

    def forward(*args, **kwargs):
        out = inner(*args, **kwargs)
        out.logits[:, -1] = 0
        out.logits[:, -1, script[said[0] % len(script)]] = 1
        said[0] += 1
        return out

    made.forward = forward
    decode._asked[made] = True  # the question whether its cache is right would take words of the script
    return made


def test_every_end_of_the_model_ends_a_response(style, own):
    made = model(style, own)
    ends = ends_of(made, own)
    wanted = {style.eos, style.end or style.eos, *style.listed}
    assert ends.ids == set(own.convert_tokens_to_ids(sorted(wanted)))
    assert ends.own == own.convert_tokens_to_ids(style.end or style.eos)
    for end in sorted(ends.ids):
        word = own("well", add_special_tokens=False)["input_ids"]
        (row,) = generate(says(model(style, own), [*word, end, 5]), own, [[4, 5]], max_new_tokens=9, **GREEDY)
        assert row == [*word, end] and ends.ended(row) and not ends.ended(word)
        assert decode_response(own, row, ends.ids) == "well"


def test_what_is_learnt_is_what_the_template_writes(style, own):
    """An answer's ids are those that the template gives it, as far as the end of its turn."""
    answer = response_ids(own, "I am well.")
    assert answer[-1] == own.convert_tokens_to_ids(style.end or style.eos)
    assert form_of(own).before == style.before
    assert decode_response(own, answer) == "I am well." and decode_response(own, response_ids(own, " I")) == " I"
    if style.template is not None:
        whole = own.apply_chat_template(DIALOGUE[:2], tokenize=False)
        ids = own(whole, add_special_tokens=False)["input_ids"]
        prompt = prompt_ids(own, USER)
        said = answer if style.end or style.eos in whole else answer[:-1]
        assert ids[: len(prompt) + len(said)] == [*prompt, *said]


@pytest.mark.slow
def test_plain_transformers_opens_and_answers_as_we_do(style, own, tmp_path):
    made = model(style, own, seed=3)
    save_policy(made, own, tmp_path)
    folder = str(tmp_path / "model")
    theirs, plain = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    policy, read = load_policy(tmp_path)
    for turns in (USER, DIALOGUE):
        given = plain.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        prompt = given["input_ids"][0].tolist()
        assert prompt == prompt_ids(read, turns) == prompt_ids(own, turns)
        assert prompt.count(own.bos_token_id) == style.begins
        ours = generate(policy, read, [prompt], max_new_tokens=40, **GREEDY)[0]
        got = theirs.generate(**given, max_new_tokens=40, do_sample=False)[0, len(prompt) :].tolist()
        assert got == ours
    ends = ends_of(made, own)
    assert theirs.generation_config.eos_token_id == ends.listed and ends_of(policy, read) == ends
    assert theirs.generation_config.pad_token_id == own.pad_token_id not in ends.ids
    # whichever id ends it, it ends for plain transformers too
    for end in sorted(ends.ids):
        out = says(AutoModelForCausalLM.from_pretrained(folder), [5, end]).generate(
            **given, max_new_tokens=9, do_sample=False
        )
        assert out[0, -2:].tolist() == [5, end] and out.shape[1] == len(prompt) + 2


def test_a_system_turn_that_is_refused_is_put_in_the_users_turn_and_reported_once(style, own, caplog):
    chat._say_folded.cache_clear()
    with caplog.at_level(logging.WARNING, "morlaif.data"):
        first = prompt_ids(own, [SYSTEM, *DIALOGUE])
        prompt_ids(own, [SYSTEM, *USER])
    assert "Be kind." in own.decode(first)
    folded = [{"role": "user", "content": "Be kind.\n\nhow are you?"}, *DIALOGUE[1:]]
    assert (first == prompt_ids(own, folded)) == style.refuses_system
    assert sum("takes no system turn" in line for line in caplog.messages) == style.refuses_system


def test_cut_prompts_keep_system_header_and_bos(style, own):
    long = [SYSTEM, *DIALOGUE * 6, *USER]
    long = [turn for i, turn in enumerate(long) if i == 0 or turn["role"] != long[i - 1]["role"]]
    least = prompt_ids(own, [SYSTEM, long[-1]])
    for room in (len(least), len(least) + 30, len(least) + 75):
        ids = prompt_ids(own, long, room)
        text = own.decode(ids)
        assert len(ids) <= room and "Be kind." in text and text.endswith(own.decode(least)[-12:])
        assert ids[:3] == least[:3] and text.count(long[-1]["content"]) >= 1


def test_an_assistants_turn_first_is_refused_in_one_line_or_spoken(style, own):
    turns = [{"role": "assistant", "content": "Welcome."}, *USER]
    if not style.refuses_system:
        assert "Welcome." in own.decode(prompt_ids(own, turns))
        return
    with pytest.raises(
        UserError, match=r"turns assistant, user that begins with 'Welcome\.'.*leave out such rows"
    ) as told:
        prompt_ids(own, turns)
    assert "\n" not in str(told.value)


def test_special_tokens_that_a_policy_says_are_seen(style, own):
    made = model(style, own)
    ends = ends_of(made, own)
    word, unused = (
        own(form_of(own).before + "well", add_special_tokens=False)["input_ids"],
        own.convert_tokens_to_ids("<unused7>"),
    )
    (row,) = generate(says(made, [*word, unused, ends.own]), own, [[4]], max_new_tokens=9, **GREEDY)
    assert decode_response(own, row, ends.ids) == "well<unused7>"
    again = response_ids(own, "well<unused7>")
    assert unused not in again, "whoever reads the text reads characters, never the token"
    assert decode_response(own, again) == "well<unused7>"
    cut = decode_response(own, [*word, own.pad_token_id], ends.ids)
    assert cut == "well<pad>", "a pad that was sampled is no end"


def test_a_stop_string_may_spell_a_special_token(style, own):
    made = model(style, own)
    word, unused = own("well", add_special_tokens=False)["input_ids"], own.convert_tokens_to_ids("<unused7>")
    (row,) = generate(says(made, [*word, unused, 5]), own, [[4]], max_new_tokens=9, stop=["<unused7>"], **GREEDY)
    ends = Ends.of(made, own, ["<unused7>"])
    assert row == [*word, unused] and ends.text(row) == "well" and ends.length(row) == len(word)


def test_the_default_of_an_architecture_is_no_end_where_it_is_a_word():
    style = STYLES["base"]
    own = tokenizer(style)
    made = LlamaForCausalLM(LlamaConfig(vocab_size=len(own), hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    assert made.generation_config.eos_token_id == 2 and ends_of(made, own).ids == {own.eos_token_id}
    made.generation_config.eos_token_id = [2, own.eos_token_id]
    made.generation_config._from_model_config = False
    assert ends_of(made, own).ids == {2, own.eos_token_id}, "a file that lists it means it"
    made.config.eos_token_id = [own.eos_token_id, 7]
    assert ends_of(made, own).ids == {2, 7, own.eos_token_id}


def test_a_template_that_an_earlier_export_saved_without_bos_gets_it():
    own = tokenizer(STYLES["base with bos"])
    prepare_tokenizer(own)
    new = prompt_ids(own, USER)
    older = copy.deepcopy(own)
    older.chat_template = chat.HH_TEMPLATE
    prepare_tokenizer(older)
    assert older.chat_template == own.chat_template and prompt_ids(older, USER) == new
    assert new == own.apply_chat_template(USER, add_generation_prompt=True, return_dict=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3-270m", "qwen25-coder-05b-instruct"])
def test_a_real_model_is_exported_as_it_answers_here(name, tmp_path):
    source = str(folder_of(name))
    read = load_tokenizer(source)
    save_policy(load_causal_lm(source, tokenizer=read), read, tmp_path)
    policy, own = load_policy(tmp_path)
    folder = str(tmp_path / "model")
    theirs, plain = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for turns in (USER, DIALOGUE):
        given = plain.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        prompt = given["input_ids"][0].tolist()
        assert prompt == prompt_ids(own, turns)
        (ours,) = generate(policy, own, [prompt], max_new_tokens=16, **GREEDY)
        assert theirs.generate(**given, max_new_tokens=16, do_sample=False)[0, len(prompt) :].tolist() == ours
