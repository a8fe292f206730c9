"""Which architectures the installed transformers knows, read from its source: importing its auto classes takes seconds,
and torch."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path

CAUSAL = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
MASKED = "MODEL_FOR_MASKED_LM_MAPPING_NAMES"
CLASSIFIER = "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"


@cache
def model_types() -> frozenset[str]:
    """Every `model_type` that a config.json may name without code of its own; empty where the source cannot be read."""
    found = {name for file in ("auto_mappings", "configuration_auto") for name, _ in _literals(file, "CONFIG_MAPPING")}
    return frozenset(found)


@cache
def classes(table: str) -> dict[str, tuple[str, ...]]:
    """Class names by model type, of one of the tables above; empty where the source cannot be read."""
    return {name: (made,) if isinstance(made, str) else tuple(made) for name, made in _literals("modeling_auto", table)}


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
    spec = importlib.util.find_spec("transformers")  # imports nothing
    for folder in spec.submodule_search_locations if spec else ():
        path = Path(folder) / "models" / "auto" / f"{file}.py"
        if path.is_file():
            return ast.parse(path.read_text(encoding="utf-8")).body
    return []
