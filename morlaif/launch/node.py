"""The ranks of one unit on one node: accelerate starts and watches them.

    python -m morlaif.launch.node <accelerate.yaml> <arguments of morlaif.launch.rank>

The same as `accelerate launch --config_file <accelerate.yaml> -m morlaif.launch.rank <arguments>`, but that it ends
with its parent, and tells which ranks ended badly as one JSON line on standard output.
"""

from __future__ import annotations

import json
import signal
import sys

from morlaif.launch.processes import die_with_parent


def main(config_file: str, *rank_arguments: str) -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the parent's to handle
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    words = ["--config_file", config_file, "--module", "morlaif.launch.rank", *rank_arguments]
    try:
        launch_command(launch_command_parser().parse_args(words))
    except ChildFailedError as error:
        failures = [
            {"rank": rank, "exitcode": failure.exitcode, "time": failure.timestamp}
            for rank, failure in error.failures.items()
        ]
        print(json.dumps({"kind": "died", "failures": failures}), flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
