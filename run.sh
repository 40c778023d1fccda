#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# ./run.sh [options of moe_lm]
# Trains a mixture-of-experts language model with four processes for about a minute, then measures dispatch and combine.
# `./run.sh --help` lists the options, for example: ./run.sh --steps 100 --text README.md
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
moe_lm="$root/build/release/examples/moe_lm/moe_lm"
flexep="$root/build/release/tools/flexep/flexep"

build() (
  cd "$root"
  ./scripts/install_dependencies.sh
  cmake --preset release
  cmake --build --preset release --target examples/moe_lm/moe_lm tools/flexep/flexep
)

is_given() {
  local option="$1" argument
  shift
  for argument; do
    [[ $argument != "$option" && $argument != "$option="* ]] || return 0
  done
  return 1
}

build
is_given --ranks "$@" || set -- --ranks 4 "$@"
"$moe_lm" "$@"
if ! is_given --help "$@"; then
  echo
  "$flexep" bench
fi
