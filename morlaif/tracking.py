"""Where the metrics of a run go: JSON lines in the run folder always, Weights & Biases beside them on demand."""

from __future__ import annotations

import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from morlaif.tracking_settings import TrackingSettings, WandbTracking

METRICS = "metrics.jsonl"
_SECRET = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)(_|$)", re.IGNORECASE)


class Tracker(Protocol):
    """Receives what a run measures. No method raises because of the tracker itself: a run outlives its bookkeeping."""

    def log(self, stage: str, unit: str, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of one step of one unit."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """The run's headline numbers, nested."""

    def samples(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table of sample responses."""

    def images(self, files: Mapping[str, Path]) -> None:
        """Figures, by name."""

    def close(self, failed: bool = False) -> None:
        """Write what is left; nothing may follow."""


class LocalTracker:
    """Rows {time, stage, unit, step, metrics} appended to one file, each flushed: a killed run keeps its curve.

    Results, samples and figures already lie in the run folder and in the store as files, so only metrics are written.
    """

    def __init__(self, file: Path) -> None:
        self._stream = file.open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def log(self, stage: str, unit: str, step: int, metrics: Mapping[str, float]) -> None:
        numbers = {name: _number(value) for name, value in metrics.items()}
        row = {"time": round(time.time(), 3), "stage": stage, "unit": unit, "step": step, "metrics": numbers}
        with self._lock:
            self._stream.write(json.dumps(row) + "\n")
            self._stream.flush()

    def summary(self, values: Mapping[str, Any]) -> None: ...

    def samples(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None: ...

    def images(self, files: Mapping[str, Path]) -> None: ...

    def close(self, failed: bool = False) -> None:
        self._stream.close()


class WandbTracker:
    """One wandb run for one morlaif run: metrics as `<unit>/<metric>` against `<unit>/step`, results as summary.

    Whatever goes wrong in wandb (package missing, no login, no network, a crash of its service) is said once through
    `warn`; from then on the run goes on with the local rows alone.
    """

    def __init__(self, local: Tracker, start: Callable[[], Any], warn: Callable[[str], None]) -> None:
        self._local, self._warn, self._run = local, warn, None
        self._units: set[str] = set()
        self._try(lambda: setattr(self, "_run", start()), starting=True)

    def log(self, stage: str, unit: str, step: int, metrics: Mapping[str, float]) -> None:
        self._local.log(stage, unit, step, metrics)
        self._try(lambda: self._log(unit, step, metrics))

    def _log(self, unit: str, step: int, metrics: Mapping[str, float]) -> None:
        if unit not in self._units:
            self._units.add(unit)
            self._run.define_metric(f"{unit}/step", hidden=True)
            self._run.define_metric(f"{unit}/*", step_metric=f"{unit}/step")
        self._run.log({f"{unit}/step": step} | {f"{unit}/{name}": value for name, value in metrics.items()})

    def summary(self, values: Mapping[str, Any]) -> None:
        self._local.summary(values)
        self._try(lambda: self._run.summary.update(flatten(redact(values))))

    def samples(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._local.samples(name, columns, rows)

        def send() -> None:
            import wandb

            self._run.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

        self._try(send)

    def images(self, files: Mapping[str, Path]) -> None:
        self._local.images(files)

        def send() -> None:
            import wandb

            self._run.log({f"figures/{name}": wandb.Image(str(path)) for name, path in files.items()})

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
        except Exception as error:  # whatever a tracker throws must not reach the run
            self._run = None
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._warn(f"wandb stopped ({reason}); the run goes on, metrics stay in {METRICS}")


def open_tracker(
    settings: TrackingSettings,
    folder: Path,
    *,
    name: str,
    group: str,
    run_id: str,
    tags: Sequence[str],
    config: Mapping[str, Any],
    warn: Callable[[str], None],
) -> Tracker:
    """The tracker of a run whose folder is `folder`.

    `group` is used where the settings give none; `run_id` lets a resumed run continue the same wandb run; `config` is
    the resolved config as nested dicts; `warn` receives at most one line about a tracker that failed.
    """
    local = LocalTracker(folder / METRICS)
    if not isinstance(settings, WandbTracking):
        return local
    return WandbTracker(local, lambda: _start(settings, folder, name, group, run_id, tags, config), warn)


def _start(
    settings: WandbTracking,
    folder: Path,
    name: str,
    group: str,
    run_id: str,
    tags: Sequence[str],
    config: Mapping[str, Any],
) -> Any:
    try:
        import wandb
    except ImportError:
        raise RuntimeError("not installed: pip install 'morlaif[wandb]', or tracking=local") from None
    return wandb.init(
        mode=settings.mode,
        dir=str(folder),
        project=settings.project,
        entity=settings.entity,
        group=settings.group or group,
        job_type=settings.job_type,
        tags=sorted({tag[:64] for tag in (*tags, *settings.tags) if tag}),
        name=name,
        id=run_id,
        resume="allow",
        config=redact(config),
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True, disable_code=True),
    )


def redact(value: Any, secrets: Sequence[str] | None = None) -> Any:
    """A copy of nested dicts and lists in which the value of every secret environment variable reads ***.

    Secret by name: KEY, TOKEN, SECRET, PASSWORD, CREDENTIAL as a part of it. Lists of dicts that have names become
    dicts by name, which wandb can filter by; tuples become lists.
    """
    if secrets is None:
        secrets = [text for name, text in os.environ.items() if _SECRET.search(name) and len(text) >= 8]
    if isinstance(value, Mapping):
        return {str(key): redact(item, secrets) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(item, Mapping) and "name" in item for item in value):
            return {str(item["name"]): redact(item, secrets) for item in value}
        return [redact(item, secrets) for item in value]
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
    return value


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; None is left out, since a summary is made of numbers."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat |= flatten(value, path)
        elif value is not None:
            flat[path] = value
    return flat


def _number(value: Any) -> float | int | str | None:
    """JSON has no NaN: null. Tensors and numpy scalars give their number."""
    with suppress(AttributeError):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
