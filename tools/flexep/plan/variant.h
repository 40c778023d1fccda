// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace flexep::tool {

enum class Operation : std::uint8_t { kDispatch, kCombine };

/// For what a token has a row of its own.
enum class RowsPer : std::uint8_t { kPair, kRank, kDomain };

/// One way to run an operation.
struct Variant {
  Operation operation = Operation::kDispatch;
  bool do_expand = false;
  bool allow_multiple_reduction = true;  ///< combine alone has it
  bool is_hybrid = false;

  /// What rows lie for on the ranks, and cross links inside a domain for: it is stored and read in place.
  RowsPer placed() const { return do_expand ? RowsPer::kPair : RowsPer::kRank; }
  /// What rows cross between domains for.
  RowsPer crossing() const;

  /// "dispatch", "combine", "combine, one reduction".
  std::string operation_name() const;
  const char* layout_name() const { return do_expand ? "expanded" : "compact"; }
  const char* mode_name() const { return is_hybrid ? "hybrid" : "direct"; }
};

/// Every one that there is: direct ones, and hybrid ones if there are several domains.
std::vector<Variant> all_variants(bool has_domains);

}  // namespace flexep::tool
