"""Whether a tokenizer and a model's table of embeddings belong together: no torch."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from morlaif.errors import UserError
from morlaif.files import read_json

SMALL = 4 << 20  # bytes of a JSON file that is read whole before a run; what others hold is seen when they are loaded
_ANY = 1 << 62


def vocabulary_fault(ids: Iterable[tuple[str, int]], rows: int, unread: Collection[str]) -> str | None:
    """Why a tokenizer of these tokens is not that of a model with `rows` rows of embeddings; None: it may be.

    A model may have more rows than tokens. Without a row may be only tokens that are never read, `unread`, right after
    the last row: the one that pads, and special ones of no use here (of images, say, in a model of text).
    """
    by_id: dict[int, str] = {}
    over: dict[int, str] = {}
    for token, i in ids:
        if (other := by_id.setdefault(i, token)) != token:
            return f"its tokenizer has two tokens of the id {i}, {other!r} and {token!r}"
        if i >= rows:
            over[i] = token
    if not over or (set(unread).issuperset(over.values()) and max(over) < rows + len(over)):
        return None
    names = ", ".join(repr(over[i]) for i in sorted(over)[:3]) + (", …" if len(over) > 3 else "")
    return (
        f"{len(over):,} of its tokenizer's {len(by_id):,} tokens have no row of embeddings ({names}, ids up to "
        f"{max(over):,}; the model has {rows:,} rows); tokenizer and weights belong to different models"
    )


def file_problems(folder: Path, rows: int | None, loaded: Mapping[str, int] | None = None) -> Iterator[str]:
    """What the tokenizer's files in `folder` say of the same, as far as they are small; parts of sentences.

    Args:
        rows: of embeddings; None: not known.
        loaded: the ids that the tokens have got when the tokenizer was loaded.
    """
    try:
        settings = _settings(folder)
        tokens, added, special, whole = _tokens(folder, settings)
    except (UserError, OSError):  # the check of the files reports it
        return
    except (TypeError, AttributeError, KeyError, ValueError, IndexError):
        yield "its tokenizer.json is none; expected model, vocab and added_tokens as the tokenizers library writes them"
        return
    read = {_text(settings.get(name)) for name in ("eos_token", "bos_token", "unk_token")}
    pad = _text(settings.get("pad_token"))
    unread = (special | ({pad} if pad is not None else set())) - read
    fault = vocabulary_fault([*tokens.items(), *added], _ANY if rows is None else rows, unread)
    if fault is not None:
        yield fault
        return
    for token, i in added if whole else ():
        if loaded is not None and (got := loaded.get(token, i)) != i:
            yield f"its tokenizer.json gives {token!r} the id {i}, which cannot be: it comes out as {got}"
            return
    known = {*tokens, *(token for token, _ in added)}
    eos = _text(settings.get("eos_token"))
    file = folder / "tokenizer.json"
    if eos is not None and eos not in known and file.is_file() and (whole or not _spelled(file, eos)):
        yield f"its eos_token {eos!r} is no token of its tokenizer.json; no response would ever end with it"


def _settings(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            found |= read_json(folder / name, of=dict)
    return found


def _tokens(folder: Path, settings: dict[str, Any]) -> tuple[dict[str, int], list[tuple[str, int]], set[str], bool]:
    """Tokens of the vocabulary; those that were added; the special ones; and whether these are all."""
    made = [{**token, "id": int(i)} for i, token in (settings.get("added_tokens_decoder") or {}).items()]
    if (folder / "added_tokens.json").is_file():
        made += [{"content": token, "id": i} for token, i in read_json(folder / "added_tokens.json", of=dict).items()]
    file = folder / "tokenizer.json"
    vocabulary: Any = {}
    if file.is_file() and file.stat().st_size <= SMALL:
        value = read_json(file, of=dict)
        vocabulary = (value.get("model") or {}).get("vocab") or {}
        if isinstance(vocabulary, list):  # of a unigram model: pairs of token and score
            vocabulary = {pair[0]: i for i, pair in enumerate(vocabulary)}
        made += value.get("added_tokens") or []
    added = {(token["content"], token["id"]) for token in made}
    if not all(isinstance(i, int) for i in (*vocabulary.values(), *(i for _, i in added))):
        raise TypeError
    special = {token["content"] for token in made if token.get("special") is True}
    return vocabulary, sorted(added, key=lambda item: item[1]), special, bool(vocabulary)


def _text(token: Any) -> str | None:
    """Special tokens are texts, or objects with a content."""
    found = token.get("content") if isinstance(token, Mapping) else token
    return found if isinstance(found, str) else None


def _spelled(file: Path, token: str) -> bool:
    raw = file.read_bytes()
    return any(json.dumps(token, ensure_ascii=ascii).encode() in raw for ascii in (True, False))
