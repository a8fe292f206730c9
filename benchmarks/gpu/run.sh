#!/usr/bin/env bash
# What a GPU machine runs in one call: does all work here, and how fast. At most nine minutes (SECONDS_IN_ALL=540).
#
#   benchmarks/gpu/run.sh [smoke|figures|sample|all] [out folder]
#
# Without a GPU the same starts on the CPU with a tiny model. WHEELS=<folder> (pack.sh fills one) installs its wheels first,
# beside what the machine's Python has, where that has no network; PYTHON=<python> is the one to use. Leaves logs and JSON
# lines in the out folder (default: gpu-results), and tables in its table.md; with PAGE=benchmarks/gpu.md they go there too.
# CHECKS="killed-ppo ranks", SHAPES="0.5b" and POLICIES="lora" choose, and FIGURES_SECONDS=200 how much of the time `all`
# keeps for figures. COMMIT names what runs, where git does not know.
set -uo pipefail
what=${1:-all}
case $what in smoke | figures | sample | all) ;; *) sed -n 2,10p "$0"; exit 2 ;; esac
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
out=$(realpath -m "${2:-gpu-results}")
python=$(command -v "${PYTHON:-python3}") || { echo "no ${PYTHON:-python3}"; exit 2; }
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
mkdir -p "$out" && rm -f "$out"/{smoke,figures}.jsonl
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
site=${SITE:-$(mktemp -d)}
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
end=$(($(date +%s) + ${SECONDS_IN_ALL:-540}))
left() { # seconds until the end, less those that are kept for what comes after: left 120
  local rest=$((end - $(date +%s) - $1))
  echo $((rest > 1 ? rest : 1))
}
if [ -n "${WHEELS:-}" ]; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$WHEELS"/*.whl || exit 1
fi
if ! (cd / && "$python" -c "import morlaif.conf") 2>/dev/null; then  # not installed: put together as the wheel has it
  cp -r "$root/morlaif" "$site/" && cp -r "$root/conf" "$root/sweeps" "$site/morlaif/" || exit 1
fi
gpu=$(cd / && "$python" -c "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')") || exit 1
echo "device: ${gpu:-none, a CPU}"
commit=${COMMIT:-$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)}
printf '{"device": "%s", "commit": "%s", "date": "%s"}\n' "${gpu:-a CPU}" "$commit" "$(date -u +%F)" >"$out/run.json"
status=0
if [ "$what" = smoke ] || [ "$what" = all ]; then
  [ "$what" = all ] && rest=${FIGURES_SECONDS:-$([ -n "$gpu" ] && echo 290 || echo 120)} || rest=0
  checks=${CHECKS:-$([ "$what" = all ] && [ -n "$gpu" ] && "$python" "$root/benchmarks/gpu/smoke.py" --list-without-shapes)}
  "$python" "$root/benchmarks/gpu/smoke.py" "$out" --seconds "$(left "$rest")" ${checks:+--only $checks} || status=1
fi
if [ "$what" = figures ] || [ "$what" = all ]; then
  shapes=(${SHAPES:-$([ -n "$gpu" ] && echo 0.5b 1.5b || echo tiny)})
  for i in "${!shapes[@]}"; do
    now=$(left 15)
    share=$((now / (${#shapes[@]} - i)))  # what one leaves over the next ones have
    timeout -s KILL $((share + 10)) "$python" "$root/benchmarks/gpu/figures.py" "$out" --shape "${shapes[i]}" \
      --seconds "$share" ${POLICIES:+--policy $POLICIES} >"$out/figures-${shapes[i]}.log" 2>&1 || status=1
  done
fi
if [ "$what" = sample ]; then
  timeout -s KILL "$(left 5)" "$python" "$root/benchmarks/gpu/sample.py" "$out" --shape "${SHAPES:-$([ -n "$gpu" ] && echo 0.5b || echo tiny)}" \
    --seconds "$(left 60)" >"$out/sample.log" 2>&1 || status=1
fi
"$python" "$root/benchmarks/gpu/table.py" "$out" ${PAGE:+--page "$PAGE"} | tee "$out/table.md"
exit $status
