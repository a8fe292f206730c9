#!/usr/bin/env bash
# One morlaif run over several nodes: start it on each of them, with the same command and a folder that all of them see.
#   launch/multinode.sh <this node's number, from 0> <address of node 0> <shared folder> experiment=... hardware=multinode_zero3
# Node 0 runs morlaif; the others start their ranks whenever it says so, and end with it. The store and the runs must lie
# on a file system that all nodes share, too.
set -euo pipefail
if (($# < 3)) || ! [[ $1 =~ ^[0-9]+$ ]]; then
  echo "usage: launch/multinode.sh <node number> <address of node 0> <shared folder> [overrides]" >&2
  exit 2
fi
node=$1
export MORLAIF_ADDRESS=$2 MORLAIF_RENDEZVOUS=$3
shift 3
python=${MORLAIF_PYTHON:-.venv/bin/python}
mkdir -p "$MORLAIF_RENDEZVOUS"
if ((node > 0)); then
  # Not `exec`-ed away from its signals: what it started ends with it.
  exec "$python" -m morlaif.launch.rendezvous "$node"
fi
if [[ -n $(ls -A "$MORLAIF_RENDEZVOUS") ]]; then
  echo "launch/multinode.sh: $MORLAIF_RENDEZVOUS is not empty; give each run a folder of its own" >&2
  exit 2
fi
trap 'touch "$MORLAIF_RENDEZVOUS/end"' EXIT
"$python" -m morlaif "$@" &
run=$!
trap 'kill -TERM "$run"' TERM INT
# A signal ends the first `wait`; the second one waits for the run to have ended.
code=0
wait "$run" || code=$?
if kill -0 "$run" 2>/dev/null; then
  code=0
  wait "$run" || code=$?
fi
exit "$code"
