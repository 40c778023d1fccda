#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# ./scripts/test_python.sh [pytest arguments]
# Builds the Python package in build/release and runs its tests in the virtual environment of python_environment.sh, and those of
# flexep/torch.h where that environment has PyTorch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root="$PWD"
python="$root/build/python-tests/bin/python"
libtorch="$root/build/release/tests/libtorch"

if ! ./scripts/python_environment.sh; then
  echo "Python tests: skipped, for want of a virtual environment (no python3-venv, or PyPI cannot be reached)" >&2
  [[ -z ${CI-} ]] && exit 0 || exit 1
fi
cmake --preset release -DFLEXEP_BUILD_PYTHON=ON -DPython_EXECUTABLE="$python" >build/python-configure.log ||
  { cat build/python-configure.log; exit 1; }
targets=(flexep_python_package)
[[ ! -d $libtorch ]] || targets+=(libtorch_test)
cmake --build --preset release --target "${targets[@]}"
[[ ! -d $libtorch ]] || "$libtorch/libtorch_test" --gtest_brief=1
export PYTHONPATH="$root/build/release/python"
exec "$python" -m pytest -q -rs "$@"
