// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <span>
#include <string_view>

#include "flexep/error.h"

namespace flexep {

/// One rank's own part of a collective. Its error is kept back, so that the rank still comes to the next
/// gather and tells the others, and all ranks stay in step.
class Attempt {
 public:
  /// How it went, as bytes for the others.
  struct Report {
    static constexpr std::size_t kMaxReasonLength = 247;
    bool has_failed = false;
    char reason[kMaxReasonLength + 1] = {};
  };

  template <typename Part>
  explicit Attempt(Part part) {
    try {
      part();
    } catch (const std::exception& error) {
      error_ = std::current_exception();
      report_.has_failed = true;
      const auto text = std::string_view(error.what()).substr(0, Report::kMaxReasonLength);
      std::copy(text.begin(), text.end(), report_.reason);
    }
  }

  const Report& report() const { return report_; }

  /// Throws unless all ranks' parts succeeded: a rank's own error there, on the others TransportError that
  /// names the first rank that failed.
  void require_success(std::string_view operation, std::span<const Report> reports) const {
    if (error_) std::rethrow_exception(error_);
    const auto failed =
        std::find_if(reports.begin(), reports.end(), [](const Report& report) { return report.has_failed; });
    if (failed == reports.end()) return;
    const auto rank = static_cast<int>(failed - reports.begin());
    throw TransportError(fmt::format("rank {} failed in {}: {}", rank, operation, failed->reason), {rank});
  }

 private:
  std::exception_ptr error_;
  Report report_;
};

}  // namespace flexep
