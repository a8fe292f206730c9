"""The strings by which models tell turns, thoughts and tools apart, and how text that spells one is made harmless.

`MARKERS` serves where nobody knows the tokenizer: a model behind a server. It follows the shapes that families of
models share, and names what has no shape of its own. Where a tokenizer is at hand, see `morlaif.data.control`.
"""

from __future__ import annotations

import re

_BAR = "[|｜]"
_NAMES = (  # between < and >, or </ and >; what has an underscore in it is caught by its shape
    "bos|eos|pad|unk|mask|cls|sep|sop|eop|eod|eot|eoh|eoa|eom|bom|eosys|pre|suf|mid|ai|用户|"
    "think|thinking|answer|tools?|function|image|ref|box|quad|human|user|bot|assistant|system|role|"
    r"filename|reponame|gmask|global-img|mask:\d+|loc\d+|seg\d+|unused\d+|reserved\d+|special\d*|madeupword\d+|"
    "(?:seed|minimax|longcat|tool|turn|channel|begin|end)[:▁][^<>\\s]{1,48}"
)
_BRACKETED = (  # between [ and ], or [/ and ]
    "INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS?|TOOL_RESULTS?|TOOL_CONTENT|CALL_ID|ARGS|MODEL_SETTINGS|THINK|"
    "IMG|IMG_BREAK|IMG_END|AUDIO|BEGIN_AUDIO|TRANSCRIBE|PREFIX|MIDDLE|SUFFIX|REFERENCE_DOC_\\d+|multimodal|"
    "CLS|SEP|PAD|UNK|MASK|BOS|EOS|EOT|EOH|EOD|gMASK|sMASK|start_header_id|end_header_id|unused_?\\d+"
)
_CONTROL = (
    rf"<{_BAR}[^<>\n]{{0,64}}{_BAR}>|</?{_BAR}[^<>\s]{{1,64}}>|<[^<>\s]{{1,64}}{_BAR}>"  # <|im_end|>, <|turn>, <turn|>
    rf"|</?(?:{_NAMES})>"
    r"|</?[a-z]+(?:_[a-z0-9]+)+>"  # <start_of_turn>, <extra_id_0>, <end_of_utterance>, <BOS_TOKEN>, <SPECIAL_12>
    rf"|\[/?(?:{_BRACKETED})\]"
    rf"|\[{_BAR}[^\[\]\n]{{1,64}}{_BAR}\]"  # [|endofturn|]
    r"|<</?SYS>>"
    r"|\]~!?b[\[\]]|\[e~\["  # MiniMax
    r"|◁/?[a-z_]{1,32}▷"  # Kimi
    r"|>>[A-Z_]{2,32}<<"  # Falcon
    r"|\|\|\|[A-Z_]{2,32}\|\|\|"  # OLMo
)
CONTROL = re.compile(_CONTROL, re.IGNORECASE)
MARKERS = re.compile(rf"</?(?:s|img|audio|video)>|{_CONTROL}", re.IGNORECASE)  # with those that are HTML as well


def break_open(text: str, pattern: re.Pattern[str] = MARKERS) -> str:
    """`text` with a blank after the first and before the last character of whatever matches; its words stay."""
    while (broken := pattern.sub(_apart, text)) != text:
        text = broken
    return text


def _apart(found: re.Match[str]) -> str:
    marker = found[0]
    return " ".join(filter(None, (marker[0], marker[1:-1], marker[-1] if len(marker) > 1 else "")))
