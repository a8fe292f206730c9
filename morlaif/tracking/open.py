"""Opening the tracker that a config asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from morlaif.texts import redact, visible
from morlaif.tracking.local import LocalTracker, Tracker
from morlaif.tracking.settings import TrackingSettings, WandbTracking
from morlaif.tracking.wandb_tracker import WandbTracker


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
    job_type: str | None = None,
) -> Tracker:
    """The tracker of a run whose folder is `folder`.

    `group` is used where the settings give none; `run_id` lets a resumed run continue the same wandb run; `config` is
    the resolved config as nested dicts; `warn` receives at most one line about a tracker that failed; `job_type`
    replaces the settings' own.
    """
    local = LocalTracker(folder)
    kind, chosen = job_type or "run", group
    if isinstance(settings, WandbTracking):
        kind, chosen = job_type or settings.job_type, settings.group or group
        tags = sorted({visible(tag)[:64] for tag in (*tags, *settings.tags) if tag})
    facts = {"name": name, "id": run_id, "group": chosen, "job_type": kind, "tags": list(tags)}
    facts = redact(facts)
    local.begin(facts | {"config": config})
    if not isinstance(settings, WandbTracking):
        return local
    return WandbTracker(local, settings, folder, facts, config, warn, sweep=group)
