// SPDX-License-Identifier: Apache-2.0
//
// What every kernel of an operation begins and ends with, and how its blocks and its rank wait.
//
// A small batch runs most instructions once, and to fetch them takes more of its time than to run them: so
// loops over ranks, experts and columns, which take a block one or two rounds, are not unrolled, here and in
// the phases.
#pragma once

#include "kernels/cuda/operation_result.h"
#include "kernels/cuda/peers.h"
#include "kernels/cuda/ptx.cuh"

namespace flexep::cuda {

constexpr int kWarpSize = 32;
constexpr int kNumWarps = 16;
constexpr int kNumThreads = kNumWarps * kWarpSize;

__device__ inline int thread_in_block() {
  return static_cast<int>(threadIdx.x);
}
__device__ inline int warp_in_block() {
  return static_cast<int>(threadIdx.x) / kWarpSize;
}
__device__ inline int lane_in_warp() {
  return static_cast<int>(threadIdx.x) % kWarpSize;
}
__device__ inline int block() {
  return static_cast<int>(blockIdx.x);
}
__device__ inline int num_blocks() {
  return static_cast<int>(gridDim.x);
}
/// One block speaks for the rank; the others only move rows.
__device__ inline bool is_speaker() {
  return block() == 0;
}

/// Some warps of a block that work together while others do something else.
struct Crew {
  int thread;       ///< of this thread among them
  int num_threads;  ///< of whole warps
  int barrier;      ///< number of the barrier that they share

  __device__ int warp() const { return thread / kWarpSize; }
  __device__ int num_warps() const { return num_threads / kWarpSize; }
  __device__ void synchronize() const { sync_threads(barrier, num_threads); }
};

class Deadline {
 public:
  __device__ explicit Deadline(std::uint64_t timeout_ns) : end_(clock_ns() + timeout_ns) {}
  __device__ bool has_passed() const { return clock_ns() >= end_; }

 private:
  std::uint64_t end_;
};

/// Which ranks were not heard from, one bit each; in shared memory.
struct MissingRanks {
  unsigned long long words[OperationResult::kMaxRanks / 64];

  /// Collective over the block.
  __device__ void clear() {
#pragma unroll 1
    for (int i = thread_in_block(); i < OperationResult::kMaxRanks / 64; i += kNumThreads) words[i] = 0;
    __syncthreads();
  }
  __device__ void add(int rank) {
    atomicOr(&words[rank / 64], 1ull << (rank % 64));
  }
};

/// The running operation, as one block sees it. Its members are collective over the block.
class Operation {
 public:
  __device__ Operation(const Peers& peers, const Reports& reports) : peers(peers), reports(reports) {
    const DeviceState& state = *peers.state;
    mailbox = peers.mailboxes[peers.rank];
    exchange = state.num_exchanges + 1;
    number = state.num_operations + 1;
  }

  /// Whether an earlier operation, or another block of this one, has timed out.
  __device__ bool is_poisoned() const {
    return __syncthreads_or(thread_in_block() == 0 && load_acquire(&peers.state->is_poisoned) != 0) != 0;
  }
  __device__ void poison() const {
    if (thread_in_block() == 0) atomicExch(&peers.state->is_poisoned, 1u);
  }

  __device__ void pass(Phase phase) const {
    if (reports.phase_times == nullptr || !is_speaker() || thread_in_block() != 0) return;
    reports.phase_times[static_cast<int>(phase)] = clock_ns();
  }

  /// What the block has stored is visible to blocks that pass wait_for_all_blocks() of the same barrier.
  __device__ void arrive() {
    ++num_barriers_;
    __syncthreads();
    if (thread_in_block() == 0 && num_blocks() > 1) add_release(&peers.state->num_arrivals);
  }
  /// Until all blocks have arrived at the barrier at which this one arrived last. @return false when one of
  /// them timed out instead.
  __device__ bool wait_for_all_blocks() const {
    const bool is_given_up = thread_in_block() == 0 && !await_all_blocks();
    return __syncthreads_or(is_given_up) == 0;
  }
  /// The same for one thread.
  __device__ bool await_all_blocks() const {
    if (num_blocks() == 1) return true;
    const auto all = static_cast<std::uint32_t>(num_barriers_ * num_blocks());
    while (load_acquire(&peers.state->num_arrivals) < all) {
      if (load_acquire(&peers.state->is_poisoned) != 0) return false;
    }
    return true;
  }

