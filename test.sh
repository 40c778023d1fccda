#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# ./test.sh            builds and tests: release, Python too, then the tests that sanitizers can watch under each of them
# ./test.sh --quick    release only
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

case "${1-}" in
  --quick) presets=(release) ;;
  "") presets=(release asan-ubsan tsan) ;;
  *)
    echo "usage: ./test.sh [--quick]" >&2
    exit 2
    ;;
esac

./scripts/install_dependencies.sh
# One more than there are cores: some tests do nothing but wait for a deadline.
export CTEST_PARALLEL_LEVEL="${CTEST_PARALLEL_LEVEL:-$(($(nproc) + 1))}"

# In CI only: warnings are errors, since what a newer compiler has to say must not stop a user; headers are precompiled; and of the
# debug information there are line numbers alone, as in the sanitizers' builds: the rest is a quarter of the time to compile.
release_options=(-DFLEXEP_WERROR=OFF)
sanitizer_options=("${release_options[@]}")
if [[ -n ${CI-} ]]; then
  release_options=(-DFLEXEP_WERROR=ON -DFLEXEP_PRECOMPILE_HEADERS=TESTS "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O3 -g1 -DNDEBUG")
  sanitizer_options=(-DFLEXEP_WERROR=ON -DFLEXEP_PRECOMPILE_HEADERS=ALL)
fi

summary=()
for preset in "${presets[@]}"; do
  echo "== $preset"
  if [[ $preset == release ]]; then
    cmake --preset "$preset" "${release_options[@]}"
  else
    cmake --preset "$preset" "${sanitizer_options[@]}"
  fi
  cmake --build --preset "$preset"
  log="build/$preset/ctest.log"
  ctest --preset "$preset" 2>&1 | tee "$log"
  summary+=("$preset: $(grep 'tests passed' "$log")")
  if [[ $preset == release ]]; then
    ./scripts/test_python.sh 2>&1 | tee build/python-tests.log
    summary+=("python: $(tail -n 1 build/python-tests.log)")
  fi
done
echo "== passed after $SECONDS s"
printf '%s\n' "${summary[@]}"
