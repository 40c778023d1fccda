// SPDX-License-Identifier: Apache-2.0
#include "core/timeout.h"

#include "common/check.h"

namespace flexep {
namespace {

constexpr std::chrono::seconds kDefaultTimeout{300};

}  // namespace

std::chrono::milliseconds resolve_timeout(const CommunicatorOptions& options, const Environment& env) {
  if (options.timeout.count() > 0) return options.timeout;
  if (!env.timeout_secs) return kDefaultTimeout;
  require_argument(*env.timeout_secs > 0, "FLEXEP_TIMEOUT_SECS",
                   "FLEXEP_TIMEOUT_SECS is {}, but must be positive", *env.timeout_secs);
  return std::chrono::milliseconds(static_cast<std::int64_t>(*env.timeout_secs * 1000));
}

}  // namespace flexep
