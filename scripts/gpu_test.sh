#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# ./scripts/gpu_test.sh [--test-only | --bench-only] [<folder>]
#
# Builds and runs all that needs a GPU: tests, the stress test, random cases against the reference, sanitizers, then benchmarks, whose
# results go into <folder>, bench/results/<GPU> by default. All on the first GPU; where there are several, then what crosses between
# them. Nothing is downloaded.
#   FLEXEP_BIN             a folder with binaries that are built already: flexep, cuda_stress and the tests
#   FLEXEP_BENCH_SECS      benchmarks that would begin later than so many seconds after the first are left out (default 225)
#   FLEXEP_STRESS_ROUNDS   rounds of the stress test, over threads and over processes (default 10000)
#   FLEXEP_CASES           random cases, for each transport and kind of arena (default 210)
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

do_test=1 do_bench=1 results=
for argument in "$@"; do
  case "$argument" in
    --test-only) do_bench=0 ;;
    --bench-only) do_test=0 ;;
    -*) echo "$argument: no such option" >&2 && exit 2 ;;
    *) results="$argument" ;;
  esac
done

# "NVIDIA H100 80GB HBM3" -> h100, "NVIDIA H200" -> h200: the folders that are there.
gpu="$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | awk '{print tolower($2)}')"
results="${results:-bench/results/$gpu}"
mkdir -p "$results"
export FLEXEP_TIMEOUT_SECS="${FLEXEP_TIMEOUT_SECS:-30}"

build() {
  if [[ -n ${FLEXEP_BIN-} ]]; then
    tests="$FLEXEP_BIN" flexep="$FLEXEP_BIN/flexep" stress="$FLEXEP_BIN/cuda_stress"
    return
  fi
  tests=build/release/tests/cuda flexep=build/release/tools/flexep/flexep stress=build/release/tests/cuda/stress/cuda_stress
  cmake --preset release -DFLEXEP_CUDA=ON || exit 1
  cmake --build --preset release --target flexep_command cuda_stress cuda_tests || exit 1
}

failed=()
# step <name> <command...>: says how it went, and its output where it failed.
step() {
  local name="$1" log begin=$SECONDS
  shift
  log="$(mktemp)"
  if "$@" >"$log" 2>&1; then
    echo "passed: $name ($((SECONDS - begin)) s): $(tail -1 "$log")"
  else
    echo "FAILED: $name ($((SECONDS - begin)) s)"
    tail -30 "$log"
    failed+=("$name")
  fi
  rm -f "$log"
}

# Processes that share a GPU run at the same time only under the multi-process service: one of our own, in a folder of its own.
start_mps() {
  pipes="$(mktemp -d)"
  export CUDA_MPS_PIPE_DIRECTORY="$pipes/pipe" CUDA_MPS_LOG_DIRECTORY="$pipes/log"
  mkdir -p "$CUDA_MPS_PIPE_DIRECTORY" "$CUDA_MPS_LOG_DIRECTORY"
  trap stop_mps EXIT
  nvidia-cuda-mps-control -d
}
stop_mps() {
  echo quit | timeout 10 nvidia-cuda-mps-control >/dev/null 2>&1
  rm -rf "$pipes"
  unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
  trap - EXIT
}

stress_processes() {  # <ranks> <rounds>
  "$flexep" launch -n "$1" --no-prefix -- "$stress" --rounds "$2"
}

has_mpi() {
  command -v mpirun >/dev/null && "$flexep" version | grep -q mpi
}

# Groups of several domains, whose rows go by way of the host's memory.
check_domains() {  # <transport>
  "$flexep" check --device cuda --transport "$1" --domains 2,4 --ranks 2,4,8 --cases "${FLEXEP_CASES:-210}"
}

check() {  # <transport> <memory>
  "$flexep" check --device cuda --transport "$1" --memory "$2" --ranks 1,2,3,4,5,7,8 --cases "${FLEXEP_CASES:-210}"
}

