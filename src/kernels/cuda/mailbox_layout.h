// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/math.h"
#include "kernels/cuda/exchange_header.h"

namespace flexep::cuda {

/// Where the parts of a rank's mailbox lie. Every other rank stores into it; its owner alone reads it, so
/// that nobody polls memory across a link.
///
///   done signal of rank 0 .. R-1 | slot [2, R] | unpacked [2]
///
/// A slot holds one rank's message: an ExchangeHeader, then its counts, int32 [R + E], or the text of its
/// refusal; each word of 4 bytes goes with the number of the exchange (MessageWord), by which its reader
/// knows that it has come. Messages alternate between the two slots of their sender: a rank writes exchange n
/// + 2 after everybody has sent n + 1, and a rank sends n + 1 after it has read all of n. "Unpacked" is for
/// the owner alone, who puts all messages together again there if his shared memory is too small for them.
struct MailboxLayout {
  static constexpr std::size_t kSignalBytes = 128;  ///< a cache line each: two ranks never store to one line
  static constexpr std::size_t kMaxTextBytes = 1024;

  int num_ranks = 1;
  /// The most experts that an operation may have; a dispatch with more is the host's to refuse, on all ranks.
  int max_experts = 1;

  constexpr std::size_t max_counts() const {
    return static_cast<std::size_t>(num_ranks) + static_cast<std::size_t>(max_experts);
  }
  constexpr std::size_t slot_bytes() const {
    const std::size_t counts = max_counts() * sizeof(std::int32_t);
    return align_up(2 * (sizeof(ExchangeHeader) + (counts > kMaxTextBytes ? counts : kMaxTextBytes)),
                    kSignalBytes);
  }
  constexpr std::size_t done_signal(int source) const {
    return static_cast<std::size_t>(source) * kSignalBytes;
  }
  constexpr std::size_t slot(int source, std::uint64_t exchange) const {
    return done_signal(num_ranks) + static_cast<std::size_t>(exchange % 2) * exchange_bytes() +
           static_cast<std::size_t>(source) * slot_bytes();
  }
  /// Messages of all ranks, as long as they are without their numbers.
  constexpr std::size_t unpacked(std::uint64_t exchange) const {
    return done_signal(num_ranks) + 2 * exchange_bytes() +
           static_cast<std::size_t>(exchange % 2) * exchange_bytes() / 2;
  }
  constexpr std::size_t num_bytes() const { return unpacked(1) + exchange_bytes() / 2; }

 private:
  constexpr std::size_t exchange_bytes() const { return static_cast<std::size_t>(num_ranks) * slot_bytes(); }
};

}  // namespace flexep::cuda
