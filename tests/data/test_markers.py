from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morlaif.data.markers import MARKERS, break_open

FAMILIES = {
    "ChatML, Qwen": "<|im_start|> <|im_end|> <|endoftext|> <|object_ref_start|> <|vision_pad|> <tool_call>",
    "Qwen 3": "<think> </think> <tool_response> </tool_call> <|repo_name|>",
    "Llama 2": "<s> </s> [INST] [/INST] <<SYS>> <</SYS>>",
    "Code Llama": "<PRE> <SUF> <MID> <EOT>",
    "Llama 3": "<|begin_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> <|eom_id|> <|python_tag|>",
    "Llama 4": "<|header_start|> <|header_end|> <|eot|> <|image_start|> <|patch|> <|finetune_right_pad_id|>",
    "Gemma 1 to 3": "<bos> <eos> <pad> <unk> <mask> <start_of_turn> <end_of_turn> <unused0> <unused99>",
    "Gemma 4": "<|turn> <turn|> <|channel> <channel|> <|think|> <|tool_call> <tool_call|> <|image> <audio|>",
    "Mistral": "[INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_CALLS] [TOOL_RESULTS] [IMG_BREAK] [PREFIX]",
    "Mistral, Tekken": "[SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT] [ARGS] [CALL_ID] [THINK] [/THINK] <SPECIAL_36>",
    "Phi": "<|system|> <|user|> <|assistant|> <|end|> <|im_sep|> <|dummy_0|>",
    "DeepSeek": "<｜begin▁of▁sentence｜> <｜User｜> <｜Assistant｜> <｜tool▁calls▁begin｜> <｜fim▁hole｜> <|EOT|>",
    "DeepSeek 3.2": "<｜DSML｜function_calls> </｜DSML｜invoke>",
    "Command R and A": "<BOS_TOKEN> <EOS_TOKEN> <|START_OF_TURN_TOKEN|> <|END_OF_TURN_TOKEN|> <|CHATBOT_TOKEN|> "
    "<|START_THINKING|> <MASK_TOKEN>",
    "Granite": "<|start_of_role|> <|end_of_role|> <|end_of_text|> <|tool_call|> <fim_prefix> <filename> <reponame>",
    "Falcon": "<|startoftext|> >>TITLE<< >>ABSTRACT<< >>PREFIX<<",
    "OLMo": "<|user|> <|endofprompt|> |||EMAIL_ADDRESS||| |||IP_ADDRESS|||",
    "SmolLM": "<|im_start|> <repo_name> <file_sep> <gh_stars> <jupyter_code> <empty_output>",
    "SmolVLM": "<end_of_utterance> <fake_token_around_image> <row_1_col_2> <global-img> <image>",
    "gpt-oss": "<|start|> <|end|> <|message|> <|channel|> <|constrain|> <|return|> <|call|>",
    "Kimi": "<|im_user|> <|im_middle|> <|im_system|> [BOS] [EOS] [EOT] [start_header_id] ◁think▷ ◁/think▷",
    "GLM": "[gMASK] [sMASK] [MASK] <sop> <eop> <|observation|> <|begin_of_image|> <arg_key> </arg_value>",
    "MiniMax": "]~b] ]~!b[ [e~[ <minimax:tool_call> <beginning_of_sentence> <end_of_sentence>",
    "Seed": "<seed:bos> <seed:eos> <seed:think> </seed:think> <seed:cot_budget_reflect> <seed:tool_call>",
    "Nemotron": "<extra_id_0> <extra_id_1> <SPECIAL_12> <|begin_of_text|>",
    "Yi": "<|startoftext|> <|im_sep|> <|unused012|> <fim_middle>",
    "InternLM": "<|Human|> <|Bot|> <eoh> <eoa> <TOKENS_UNUSED_12> <|action_start|> <|plugin|>",
    "Baichuan": "<reserved_106> <reserved_107> <unk>",
    "Jamba": "<|bom|> <|eom|> <|startoftext|> <|pad|>",
    "StableLM, Zephyr": "<|SYSTEM|> <|USER|> <|ASSISTANT|> <|reg_extra|>",
    "Vicuna, Alpaca": "<s> </s> <unk>",
    "T5": "<extra_id_0> <extra_id_99> <pad>",
    "BERT": "[CLS] [SEP] [PAD] [UNK] [MASK] [unused12]",
    "EXAONE": "[|system|] [|user|] [|assistant|] [|endofturn|] [BOS]",
    "MiniCPM": "<用户> <AI>",
    "Hunyuan": "<｜hy_User｜> <｜hy_begin▁of▁sentence｜> <answer> </answer>",
    "Ling": "<role> </role> <|role_end|>",
    "PaliGemma": "<loc0123> <seg001>",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_markers_of_every_family_are_broken(family):
    for marker in FAMILIES[family].split():
        assert MARKERS.fullmatch(marker), marker
        broken = break_open(f"x{marker}y")
        assert marker not in broken and broken.replace(" ", "") == f"x{marker}y"


@pytest.mark.parametrize(
    "text",
    [
        "a < b, c > d; 1 | 2", "<div class='x'><p>Hi</p></div>", "[1] [x] [note]", "list[int] -> dict[str, int]",
        "x <- f(y) |> g()", "if (a<b || c>d) {}", "<https://example.org>", "a << 2 >> 1", "``` <T> ```", "👩‍💻 <3",
    ],
)  # fmt: skip
def test_ordinary_text_is_left_alone(text):
    assert break_open(text) == text


@given(st.text(alphabet="<>|[]/INSTs ｜_imthk~beunused09\n"))
def test_nothing_is_left_and_no_letter_is_lost(text):
    broken = break_open(text)
    assert not MARKERS.search(broken) and break_open(broken) == broken
    assert broken.replace(" ", "") == text.replace(" ", "")
