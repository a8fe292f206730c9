"""Where the metrics of a run go: JSON lines in the run folder always, Weights & Biases beside them on demand."""

from morlaif.tracking.local import METRICS, TRACKED, LocalTracker, Tracker
from morlaif.tracking.open import open_tracker
from morlaif.tracking.values import flatten, goal

__all__ = ["METRICS", "TRACKED", "LocalTracker", "Tracker", "flatten", "goal", "open_tracker"]
