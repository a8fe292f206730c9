"""Which architectures the installed transformers knows, read from its source: importing its auto classes takes seconds,
and torch."""

from __future__ import annotations

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path

CAUSAL = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
MASKED = "MODEL_FOR_MASKED_LM_MAPPING_NAMES"
CLASSIFIER = "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"
_BASES = ("PreTrainedTokenizer", "TokenizersBackend", "SentencePieceBackend", "PythonBackend")


@cache
def model_types() -> frozenset[str]:
    """Every `model_type` that a config.json may name without code of its own; empty where the source cannot be read."""
    found = {name for file in ("auto_mappings", "configuration_auto") for name, _ in _literals(file, "CONFIG_MAPPING")}
    return frozenset(found)


@cache
def classes(table: str) -> dict[str, tuple[str, ...]]:
    """Class names by model type, of one of the tables above; empty where the source cannot be read."""
    return {name: (made,) if isinstance(made, str) else tuple(made) for name, made in _literals("modeling_auto", table)}


@cache
def quantizations() -> frozenset[str]:
    """Every `quant_method` that transformers knows; empty where the source cannot be read."""
    text = _text("utils/quantization_config.py")
    listed = re.search(r"class QuantizationMethod\(str, Enum\):\n((?: +\w+ = .*\n)+)", text)
    return frozenset(re.findall(r'= "([^"]+)"', listed[1])) if listed else frozenset()


@cache
def knows_tokenizer(name: str) -> bool:
    """Whether transformers has a tokenizer class of this name, fast or slow; True where the source cannot be read."""
    plain = re.escape(name.removesuffix("Fast"))
    text = _text("models/auto/tokenization_auto.py")
    if not text or plain in _BASES or re.search(rf'"{plain}(Fast)?"', text):
        return True
    made = re.compile(rf"^(class )?{plain}(Fast)?\b", re.MULTILINE)  # some have no model of their own
    return any(made.search(file.read_text(encoding="utf-8")) for file in _folder().glob("models/*/tokenization_*.py"))


@cache
def recurrent(model_type: str) -> bool:
    """Whether layers of this type carry a state from token to token, which no mask undoes."""
    return "_is_stateful = True" in _modeling(model_type)


@cache
def slopes(model_type: str) -> bool:
    """Whether its attention may weigh by distance in places (ALiBi) rather than by positions that can be given."""
    return "alibi_tensor(" in _modeling(model_type)


def _modeling(model_type: str) -> str:
    name = model_type.replace("-", "_")
    names = dict.fromkeys((name, name.removesuffix("_text")))
    return next(filter(None, (_text(f"models/{one}/modeling_{one}.py") for one in names)), "")


def _literals(file: str, table: str) -> list[tuple[str, str | tuple[str, ...]]]:
    """The pairs that are written out in assignments to, and updates of, names that begin with `table`."""
    found: list[tuple[str, str | tuple[str, ...]]] = []
    for node in _source(file):
        call = node.value if isinstance(node, ast.Assign | ast.AnnAssign | ast.Expr) else None
        if not isinstance(call, ast.Call):
            continue
        target = getattr(node, "target", None) or (node.targets[0] if isinstance(node, ast.Assign) else call.func)
        name = target.value if isinstance(target, ast.Attribute) else target
        if not (isinstance(name, ast.Name) and name.id.startswith(table)):
            continue
        found += [(str(word.arg), "") for word in call.keywords if word.arg]
        for part in (*call.args, *(word.value for word in call.keywords if word.arg is None)):
            try:
                value = ast.literal_eval(part)
            except ValueError:
                continue
            found += value.items() if isinstance(value, dict) else value
    return found


@cache
def _source(file: str) -> list[ast.stmt]:
    return ast.parse(_text(f"models/auto/{file}.py")).body


def _text(file: str) -> str:
    """The source of transformers' `file`; empty where there is none."""
    path = _folder() / file
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _folder() -> Path:
    spec = importlib.util.find_spec("transformers")  # imports nothing
    return Path(next(iter(spec.submodule_search_locations or ()), "")) if spec else Path("/nowhere")
