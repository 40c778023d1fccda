#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes build/python-tests, a virtual environment with what the Python tests need; about 1 GB, of which 200 MB are fetched from
# PyPI. Touches no network when nothing is missing. Without PyTorch it succeeds, unless in CI: tests that need it are skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=build/python-tests
python="$venv/bin/python"
torch=2.13.0

[[ -x $python ]] || python3 -m venv "$venv"
pip_install=("$python" -m pip install --quiet --disable-pip-version-check)

has_torch() { "$python" -c 'import torch' 2>/dev/null; }

# The build for CPUs is a tenth of the other, and PyPI itself may not have it.
has_torch || "${pip_install[@]}" "torch==$torch+cpu" 2>/dev/null ||
  "${pip_install[@]}" --retries 1 --index-url https://download.pytorch.org/whl/cpu "torch==$torch" 2>/dev/null ||
  "${pip_install[@]}" "torch==$torch" || true
requirements=tests/python/requirements.txt
if has_torch; then
  "${pip_install[@]}" -r "$requirements" -r tests/python/requirements-torch.txt
else
  echo "PyTorch cannot be installed here: the Python tests that need it are skipped" >&2
  [[ -z ${CI-} ]] || exit 1
  "${pip_install[@]}" -r "$requirements"
fi
