// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/types.h"

namespace flexep::moe {

/// Calls visitor(T{}) for a type that is computed in as it is: fp32 or fp64.
template <typename Visitor>
void visit_wide(DType dtype, Visitor&& visitor) {
  if (dtype == DType::kFloat64) return visitor(double{});
  visitor(float{});
}

/// Calls visitor(T{}, P{}) for the types of rows, which are summable, and of their probabilities, fp32 or
/// fp64.
template <typename Visitor>
void visit_rows_and_probs(DType rows, DType probs, Visitor&& visitor) {
  visit_summable(rows, [&](auto row) { visit_wide(probs, [&](auto prob) { visitor(row, prob); }); });
}

}  // namespace flexep::moe