  /// The last thing that a kernel does: when all blocks are through, the speaker calls complete(whether they
  /// all are, none having timed out), which returns whether the operation may end normally, and moves the
  /// state on.
  template <typename Complete>
  __device__ void finish(Complete complete) {
    arrive();
    if (!is_speaker()) return;
    const bool is_intact = wait_for_all_blocks();
    if (!complete(is_intact)) return poison();
    if (!is_intact || thread_in_block() != 0) return;
    peers.state->num_exchanges = exchange;
    peers.state->num_operations = number;
    peers.state->num_arrivals = 0;
    for (std::uint32_t& num_taken : peers.state->num_items_taken) num_taken = 0;
  }

  const Peers& peers;
  const Reports& reports;
  std::byte* mailbox;      ///< this rank's
  std::uint64_t exchange;  ///< number of the running exchange
  std::uint64_t number;    ///< of the operation

 private:
  int num_barriers_ = 0;
};

/// Waits until every rank has published `value` in this rank's mailbox; signal_of(r) is the offset of rank
/// r's word. Collective over the block. @return false when the deadline passed; `missing` says whose word is
/// not there.
template <typename SignalOf>
__device__ bool await_all(const Peers& peers, std::uint64_t value, MissingRanks& missing,
                          SignalOf signal_of) {
  missing.clear();
  const Deadline deadline(peers.timeout_ns);
  const std::byte* mailbox = peers.mailboxes[peers.rank];
  bool is_missing = false;
#pragma unroll 1
  for (int r = thread_in_block(); r < peers.num_ranks; r += kNumThreads) {
    const auto* word = reinterpret_cast<const std::uint64_t*>(mailbox + signal_of(r));
    bool has_come = has_arrived(word, value);
    while (!has_come && !deadline.has_passed()) has_come = has_arrived(word, value);
    if (has_come) continue;
    is_missing = true;
    missing.add(r);
  }
  return __syncthreads_or(is_missing) == 0;
}

/// Publishes `value` in every rank's mailbox, beginning with the rank after this one; pairs with await_all().
/// Covers what the block has stored before.
template <typename SignalOf>
__device__ void publish_to_all(const Peers& peers, std::uint64_t value, SignalOf signal_of) {
  __syncthreads();
#pragma unroll 1
  for (int i = thread_in_block(); i < peers.num_ranks; i += kNumThreads) {
    const int to = (peers.rank + 1 + i) % peers.num_ranks;
    auto* word = reinterpret_cast<std::uint64_t*>(peers.mailboxes[to] + signal_of(peers.rank));
    if (peers.share_one_memory()) {
      publish_on_gpu(word, value);
    } else {
      publish(word, value);
    }
  }
}

/// "Everything that I store to you, or read from you, in this operation is done", from each rank to each. The
/// speaker alone calls it, when all blocks are done.
__device__ inline void publish_done(const Operation& operation) {
  const Peers& peers = operation.peers;
  publish_to_all(peers, operation.number, [&](int source) { return peers.mailbox.done_signal(source); });
}

/// Pairs with publish_done(). @return false when a rank did not come.
__device__ inline bool await_done(const Operation& operation, MissingRanks& missing) {
  const Peers& peers = operation.peers;
  return await_all(peers, operation.number, missing,
                   [&](int source) { return peers.mailbox.done_signal(source); });
}

__device__ inline bool exchange_done(const Operation& operation, MissingRanks& missing) {
  publish_done(operation);
  return await_done(operation, missing);
}

}  // namespace flexep::cuda
