#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# ./scripts/gpu_test.sh [<folder>]   builds and runs all that needs a GPU: tests, check, benchmarks. Results go into <folder>,
#                                    bench/results/<GPU> by default. FLEXEP_BIN names a folder with binaries that are built already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# "NVIDIA H100 80GB HBM3" -> h100, "NVIDIA H200" -> h200: the folders that are there.
gpu="$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | awk '{print tolower($2)}')"
results="${1:-bench/results/$gpu}"
mkdir -p "$results"

if [[ -n ${FLEXEP_BIN-} ]]; then
  flexep="$FLEXEP_BIN/flexep"
  tests=("$FLEXEP_BIN"/cuda_*_test)
else
  cmake --preset release -DFLEXEP_CUDA=ON
  cmake --build --preset release --target flexep_command cuda_kernels_test cuda_buffer_test
  flexep=build/release/tools/flexep/flexep
  tests=(build/release/tests/cuda/cuda_*_test)
fi

for test in "${tests[@]}"; do
  echo "== $(basename "$test")"
  "$test" --gtest_brief=1
done

# Processes that share a GPU run at the same time only under the multi-process service: one of our own, in a folder of its own.
pipes="$(mktemp -d)"
export CUDA_MPS_PIPE_DIRECTORY="$pipes/pipe" CUDA_MPS_LOG_DIRECTORY="$pipes/log"
mkdir -p "$CUDA_MPS_PIPE_DIRECTORY" "$CUDA_MPS_LOG_DIRECTORY"
stop_mps() {
  echo quit | nvidia-cuda-mps-control >/dev/null 2>&1 || true
  rm -rf "$pipes"
}
trap stop_mps EXIT
nvidia-cuda-mps-control -d

export FLEXEP_TIMEOUT_SECS="${FLEXEP_TIMEOUT_SECS:-30}"
for transport in in_process shm; do
  echo "== check, $transport"
  "$flexep" check --device cuda --transport "$transport" --ranks 1,2,3,4,8 --cases "${FLEXEP_CASES:-200}"
done

bench() {  # <name> <transport> <options...>
  local name="$1" transport="$2"
  shift 2
  "$flexep" bench --device cuda --transport "$transport" --ranks 8 --experts 256 --topk 8 --hidden 7168 \
    --json "$results/$(date +%F)-cuda-$transport-$name.json" "$@"
}
for transport in in_process shm; do
  echo "== bench, $transport"
  bench compact-4096 "$transport" --tokens 4096
  bench compact-4096-6-sms "$transport" --tokens 4096 --num-sms 6
  bench expanded-4096 "$transport" --tokens 4096 --layout expanded
  bench ordinary-4096 "$transport" --tokens 4096 --input ordinary --ops combine
  bench compact-128 "$transport" --tokens 128 --warmup 20 --iters 200
  bench compact-1 "$transport" --tokens 1 --warmup 20 --iters 200
done
