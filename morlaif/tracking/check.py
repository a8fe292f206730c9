"""What would keep Weights & Biases from a run's metrics, known without importing it."""

from __future__ import annotations

import importlib.util
import netrc
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from morlaif.tracking.settings import TrackingSettings, WandbTracking

HOST = "https://api.wandb.ai"


def tracking_problems(settings: TrackingSettings) -> Iterator[str]:
    """A line for each; offline needs no key."""
    if not isinstance(settings, WandbTracking):
        return
    if importlib.util.find_spec("wandb") is None:
        yield "tracking=wandb: wandb is not installed; pip install 'morlaif[wandb]', or use tracking=local"
    elif settings.mode == "online" and not _has_key():
        yield (
            "tracking.mode='online': no key for Weights & Biases; set WANDB_API_KEY, or call `wandb login`, or use "
            "tracking=wandb_offline"
        )


def _has_key() -> bool:
    """Where wandb itself looks: its variables, the netrc file, its own settings."""
    if any(os.environ.get(name, "").strip() for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    named = os.environ.get("NETRC")
    for file in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        with suppress(OSError, netrc.NetrcParseError, UnicodeDecodeError):
            known = netrc.netrc(file)
            if known.authenticators(urlsplit(os.environ.get("WANDB_BASE_URL") or HOST).netloc):
                return True
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb").expanduser()
    for file in (folder / "settings", Path("wandb") / "settings"):
        with suppress(OSError, UnicodeDecodeError):
            text = file.read_text()
            if "api_key" in text or "base_url" in text:  # of a server of one's own, whose login has other names
                return True
    return False
