// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "transport/messages.h"

namespace flexep {

/// A GroupFailure as a message: of one length, and short, so that MPI sends it without asking the receiver
/// first.
struct FailureNotice {
  static constexpr std::size_t kMaxCulprits = 64;
  static constexpr std::size_t kMaxReasonLength = 699;

  FailureNotice() = default;
  explicit FailureNotice(const GroupFailure& failure)
      : rank(failure.rank),
        is_timeout(failure.is_timeout ? 1 : 0),
        num_culprits(static_cast<std::uint32_t>(std::min(failure.culprits.size(), kMaxCulprits))) {
    std::copy_n(failure.culprits.begin(), num_culprits, culprits.begin());
    std::copy_n(failure.reason.begin(), std::min(failure.reason.size(), kMaxReasonLength), reason.begin());
  }

  GroupFailure failure() const {
    return {.rank = rank,
            .reason = reason.data(),
            .culprits = {culprits.begin(), culprits.begin() + num_culprits},
            .is_timeout = is_timeout != 0};
  }

  std::int32_t rank = 0;
  std::int32_t is_timeout = 0;
  std::uint32_t num_culprits = 0;
  std::array<std::int32_t, kMaxCulprits> culprits{};
  std::array<char, kMaxReasonLength + 1> reason{};  ///< ends with a zero
};

}  // namespace flexep
