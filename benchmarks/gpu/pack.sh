#!/usr/bin/env bash
# The wheels that run.sh takes to a machine without a network, at most 64 MiB in all.
#
#   benchmarks/gpu/pack.sh [folder, default gpu-wheels] [Python of that machine, default 3.12]
#
# wheels.txt names them; their versions are those of constraints.txt. Then there: WHEELS=gpu-wheels benchmarks/gpu/run.sh
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(realpath -m "${1:-gpu-wheels}") version=${2:-3.12} python=${PYTHON:-python3}
mkdir -p "$folder"
wanted() { # name==version of each name whose line does, or does not, end in "source"
  sed 's/#.*//' "$here/wheels.txt" | awk -v source="$1" 'NF && ($2 == "source") == source {print $1}' |
    while read -r name; do
      pinned=$(awk -v name="$name" -F '==' '{own = tolower($1); gsub("_", "-", own)} own == name' "$here/../../constraints.txt")
      [ -n "$pinned" ] || { echo "wheels.txt: $name is not in constraints.txt" >&2; exit 1; }
      echo "$pinned"
    done
}
platforms=$(for tag in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
  echo "--platform ${tag}_x86_64"; done)
ready=$(wanted 0) sources=$(wanted 1)
# shellcheck disable=SC2086
"$python" -m pip download -q --no-deps --only-binary=:all: --python-version "$version" --implementation cp $platforms \
  -d "$folder" $ready
# shellcheck disable=SC2086
DS_BUILD_OPS=0 "$python" -m pip wheel -q --no-deps -w "$folder" $sources
bytes=$(cat "$folder"/*.whl | wc -c)
echo "$(ls "$folder"/*.whl | wc -l) wheels, $((bytes / 1048576)) MiB in $folder"
[ "$bytes" -le $((64 * 1048576)) ] || { echo "more than 64 MiB" >&2; exit 1; }
