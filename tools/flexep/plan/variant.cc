// SPDX-License-Identifier: Apache-2.0
#include "plan/variant.h"

namespace flexep::tool {

RowsPer Variant::crossing() const {
  const bool is_dispatch = operation == Operation::kDispatch;
  if (is_hybrid && (is_dispatch || allow_multiple_reduction)) return RowsPer::kDomain;
  // Who owns several of a token's experts copies its row, or sums its rows, unless each has to be summed at
  // home.
  return do_expand && !is_dispatch && !allow_multiple_reduction ? RowsPer::kPair : RowsPer::kRank;
}

std::string Variant::operation_name() const {
  switch (operation) {
    case Operation::kDispatch:
      return "dispatch";
    case Operation::kCombine:
      return allow_multiple_reduction ? "combine" : "combine, one reduction";
  }
  return "";
}

std::vector<Variant> all_variants(bool has_domains) {
  std::vector<Variant> variants;
  for (const bool is_hybrid : {true, false}) {
    if (is_hybrid && !has_domains) continue;
    for (const bool do_expand : {false, true}) {
      for (const bool allow_multiple_reduction : {true, false}) {
        const Variant combine{.operation = Operation::kCombine,
                              .do_expand = do_expand,
                              .allow_multiple_reduction = allow_multiple_reduction,
                              .is_hybrid = is_hybrid};
        if (allow_multiple_reduction) variants.push_back({.do_expand = do_expand, .is_hybrid = is_hybrid});
        variants.push_back(combine);
      }
    }
  }
  return variants;
}

}  // namespace flexep::tool
