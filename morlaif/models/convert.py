"""Weights that are stored as pickles, written as safetensors beside them: `python -m morlaif.models.convert <folder>`.

Tensors alone are read from the pickles (`weights_only`): whatever code they hold does not run.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

from morlaif.errors import MachineError, UserError, of_system
from morlaif.files import read_json

KINDS = {"pytorch_model": "model", "adapter_model": "adapter_model"}


def convert(folder: Path) -> list[Path]:
    """The files of safetensors that were made of the pickles in `folder`.

    Raises:
        UserError: there is none, or one holds more than tensors by name.
    """
    made: list[Path] = []
    for old, new in KINDS.items():
        shards = sorted(folder.glob(f"{old}*.bin"))
        places: dict[str, str] = {}
        for shard in shards:
            made.append(shard.with_name(f"{shard.stem.replace(old, new, 1)}.safetensors"))
            places |= dict.fromkeys(_convert(shard, made[-1]), made[-1].name)
        index = folder / f"{old}.bin.index.json"
        if len(shards) > 1 or index.is_file():
            about = read_json(index, of=dict).get("metadata", {}) if index.is_file() else {}
            made.append(folder / f"{new}.safetensors.index.json")
            made[-1].write_text(json.dumps({"metadata": about, "weight_map": places}, indent=2, sort_keys=True) + "\n")
    if not made:
        raise UserError(f"{folder}: no {' or '.join(f'{name}*.bin' for name in KINDS)} here; nothing to convert")
    return made


def _convert(source: Path, target: Path) -> list[str]:
    """The names of the tensors that went from `source` to `target`; those that share memory are written apart."""
    import torch
    from safetensors.torch import save_file

    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{source}: holds more than tensors, or is damaged: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{source}: expected tensors by name; save the model with save_pretrained where it was made")
    partial = target.with_name(f".{target.name}.part")
    save_file({name: value.clone().contiguous() for name, value in state.items()}, partial, {"format": "pt"})
    partial.rename(target)
    return list(state)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m morlaif.models.convert <folder>", file=sys.stderr)
        return 2
    try:
        if not Path(arguments[0]).is_dir():
            raise UserError(f"{arguments[0]}: no such folder")
        for file in convert(Path(arguments[0]).expanduser()):
            print(file)
    except OSError as error:
        print(f"morlaif: {(failure := of_system(error, arguments[0]))}", file=sys.stderr)
        return 1 if isinstance(failure, MachineError) else 2
    except UserError as error:
        print(f"morlaif: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
