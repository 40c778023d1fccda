#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Measures what `flexep plan --calibrate` fits and predicts: dispatch, cached dispatch and combine of processes of this machine,
# in one domain and, where MPI is there, in several. Takes some minutes, and wants the machine for itself.
#
#   scripts/calibrate_plan.sh FOLDER [flexep [rounds]]
#   flexep plan --calibrate FOLDER/*.json --json machine.json
set -euo pipefail
folder="${1:?usage: scripts/calibrate_plan.sh FOLDER [flexep [rounds]]}"
flexep="${2:-build/release/tools/flexep/flexep}"
rounds="${3:-3}"
mkdir -p "$folder"

# measure NAME OPTION...
measure() {
  "$flexep" bench "${@:2}" --experts 96 --ops dispatch,cached_dispatch,combine --iters 11 --warmup 2 \
    --json "$folder/$1.json" >"$folder/last.log" 2>&1 && return
  cat "$folder/last.log" >&2
  exit 1
}

# measure_sizes NAME ROUND OPTION...: small and large batches.
measure_sizes() {
  for tokens in 64 512 2048; do
    for hidden in 2048 7168; do
      for topk in 2 8; do
        measure "$1-$tokens-tokens-$hidden-top$topk-$2" "${@:3}" --tokens "$tokens" --hidden "$hidden" --topk "$topk"
      done
    done
  done
}

# Rounds over the whole grid: a machine that is slow for a minute then spoils one of them.
for ((round = 1; round <= rounds; ++round)); do
  for ranks in 2 3 4; do
    measure_sizes "$ranks-ranks" "$round" --ranks "$ranks"
  done
  command -v mpirun >"$folder/last.log" || continue
  for shape in 2x1 2x2 4x1; do
    ranks=$((${shape%x*} * ${shape#*x}))
    measure_sizes "$shape-domains" "$round" --transport mpi --ranks "$ranks" --domains "${shape%x*}"
  done
  measure_sizes "2x2-domains-direct" "$round" --transport mpi --ranks 4 --domains 2 --mode direct
done
rm "$folder/last.log"