# Kernels that wait for each other, as a sanitizer sees them: few rounds, since it makes them a hundred times slower. initcheck waits for
# the device where the program does not, which no group of threads survives: it gets the kernels, which one thread launches.
sanitize() {  # <tool>
  local program=("$stress" --ranks 2 --rounds 12)
  [[ $1 == initcheck ]] && program=("$tests/cuda_kernels_test" --gtest_brief=1 "--gtest_filter=Ranks/KernelCaseTest.*/1")
  compute-sanitizer --tool "$1" --error-exitcode 9 "${program[@]}"
}

run_tests() {
  local rounds="${FLEXEP_STRESS_ROUNDS:-10000}" test transport memory tool
  for test in "$tests"/cuda_*_test; do
    [[ $test == *_processes_test ]] || step "$(basename "$test")" "$test" --gtest_brief=1
  done
  step "stress, 2 ranks" "$stress" --ranks 2 --rounds $((rounds / 10))
  step "stress, 8 ranks" "$stress" --ranks 8 --rounds "$rounds"
  step "stress, 4 ranks, pinned host memory" "$stress" --ranks 4 --rounds $((rounds / 20)) --memory pinned_host
  step "stress, 4 ranks in 2 domains" "$stress" --ranks 4 --domains 2 --rounds $((rounds / 20))
  for tool in memcheck initcheck synccheck racecheck; do step "$tool" sanitize "$tool"; done

  start_mps
  for test in "$tests"/cuda_*processes_test; do step "$(basename "$test")" "$test" --gtest_brief=1; done
  step "stress, 3 processes" stress_processes 3 $((rounds / 10))
  step "stress, 8 processes" stress_processes 8 "$rounds"
  for transport in in_process shm; do
    for memory in device pinned_host; do step "check, $transport, $memory" check "$transport" "$memory"; done
  done
  step "check, in_process, domains" check_domains in_process
  has_mpi && step "check, mpi, domains" check_domains mpi
  stop_mps
}

# bench <name> <ranks> <tokens> <options...>: ranks are processes.
bench() {
  local name="$1" ranks="$2" tokens="$3"
  shift 3
  if ((SECONDS - bench_begin > ${FLEXEP_BENCH_SECS:-225})); then
    echo "left out: $name"
    return
  fi
  echo "-- $name"
  timeout 60 "$flexep" bench --device cuda --transport shm --ranks "$ranks" --tokens "$tokens" --experts 256 --topk 8 --hidden 7168 \
    --json "$results/$(date +%F)-cuda-shm-$name.json" "$@" || failed+=("bench $name")
}

# Ranks that are processes with a GPU each need no MPS; those that share one do.
run_tests_on_several_gpus() {
  local test ranks
  for test in cuda_buffer_test cuda_graph_test; do step "$test, $num_gpus GPUs" "$tests/$test" --gtest_brief=1; done
  for ranks in 2 8; do step "stress, $ranks ranks, $num_gpus GPUs" "$stress" --ranks "$ranks" --rounds 2000; done
  step "stress, a process for each GPU" stress_processes "$num_gpus" 2000
  step "memory between processes of two GPUs" "$tests/cuda_processes_test" --gtest_brief=1 "--gtest_filter=CudaSharedMemoryTest.*"
  step "check, shm, a process for each GPU" "$flexep" check --device cuda --transport shm --ranks "$num_gpus"
  step "check, in_process, $num_gpus GPUs" check in_process device
  start_mps
  step "cuda_processes_test, $num_gpus GPUs" "$tests/cuda_processes_test" --gtest_brief=1
  step "stress, 8 processes, $num_gpus GPUs" stress_processes 8 2000
  step "check, shm, $num_gpus GPUs" check shm device
  stop_mps
}

run_benchmarks_on_several_gpus() {
  bench_begin=$SECONDS
  local pair="dispatch,combine" many=(--warmup 3 --iters 20) sms
  for sms in 0 4 8 16 32; do
    bench "$num_gpus-gpus-compact-4096-$sms-sms" "$num_gpus" 4096 "${many[@]}" --ops "$pair" --num-sms "$sms"
    bench "$num_gpus-gpus-expanded-4096-$sms-sms" "$num_gpus" 4096 "${many[@]}" --ops "$pair" --num-sms "$sms" --layout expanded
  done
  bench "$num_gpus-gpus-128" "$num_gpus" 128 --warmup 20 --iters 200 --ops "$pair"
  bench "$num_gpus-gpus-graph-128" "$num_gpus" 128 --warmup 20 --iters 200 --sync none --graph 1 --ops "$pair,round_trip"
  python3 -c 'import torch' 2>/dev/null && python3 bench/nccl_all_to_all.py
  start_mps
  bench "$num_gpus-gpus-8-ranks-4096" 8 4096 "${many[@]}" --ops "$pair"
  stop_mps
}

