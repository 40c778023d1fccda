// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/mailbox_layout.h"

namespace flexep::cuda {

/// A place in the memory of one rank that all ranks of its domain have mapped: a segment of that rank and a
/// byte in it. A rank's segments are numbered from 0: the arena (one reserved range of addresses, whatever
/// grows in it), then registered memory.
struct SegmentAddress {
  std::int32_t segment = -1;  ///< -1 = nowhere: a rank without rows
  std::uint64_t offset = 0;
};

/// What the kernels of one rank of one buffer keep from one operation to the next. In device memory of the
/// rank; zeroed once, before the first operation, and never written by the host afterwards.
struct DeviceState {
  std::uint64_t num_exchanges = 0;   ///< headers sent so far: the same number on all ranks between operations
  std::uint64_t num_operations = 0;  ///< the number of the last operation is this
  std::uint32_t num_arrivals = 0;    ///< of blocks at the barriers of the running kernel; 0 between kernels
  std::uint32_t num_items_taken[2] =
      {};                         ///< of those that blocks deal out among themselves; 0 between kernels
  std::uint32_t is_poisoned = 0;  ///< a wait timed out: this and all later kernels end at once
};

/// How a kernel reaches the other ranks. Pointers are valid on the device; everything lives as long as the
/// buffer.
///
/// Kernels of one rank of one buffer run one after the other (one stream, or events between streams). Kernels
/// of different ranks wait for each other: each needs a stream of its own with a hardware queue of its own
/// (CUDA_DEVICE_MAX_CONNECTIONS), and all their blocks must fit the GPU at once.
struct Peers {
  int rank = 0;
  int num_ranks = 1;
  MailboxLayout mailbox;
  /// [R], in device memory: every rank's mailbox as this rank addresses it, its own among them. A mailbox has
  /// mailbox.num_bytes(), lies in memory that all ranks can store to, and is zeroed by its owner once, before
  /// any rank launches.
  std::byte* const* mailboxes = nullptr;
  /// [R, num_segments], in device memory: where this rank has mapped segment s of rank r, at [r *
  /// num_segments + s]; null = not mapped. May be extended between operations, in stream order.
  std::byte* const* segments = nullptr;
  int num_segments = 0;
  /// [R, num_registered], in pinned host memory: where this rank has mapped registered memory, segment
  /// num_segments + s of rank r at [r * num_registered + s]; null = not mapped. The host writes it while
  /// kernels run, and before any rank names the segment in a header.
  std::byte* const* registered = nullptr;
  int num_registered = 0;
  /// [R], in device memory: 1 where rank r is reached across a link, 0 where it shares this rank's memory, as
  /// itself does; r says the same of this rank. Null = all ranks share one memory. Rows cross a link as few
  /// times as they can, at the price of copies behind it; the results are the same.
  const std::uint8_t* is_across_link = nullptr;
  DeviceState* state = nullptr;
  /// The longest that a kernel waits for other ranks, at each of its waits.
  std::uint64_t timeout_ns = 0;

  /// Whether all ranks run on one GPU.
  constexpr bool share_one_memory() const { return is_across_link == nullptr; }
};

}  // namespace flexep::cuda
