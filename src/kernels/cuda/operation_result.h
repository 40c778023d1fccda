// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/math.h"
#include "kernels/cuda/exchange_header.h"
#include "kernels/cuda/mailbox_layout.h"
#include "routing/output_layout.h"

namespace flexep::cuda {

/// What came of the exchange at the start of an operation. All ranks come to the same verdict from the same
/// headers, except where it says so. With anything but kGo nobody writes a row, and the next operation works.
enum class Verdict : std::int32_t {
  kPending,
  kGo,
  kRefused,      ///< `culprit` is the first rank that refused; its header, and its text, say why
  kMismatch,     ///< `culprit` is the first word of the fingerprint that differs
  kTooLarge,     ///< `culprit` is the first rank whose rows do not fit 31 bits, or R for R * N that does not
  kDoesNotFit,   ///< some rank's output is larger than its region: see receive_sizes; grow and launch again
  kUnreachable,  ///< this rank alone: a peer's address lies in a segment that is not mapped; `culprit` is the
                 ///< peer
  kTimedOut,     ///< this rank alone: see OperationResult::missing; the buffer is poisoned
  kPoisoned,     ///< this rank alone: an earlier operation timed out
};

/// How the operation ended. Valid once the kernel has completed (event, stream), and not before.
enum class Outcome : std::int32_t {
  kPending,
  kDone,      ///< all rows are there, or the verdict was not kGo
  kTimedOut,  ///< see OperationResult::missing; the buffer is poisoned
};

/// What a kernel tells its host. In pinned host memory, written by the device with system-scope stores; the
/// host zeroes it before the launch (a captured operation rewrites it at each replay). Followed by the arrays
/// of ResultLayout.
struct OperationResult {
  static constexpr int kMaxRanks = 4096;

  /// The number of this operation, from 1 on; written last with release: what follows, up to `outcome`, and
  /// the arrays are valid when the host loads a new value here with acquire. Rows may still be moving then.
  std::uint64_t ready = 0;
  Verdict verdict = Verdict::kPending;
  std::int32_t culprit = 0;
  std::int32_t num_recv_tokens = 0;      ///< M of this rank
  std::int32_t num_expanded_tokens = 0;  ///< sum of align(c_i) of this rank
  std::int32_t num_max_tokens_per_rank = 0;
  std::int32_t tag = 0;  ///< of a failure: Reports::tag

  Outcome outcome = Outcome::kPending;
  /// When a wait timed out: 0 = for headers, 1 = for the rows of the others, or for them to have read ours.
  std::int32_t missing_phase = 0;
  std::uint64_t missing[kMaxRanks / 64] = {};  ///< bit r % 64 of word r / 64: rank r was not heard from
};

/// Where the arrays after an OperationResult lie. Counts are those of a fresh dispatch; other operations
/// leave them alone. Headers and text are written when the verdict is neither kGo nor kTimedOut nor
/// kPoisoned.
struct ResultLayout {
  int num_ranks = 1;
  int num_local_experts = 1;

  constexpr std::size_t ranks() const { return static_cast<std::size_t>(num_ranks); }
  constexpr std::size_t int32s(std::size_t count) const {
    return align_up(count * sizeof(std::int32_t), std::size_t{16});
  }

  /// ExchangeHeader [R]
  constexpr std::size_t headers() const { return align_up(sizeof(OperationResult), std::size_t{128}); }
  /// char [MailboxLayout::kMaxTextBytes], the culprit's text, zero-terminated
  constexpr std::size_t text() const { return headers() + ranks() * sizeof(ExchangeHeader); }
  /// {M, sum of align(c_i)} of every rank: int32 [R, 2], as ReceiveSize
  constexpr std::size_t receive_sizes() const { return text() + MailboxLayout::kMaxTextBytes; }
  /// int32 [R], tokens that this rank received from each
  constexpr std::size_t recv_tokens_per_rank() const { return receive_sizes() + int32s(2 * ranks()); }
  /// int32 [El], c_i
  constexpr std::size_t recv_tokens_per_expert() const { return recv_tokens_per_rank() + int32s(ranks()); }
  /// int32 [El], pairs that the limit dropped
  constexpr std::size_t dropped_tokens() const {
    return recv_tokens_per_expert() + int32s(static_cast<std::size_t>(num_local_experts));
  }
  /// int32 [R], tokens that this rank sent to each
  constexpr std::size_t sent_tokens_per_rank() const {
    return dropped_tokens() + int32s(static_cast<std::size_t>(num_local_experts));
  }
  /// int32 [R], rows that this rank sent to each
  constexpr std::size_t sent_rows_per_rank() const { return sent_tokens_per_rank() + int32s(ranks()); }
  /// int32 [R], of a combine: whether each rank offered one row per received token
  constexpr std::size_t is_per_token() const { return sent_rows_per_rank() + int32s(ranks()); }
  constexpr std::size_t num_bytes() const { return is_per_token() + int32s(ranks()); }
};

/// The milestones of an operation, as its first block passes them.
enum class Phase : std::int32_t {
  kStarted,
  kPrepared,  ///< dispatch: ids are counted; combine: input is staged
  kHeard,     ///< all ranks' headers are here
  kAgreed,    ///< the verdict is known and reported
  kPlaced,    ///< dispatch: every pair has its place
  kMoved,     ///< the block's own rows
  kAllMoved,  ///< the rank's rows
  kDone,      ///< everybody's rows
};
inline constexpr int kNumPhases = 8;

/// The places where a kernel reports; results are pinned host memory of ResultLayout::num_bytes() each.
struct Reports {
  OperationResult* result = nullptr;
  /// As `result`, written only by an operation that goes wrong, and only while its `ready` is 0: what a
  /// caller that reads no results looks at. May be null.
  OperationResult* first_failure = nullptr;
  /// Goes with a failure: tells apart the operations that share the place.
  std::int32_t tag = 0;
  /// [kNumPhases] in device memory: the GPU's clock, in ns, when the operation passed each Phase; null = not
  /// wanted.
  std::uint64_t* phase_times = nullptr;
  ResultLayout layout;
};

}  // namespace flexep::cuda
