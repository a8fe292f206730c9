"""Imported by the server that processes of tests are forked from: they compose as quickly (`quick_hydra`)."""

import plugged
from composed import in_full
from quick_hydra import installed

from morlaif.presets import preset

_kept = installed()
_kept.__enter__()
in_full(hydra=True)  # parses what most compositions read
preset("ppo", "toy")
plugged.forget()  # a process may have other packages than the server
