// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/math.h"

namespace flexep {

/// What all ranks agree on before a dispatch is planned.
struct RoutingShape {
  int num_ranks = 1;
  int num_experts = 1;  ///< E, a multiple of num_ranks
  int num_topk = 1;     ///< K
  int expert_alignment = 1;
  bool do_expand = false;

  int num_local_experts() const { return num_experts / num_ranks; }
  int owner_of(std::int64_t expert) const { return static_cast<int>(expert) / num_local_experts(); }
};

/// RoutingShape::owner_of for loops over pairs, in which a division would be half the time.
class ExpertOwners {
 public:
  /// 2^32 / El, rounded up: exact, since an expert's index and El have at most 16 bits.
  explicit ExpertOwners(const RoutingShape& shape)
      : reciprocal_(ceil_div(std::uint64_t{1} << 32, static_cast<std::uint64_t>(shape.num_local_experts()))) {
  }
  std::int32_t operator[](std::int64_t expert) const {
    return static_cast<std::int32_t>(static_cast<std::uint64_t>(expert) * reciprocal_ >> 32);
  }

 private:
  std::uint64_t reciprocal_;
};

/// One rank's top-k experts: [num_tokens, num_topk], -1 = not routed.
struct TopkIds {
  std::span<const std::int64_t> ids;
  int num_tokens = 0;
  int num_topk = 0;

  std::span<const std::int64_t> of(int token) const {
    return ids.subspan(static_cast<std::size_t>(token) * static_cast<std::size_t>(num_topk),
                       static_cast<std::size_t>(num_topk));
  }
};

}  // namespace flexep
