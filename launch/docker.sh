#!/usr/bin/env bash
# Run morlaif in its container on this machine's GPUs; runs/ and store/ come to lie in the current folder.
#   launch/docker.sh experiment=quickstart hardware=gpu
set -euo pipefail
exec docker run --rm --interactive --gpus all --ipc host \
  --user "$(id -u):$(id -g)" --volume "$PWD:/work" \
  --env HOME=/work --env HF_HOME --env HF_TOKEN --env OPENAI_API_KEY --env WANDB_API_KEY \
  "${MORLAIF_IMAGE:-morlaif}" "$@"
