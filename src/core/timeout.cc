// SPDX-License-Identifier: Apache-2.0
#include "core/timeout.h"

#include "common/check.h"

namespace flexep {
namespace {

using Seconds = std::chrono::duration<double>;

constexpr Seconds kDefault{300};
constexpr Seconds kShortest{0.001};
constexpr Seconds kLongest = std::chrono::hours(24 * 365 * 10);

std::chrono::milliseconds require_in_range(Seconds timeout, const char* name) {
  // Written so that it refuses NaN.
  require_argument(kShortest <= timeout && timeout <= kLongest, name,
                   "{} is {} s, but must be between 1 ms and 10 years", name, timeout.count());
  return std::chrono::duration_cast<std::chrono::milliseconds>(timeout);
}

}  // namespace

std::chrono::milliseconds resolve_timeout(const CommunicatorOptions& options, const Environment& env) {
  if (options.timeout.count() != 0) return require_in_range(options.timeout, "timeout");
  return require_in_range(Seconds(env.timeout_secs.value_or(kDefault.count())), "FLEXEP_TIMEOUT_SECS");
}

std::chrono::milliseconds resolve_patience(std::chrono::milliseconds patience,
                                           std::chrono::milliseconds timeout) {
  return patience.count() != 0 ? require_in_range(patience, "patience") : timeout;
}

}  // namespace flexep
