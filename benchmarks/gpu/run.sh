#!/usr/bin/env bash
# What a GPU machine runs in one call: does all work here, and how fast.
#
#   benchmarks/gpu/run.sh [smoke|figures|all] [out folder]
#
# Without a GPU the same starts on the CPU with a tiny model. WHEELS=<folder> installs its wheels first, beside what the
# machine's Python has, where that has no network; PYTHON=<python> is the one to use. Leaves logs and JSON lines in the
# out folder (default: gpu-results), and tables in its table.md. CHECKS="killed ranks" and SHAPES="0.5b" choose.
set -uo pipefail
what=${1:-all}
case $what in smoke | figures | all) ;; *) sed -n 2,9p "$0"; exit 2 ;; esac
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
out=$(realpath -m "${2:-gpu-results}")
python=${PYTHON:-python3}
mkdir -p "$out"
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
site=${SITE:-$(mktemp -d)}
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
if [ -n "${WHEELS:-}" ]; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$WHEELS"/*.whl || exit 1
fi
if ! (cd / && "$python" -c "import morlaif.conf") 2>/dev/null; then  # not installed: put together as the wheel has it
  cp -r "$root/morlaif" "$site/" && cp -r "$root/conf" "$root/sweeps" "$site/morlaif/" || exit 1
fi
gpu=$(cd / && "$python" -c "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')")
echo "device: ${gpu:-none, a CPU}"
status=0
if [ "$what" != figures ]; then
  "$python" "$root/benchmarks/gpu/smoke.py" "$out" ${CHECKS:+--only $CHECKS} || status=1
fi
if [ "$what" != smoke ]; then
  for shape in ${SHAPES:-$([ -n "$gpu" ] && echo 0.5b 1.5b || echo tiny)}; do
    "$python" "$root/benchmarks/gpu/figures.py" "$out" --shape "$shape" >"$out/figures-$shape.log" 2>&1 || status=1
  done
fi
"$python" "$root/benchmarks/gpu/table.py" "$out" | tee "$out/table.md"
exit $status
