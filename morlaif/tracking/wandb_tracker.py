"""Weights & Biases beside the local rows. Whatever goes wrong in it is warned of once and ends nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from morlaif.errors import UserError
from morlaif.files import read_json
from morlaif.texts import redact
from morlaif.tracking.local import METRICS, Tracker
from morlaif.tracking.settings import WandbTracking
from morlaif.tracking.values import filterable, flatten, goal, spread

SENT = "wandb-sent.json"  # {unit: last step sent}: a command that is given again sends nothing twice
GROUPS = "wandb-groups.json"  # every sweep that has had the run
SUMMARISED = ("reward", "kl", "length")  # of a curve: its last value is a column of the table of runs


class WandbTracker:
    """One wandb run for one morlaif run: metrics as `<unit>/<metric>` against `<stage>/step`, results as summary.

    All arms have one axis, and so have all preference models: one chart can show them. What PPO's single updates showed
    lies between two steps (`morlaif.tracking.values.spread`).

    The summary has the numbers that runs are compared by, and all others under `details`; of curves, few have their
    last value there. The config says which way a metric is better (`goals`), and which sweeps have the run (`sweeps`):
    wandb gives a run one group, which stays that of the first.

    Whatever goes wrong in wandb (package missing, no login, no network, a crash of its service) is reported once
    through `warn`; from then on the run goes on with the local rows alone.
    """

    def __init__(
        self,
        local: Tracker,
        settings: WandbTracking,
        folder: Path,
        facts: Mapping[str, Any],
        config: Mapping[str, Any],
        warn: Callable[[str], None],
        sweep: str,
    ) -> None:
        self._local, self._folder, self._warn = local, folder, warn
        self._run: Any = None  # wandb's; None: it has not started, or has stopped
        self._defined: set[str] = set()
        self._goals: dict[str, str] = {}
        self._sent: dict[str, int] = _read(folder / SENT)
        facts, config = _in_all_sweeps(folder / GROUPS, settings, facts, config, sweep)
        self._try(lambda: setattr(self, "_run", _start(settings, folder, facts, config)), starting=True)

    def log(self, stage: str, unit: str, step: int, metrics: Mapping[str, float]) -> None:
        self._local.log(stage, unit, step, metrics)
        self._try(lambda: self._log(unit, step, metrics))

    def _log(self, unit: str, step: int, metrics: Mapping[str, float]) -> None:
        if step <= self._sent.get(unit, -1):
            return
        flat, updates, histograms = spread(metrics)
        for place, row in enumerate(updates, 1):  # an update in the middle of a step lies in the middle of the axis
            self._point(unit, step - 1 + place / len(updates), row)
        if histograms:
            from wandb import Histogram

            flat |= {name: Histogram(np_histogram=(h["counts"], h["edges"])) for name, h in histograms.items()}
        self._point(unit, step, flat)
        self._sent[unit] = step
        (self._folder / SENT).write_text(json.dumps(self._sent))

    def _point(self, unit: str, step: float, metrics: Mapping[str, Any]) -> None:
        named = {f"{unit}/{name}": value for name, value in metrics.items()}
        axis = f"{unit.partition('/')[0]}/step"
        for name in [name for name in named if name not in self._defined]:
            self._define(unit, name, axis)
        self._run.log({axis: step} | named)

    def _define(self, unit: str, name: str, axis: str) -> None:
        if axis not in self._defined:
            self._run.define_metric(axis, hidden=True, summary="none")
            self._defined.add(axis)
        own = name.removeprefix(f"{unit}/")
        better = goal(own)
        self._run.define_metric(name, step_metric=axis, summary="last" if own in SUMMARISED else "none")
        if better:
            self._goals[name] = better
            self._run.config.update({"goals": dict(self._goals)}, allow_val_change=True)
        self._defined.add(name)

    def summary(self, values: Mapping[str, Any], details: Mapping[str, Any] | None = None) -> None:
        self._local.summary(values, details)
        told = flatten(redact(values)) | ({"details": redact(details)} if details else {})
        self._try(lambda: self._run.summary.update(told))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._local.table(name, columns, rows)

        def send() -> None:
            import wandb

            data = [redact(list(row)) for row in rows]
            self._run.log({name: wandb.Table(columns=list(columns), data=data, allow_mixed_types=True)})

        self._try(send)

    def images(self, files: Mapping[str, Path]) -> None:
        self._local.images(files)

        def send() -> None:
            import wandb

            self._run.log({f"figures/{name}": wandb.Image(str(path)) for name, path in files.items()})

        self._try(send)

    def artifact(self, name: str, kind: str, folder: Path, about: Mapping[str, Any]) -> None:
        self._local.artifact(name, kind, folder, about)

        def send() -> None:
            import wandb

            made = wandb.Artifact(name, type=kind, metadata=redact(dict(about)))
            made.add_reference(folder.absolute().as_uri(), name="folder", checksum=False)  # a model may be large
            self._run.log_artifact(made)

        self._try(send)

    def close(self, failed: bool = False) -> None:
        self._local.close(failed)
        self._try(lambda: self._run.finish(exit_code=int(failed)))
        self._run = None

    def _try(self, action: Callable[[], None], *, starting: bool = False) -> None:
        if self._run is None and not starting:
            return
        try:
            action()
        except (Exception, SystemExit) as error:  # whatever a tracker throws must not reach the run
            self._run = None
            reason = redact((str(error).strip() or type(error).__name__).splitlines()[0])
            self._warn(f"wandb stopped ({reason}); the run goes on, metrics stay in {METRICS}")


def _start(settings: WandbTracking, folder: Path, facts: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    try:
        import wandb
    except ImportError:
        raise RuntimeError("not installed: pip install 'morlaif[wandb]', or tracking=local") from None
    options: dict[str, Any] = {
        "silent": True,
        "console": "off",
        "x_disable_stats": True,
        "disable_git": True,
        "disable_code": True,
    }
    return wandb.init(
        mode=settings.mode,
        dir=str(folder),
        project=settings.project,
        entity=settings.entity,
        resume="allow",
        config=filterable(redact(config)),
        settings=wandb.Settings(**options),
        **facts,
    )


def _in_all_sweeps(
    file: Path, settings: WandbTracking, facts: Mapping[str, Any], config: Mapping[str, Any], sweep: str
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The facts with the group of the first sweep that had the run, the config with all of them."""
    groups = list(dict.fromkeys([*_read(file), sweep]))
    file.write_text(json.dumps(dict.fromkeys(groups, True)))
    return {**facts, "group": settings.group or groups[0]}, {**config, "sweeps": groups}


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, of=dict)
    except UserError:
        return {}
