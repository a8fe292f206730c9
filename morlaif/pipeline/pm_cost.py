"""What a finished run's preference models are made of and took: for a comparison of sizes of their base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from morlaif.errors import Damaged
from morlaif.files import read_json
from morlaif.memory.dimensions import of_path
from morlaif.units.integrity import MANIFEST, read_manifest

BYTES = 4  # of a parameter: float32, in which adapters and heads are kept
_WEIGHTS = "*.safetensors"


def pm_cost(folders: Sequence[Path], backbones: Sequence[Path] = ()) -> Mapping[str, Any] | None:
    """Of the models in `folders` (artifacts of `pm`, on one base): the base's parameters, the bytes of all weights that
    scoring holds, and the seconds of their units together, those of the `backbones` that they are views of among them;
    None where a base is not known on this machine any more.

    Adapters are counted beside one base, whole models by themselves.

    Raises:
        Damaged: a model's report cannot be read.
    """
    reports = [
        read_json(folder / "pm.json", "the report of a preference model", of=dict, failure=Damaged)
        for folder in folders
    ]
    bases = {report["base"].get("path") for report in reports}
    base = of_path(bases.pop()) if len(bases) == 1 and None not in bases else None
    if base is None:
        return None
    own: dict[tuple[Any, ...], int] = {}
    for folder, report in zip(folders, reports, strict=True):
        for file in sorted((folder / "model").rglob(_WEIGHTS)):
            # views of one network are the same file, once
            key = (report["adapter"], file.name) if len(report["together"]) > 1 else (folder, file.name)
            own[key] = file.stat().st_size
    shared = 0 if all(report["kind"] == "full" for report in reports) else BYTES * base.parameters
    return {
        "base_parameters": base.parameters,
        "bytes": shared + sum(own.values()),
        "seconds": sum(float(read_manifest(folder)["seconds"]) for folder in (*folders, *backbones)),
        "models": len(folders),
    }


def with_bases_named(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs, `{config, pm}` of each, with a base that is a folder told by its name, and one that is of a unit, whose
    name is a digest, by its size; as they are where that would be one name for two bases."""
    names = {}
    for run in runs:
        base, known = run["config"].get("pm.base"), run.get("pm")
        if known is not None and isinstance(base, str) and (folder := Path(base)).is_absolute():
            of_unit = (folder.parent / MANIFEST).is_file()
            names[base] = f"of {known['base_parameters'] / 1e6:.3g} M parameters" if of_unit else folder.name
    shown = [names.get(base, base) for base in {run["config"].get("pm.base") for run in runs}]
    if len(set(shown)) < len(shown):
        return list(runs)
    return [
        run | {"config": run["config"] | {"pm.base": names[base]}}
        if (base := run["config"].get("pm.base")) in names else run
        for run in runs
    ]  # fmt: skip
