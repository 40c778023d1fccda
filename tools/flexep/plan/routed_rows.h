// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "plan/sampled_routing.h"
#include "plan/variant.h"

namespace flexep::tool {

/// The rows of one variant of an operation between ranks, in the direction of dispatch.
class RoutedRows {
 public:
  RoutedRows(const PlanInputs& inputs, const SampledRouting& routing, const Variant& variant)
      : domain_size_(inputs.num_scaleup_ranks),
        scale_(routing.scale),
        placed_(table_of(routing, variant.placed())),
        crossing_(table_of(routing, variant.crossing())),
        crosses_per_domain_(variant.crossing() == RowsPer::kDomain) {}

  int domain_of(int rank) const { return rank / domain_size_; }
  /// The rank of `domain` with the same index in it as `rank`: what crosses between the two domains goes
  /// there.
  int forwarder(int rank, int domain) const { return domain * domain_size_ + rank % domain_size_; }

  /// Rows that lie at `to` for tokens of `source`.
  double placed(int source, int to) const { return scale_ * placed_.at(source, to); }
  /// Rows that cross from `source` straight to `to`.
  double crossing_direct(int source, int to) const { return scale_ * crossing_.at(source, to); }
  /// Rows that cross from `source` to its forwarder in `domain`.
  double to_domain(int source, int domain) const {
    if (crosses_per_domain_) return scale_ * crossing_.at(source, domain);
    double rows = 0;
    for (int to = domain * domain_size_; to < (domain + 1) * domain_size_; ++to)
      rows += crossing_direct(source, to);
    return rows;
  }

 private:
  static const CountTable& table_of(const SampledRouting& routing, RowsPer rows) {
    switch (rows) {
      case RowsPer::kPair:
        return routing.pairs;
      case RowsPer::kRank:
        return routing.tokens;
      case RowsPer::kDomain:
        return routing.domains;
    }
    return routing.tokens;
  }

  int domain_size_;
  double scale_;
  const CountTable& placed_;
  const CountTable& crossing_;
  bool crosses_per_domain_;
};

}  // namespace flexep::tool
