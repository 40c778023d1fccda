// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "bench/bench_operation.h"

namespace flexep::tool {

/// The steps of a dispatch that look for mistakes: its arguments are validated, and its ids are validated
/// while they are counted. The floor is the counting alone, so that the difference is what the checks cost.
class CheckCost final : public BenchOperation {
 public:
  explicit CheckCost(BenchRank& rank) : rank_(rank) {}

  std::string_view name() const override { return "checks"; }
  void enqueue() override;
  void discard() override { counts_.clear(); }
  Finding check() const override;
  void run_floor() override { unchecked_counts_ = count_unchecked(); }

 private:
  std::vector<std::int32_t> count_unchecked() const;

  BenchRank& rank_;
  std::vector<std::int32_t> counts_;  ///< [R + E]
  std::vector<std::int32_t> unchecked_counts_;
};

}  // namespace flexep::tool
