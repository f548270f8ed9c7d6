#!/usr/bin/env bash
# All figures of a GPU machine in one go, within ten minutes, with the torch and triton it has: tests, then every row of
# benchmarks/results that a GPU changes, and one unlearning on GPU and CPU. Takes a Python; installs nothing. A step that
# fails does not keep the others from running; the status is 1 then. Without a git checkout set VKDSURGEON_COMMIT.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
export PYTHONPATH=".:kernels:cli${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
failed=0
step() {
  echo "== $SECONDS s: $*"
  "$@" || {
    local status=$?
    failed=1
    echo "== failed with $status: $*" >&2
  }
}
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv
mkdir -p benchmarks/results
# Kernels of many shapes are compiled, which takes cores rather than the GPU.
together=$("$python" -c "import xdist" 2> /dev/null && echo "-n 8")
step "$python" -m pytest -q $together --tb=short --maxfail 8 tests/kernels
step "$python" -m pytest -q -s benchmarks/kernels --benchmark-enable --record --bench-device cuda
step "$python" -m benchmarks.end_to_end --size vit-l --device cuda --record
step "$python" -m benchmarks.stages --cases vit-l --steps 300 --device cuda --record
# The same unlearning on both, to hold side by side.
for device in cuda cpu; do
  step "$python" benchmarks/miniature.py --seeds 0 --device "$device" --out "benchmarks/results/miniature_$device.jsonl"
done
step "$python" -m benchmarks.table --write
exit $failed
