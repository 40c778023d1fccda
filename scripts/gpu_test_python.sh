#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# ./scripts/gpu_test_python.sh [pytest arguments]
# Builds the Python package for the machine's python3, which has PyTorch for CUDA, nanobind and pytest, and runs what needs a GPU:
# the tests of tests/python with tensors of the GPU, and the benchmarks, whose results go into FLEXEP_RESULTS if that is set. Fetches
# nothing: Megatron-Core is tested where it is installed, or lies as a wheel in FLEXEP_WHEELS. FLEXEP_PYTHON_PACKAGE names a folder
# with a package `flexep` that is built already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root="$PWD"
scratch="$(mktemp -d)"
stop_mps() {
  echo quit | nvidia-cuda-mps-control >/dev/null 2>&1 || true
  rm -rf "$scratch"
}
trap stop_mps EXIT

if [[ -z ${FLEXEP_PYTHON_PACKAGE-} ]]; then
  cmake --preset release -DFLEXEP_CUDA=ON -DFLEXEP_BUILD_PYTHON=ON -DPython_EXECUTABLE="$(command -v python3)"
  cmake --build --preset release --target flexep_python_package
  FLEXEP_PYTHON_PACKAGE="$root/build/release/python"
fi
export PYTHONPATH="$FLEXEP_PYTHON_PACKAGE"
if [[ -n ${FLEXEP_WHEELS-} ]]; then
  python3 -m pip install -q --no-index --no-deps --no-compile --target "$scratch/site" "$FLEXEP_WHEELS"/*.whl
  PYTHONPATH="$PYTHONPATH:$scratch/site"
fi

# Ranks that share a GPU run at the same time only under the multi-process service: one of our own, in a folder of its own.
export CUDA_MPS_PIPE_DIRECTORY="$scratch/pipe" CUDA_MPS_LOG_DIRECTORY="$scratch/log"
mkdir -p "$CUDA_MPS_PIPE_DIRECTORY" "$CUDA_MPS_LOG_DIRECTORY"
nvidia-cuda-mps-control -d

export FLEXEP_TIMEOUT_SECS="${FLEXEP_TIMEOUT_SECS:-30}"
status=0
FLEXEP_TEST_DEVICES=cuda python3 -m pytest -q -rs -m ranks "$@" || status=$?
if [[ -n ${FLEXEP_RESULTS-} ]]; then
  python3 bench/python_overhead.py --device cuda --json "$FLEXEP_RESULTS/$(date +%F)-python-overhead.json"
  python3 bench/python_large_batches.py --json "$FLEXEP_RESULTS/$(date +%F)-python-large-batches.json"
fi
exit "$status"
