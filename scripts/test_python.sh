#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# ./scripts/test_python.sh [pytest arguments]
# Builds the Python package in build/release and runs its tests in the virtual environment of python_environment.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root="$PWD"
python="$root/build/python-tests/bin/python"

if ! ./scripts/python_environment.sh; then
  echo "Python tests: skipped, for want of a virtual environment (no python3-venv, or PyPI cannot be reached)" >&2
  [[ -z ${CI-} ]] && exit 0 || exit 1
fi
cmake --preset release -DFLEXEP_BUILD_PYTHON=ON -DPython_EXECUTABLE="$python" >build/python-configure.log ||
  { cat build/python-configure.log; exit 1; }
cmake --build --preset release --target flexep_python_package
export PYTHONPATH="$root/build/release/python"
exec "$python" -m pytest -q -rs "$@"
