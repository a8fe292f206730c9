"""The ranks of one unit on one node: accelerate starts and watches them.

    python -m morlaif.launch.node <accelerate.yaml> <arguments of morlaif.launch.rank>

The same as `accelerate launch --config_file <accelerate.yaml> -m morlaif.launch.rank <arguments>`, but that it ends
with its parent, and tells which ranks ended badly as one JSON line on standard output.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import time
import traceback
from pathlib import Path

import yaml

from morlaif.config import Config
from morlaif.launch.processes import die_with_parent


def main(config_file: str, *rank_arguments: str) -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the parent's to handle
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    hardware = Config.model_validate_json(Path(rank_arguments[0]).read_text()).hardware
    wait = math.ceil(hardware.timeouts.start)
    words = ["--config_file", config_file, "--rdzv_conf", f"timeout={wait}"]
    words += ["--module", "morlaif.launch.rank", *rank_arguments]
    try:
        launch_command(launch_command_parser().parse_args(words))
    except ChildFailedError as error:
        failures = [
            {"rank": rank, "exitcode": failure.exitcode, "time": failure.timestamp}
            for rank, failure in error.failures.items()
        ]
        print(json.dumps({"kind": "died", "failures": failures}), flush=True)
        sys.exit(1)
    except SignalException as error:  # this process was asked to end; its ranks are
        death = {"rank": 0, "exitcode": -int(error.sigval), "time": time.time()}
        print(json.dumps({"kind": "died", "failures": [death]}), flush=True)
        sys.exit(1)
    except DistError:  # no rank was started yet
        if hardware.nodes == 1:
            raise
        traceback.print_exc()
        line = (
            f"the {hardware.nodes} nodes did not find one another in {wait} s (hardware.timeouts.start) at "
            f"{meeting_place(config_file)}: every node must run launch/multinode.sh with an address at which all of "
            "them reach node 0"
        )
        print(json.dumps({"kind": "failed", "rank": None, "error": line, "user_error": True, "time": time.time()}))
        sys.exit(1)


def meeting_place(config_file: str) -> str:
    config = yaml.safe_load(Path(config_file).read_text())
    return f"{config['main_process_ip']}:{config['main_process_port']}"


if __name__ == "__main__":
    main(*sys.argv[1:])
