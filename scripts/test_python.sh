#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# ./scripts/test_python.sh [pytest arguments]
# Installs flexep into a virtual environment under build/ and runs the Python tests there. Tests that need PyTorch are skipped,
# with the reason, where it cannot be installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=build/python-tests
python="$venv/bin/python"

[[ -x $python ]] || python3 -m venv "$venv"
"$python" -m pip install -q 'pytest>=8,<10' 'numpy>=1.26,<3' 'nanobind>=3.1,<4' 'scikit-build-core>=0.11,<2'
"$python" -c 'import torch' 2>/dev/null || "$python" -m pip install -q torch==2.13.0 ||
  echo "PyTorch cannot be installed here: the tests that need it are skipped" >&2
"$python" -m pip install -q --no-build-isolation --no-deps .
exec "$python" -m pytest -q -rs "$@"
