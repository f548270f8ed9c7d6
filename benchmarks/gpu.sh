#!/usr/bin/env bash
# All figures of a GPU machine in one go, with the torch and triton it has: tests first, then every row of
# benchmarks/results that a GPU changes, and one unlearning on GPU and CPU. Takes a Python; installs nothing. Without a git
# checkout set VKDSURGEON_COMMIT.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
export PYTHONPATH=".:kernels:cli${PYTHONPATH:+:$PYTHONPATH}"
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv
"$python" -m pytest -q tests/kernels
mkdir -p benchmarks/results
"$python" -m vkdsurgeon_kernels.ahead_of_time --json > benchmarks/results/aot.jsonl
"$python" -m pytest -q -s benchmarks/kernels --benchmark-enable --record --bench-device cuda
"$python" -m benchmarks.end_to_end --size vit-l --device cuda --record
"$python" -m benchmarks.stages --cases vit-l --steps 300 --device cuda --record
# The same unlearning on both, to hold side by side.
for device in cuda cpu; do
  "$python" benchmarks/miniature.py --seeds 0 --device "$device" --out "benchmarks/results/miniature_$device.jsonl"
done
"$python" -m benchmarks.table
