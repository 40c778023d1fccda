#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Measures what `flexep plan --calibrate` fits and predicts: dispatch, cached dispatch and combine of processes of this machine.
# Takes some minutes, and wants the machine for itself.
#
#   scripts/calibrate_plan.sh FOLDER [flexep]
set -euo pipefail
folder="${1:?usage: scripts/calibrate_plan.sh FOLDER [flexep]}"
flexep="${2:-build/release/tools/flexep/flexep}"
mkdir -p "$folder"
# Rounds over the whole grid: a machine that is slow for a minute then spoils one of three.
for round in 1 2 3; do
  for ranks in 2 3 4; do
    for tokens in 64 256 1024 2048; do
      for hidden in 2048 7168; do
        for topk in 2 8; do
          "$flexep" bench --ranks "$ranks" --tokens "$tokens" --hidden "$hidden" --topk "$topk" --experts 96 \
            --ops dispatch,cached_dispatch,combine --iters 21 --warmup 3 \
            --json "$folder/$ranks-ranks-$tokens-tokens-$hidden-top$topk-$round.json" >"$folder/last.log" || {
            cat "$folder/last.log" >&2
            exit 1
          }
        done
      done
    done
  done
done
rm "$folder/last.log"