# Two domains over MPI on this machine, and the same without the GPU: the host moves the rows of both.
bench_domains() {
  has_mpi || return
  local shape=(--transport mpi --ranks 4 --domains 2 --tokens 1024 --experts 64 --topk 8 --hidden 7168 --ops dispatch,cached_dispatch,combine) device
  for device in cuda cpu; do
    timeout 60 "$flexep" bench --device "$device" "${shape[@]}" --json "$results/$(date +%F)-$device-mpi-domains.json" ||
      failed+=("bench domains, $device")
  done
}

# What was asked for first, then what explains it.
run_benchmarks() {
  bench_begin=$SECONDS
  local large="dispatch,cached_dispatch,combine" pair="dispatch,combine" sms
  local small=(--warmup 30 --iters 300) many=(--warmup 3 --iters 20)
  start_mps
  bench compact-4096 8 4096 "${many[@]}" --ops "$large"
  bench compact-4096-6-sms 8 4096 "${many[@]}" --ops "$pair" --num-sms 6
  bench expanded-4096 8 4096 "${many[@]}" --ops "$large" --layout expanded
  bench ordinary-4096 8 4096 "${many[@]}" --ops combine --input ordinary
  bench registered-4096 8 4096 "${many[@]}" --ops combine --input registered
  bench compact-128 8 128 "${small[@]}"
  bench graph-128 8 128 "${small[@]}" --sync none --graph 1 --ops round_trip,dispatch,combine
  bench graph-20-128 8 128 "${small[@]}" --sync none --graph 20 --ops round_trip
  bench graph-1 8 1 "${small[@]}" --sync none --graph 1 --ops round_trip,dispatch,combine
  bench graph-20-1 8 1 "${small[@]}" --sync none --graph 20 --ops round_trip
  bench compact-1 8 1 "${small[@]}"
  bench fp8-4096 8 4096 "${many[@]}" --ops dispatch,cached_dispatch --dtype fp8_e4m3
  bench zipf-4096 8 4096 "${many[@]}" --ops "$pair" --routing zipf:1.2
  bench 4-ranks-4096 4 4096 "${many[@]}" --ops "$large"
  bench active-1-sm 8 4096 "${many[@]}" --active-ranks 1 --num-sms 1 --ops "$pair"
  bench active-8-sms 8 4096 "${many[@]}" --active-ranks 1 --num-sms 8 --ops "$pair"
  bench 4-ranks-gemm-6-sms 4 4096 "${many[@]}" --num-sms 6 --ops "$pair" --gemm-beside
  bench 4-ranks-gemm-16-sms 4 4096 "${many[@]}" --num-sms 16 --ops "$pair" --gemm-beside
  for sms in 4 16; do bench "pinned-host-$sms-sms" 8 1024 "${many[@]}" --memory pinned_host --num-sms "$sms" --ops "$pair"; done
  bench_domains
  for sms in 4 8 12; do bench "compact-4096-$sms-sms" 8 4096 "${many[@]}" --ops "$pair" --num-sms "$sms"; done
  for sms in 4 8 24 32; do bench "4-ranks-4096-$sms-sms" 4 4096 "${many[@]}" --ops "$pair" --num-sms "$sms"; done
  for sms in 48 64; do bench "2-ranks-4096-$sms-sms" 2 4096 "${many[@]}" --ops "$pair" --num-sms "$sms"; done
  stop_mps
}

build
num_gpus="$(nvidia-smi --list-gpus | wc -l)"
export CUDA_VISIBLE_DEVICES=0
((do_test)) && run_tests
((do_bench)) && run_benchmarks
unset CUDA_VISIBLE_DEVICES
((do_test && num_gpus > 1)) && run_tests_on_several_gpus
((do_bench && num_gpus > 1)) && run_benchmarks_on_several_gpus
if ((${#failed[@]})); then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
echo "all passed"
