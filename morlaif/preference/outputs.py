"""Which of a classifier's scores is the reward, where it gives several: one for each attribute (HelpSteer, ArmoRM).

Needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from morlaif.errors import UserError, suggest
from morlaif.files import read_json

Output = int | str  # a column of the scores, by its place or by its name in the config's id2label
_UNNAMED = re.compile(r"LABEL_\d+")
_SHOWN = 30  # names that an error lists


def choose(where: str, wanted: Output | None, count: int, id2label: Mapping[Any, Any] | None = None) -> int:
    """The place of the score that `wanted` means among `count`.

    Raises:
        UserError: it means none, or there are several and none is wanted: the line lists them.
    """
    names = {int(i): str(name) for i, name in (id2label or {}).items() if not _UNNAMED.fullmatch(str(name))}
    names = {i: name for i, name in names.items() if i < count}
    listed = ", ".join(f"{i} {names[i]}" if i in names else str(i) for i in range(min(count, _SHOWN)))
    listed += ", …" if count > _SHOWN else ""
    if wanted is None:
        if count == 1:
            return 0
        raise UserError(
            f"{where}: gives {count} scores ({listed}); say which one is the reward: pm.output=<name or index>, or "
            "pm.output={principle: name or index}"
        )
    if isinstance(wanted, int):
        if 0 <= wanted < count:
            return wanted
    else:
        found = [i for i, name in names.items() if name == wanted]
        found = found or [i for i, name in names.items() if name.casefold() == wanted.casefold()]
        if len(found) == 1:
            return found[0]
    hint = suggest(wanted, names.values()) if isinstance(wanted, str) else ""
    raise UserError(f"{where}: pm.output={wanted}: there is no such score; its scores: {listed}.{hint}")


def output_problem(where: str, path: str, wanted: Output | None) -> str | None:
    """The line of `choose` for a folder's config.json; None where it says nothing of its scores, or all is well."""
    try:
        config = read_json(Path(path).expanduser() / "config.json", of=dict)
    except UserError:  # the check of the folder reports it
        return None
    labels = config.get("id2label")
    labels = labels if isinstance(labels, dict) and all(str(i).isdigit() for i in labels) else {}
    count = config.get("num_labels", len(labels) or 2)
    own = config.get("auto_map")  # a class that comes with the model: its config may tell of scores that it sums up
    remote = isinstance(own, dict) and "AutoModelForSequenceClassification" in own
    if not isinstance(count, int) or count < 1 or remote:
        return None
    try:
        choose(where, wanted, count, labels)
    except UserError as error:
        return str(error)
    return None
