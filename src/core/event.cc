// SPDX-License-Identifier: Apache-2.0
#include "flexep/event.h"

#include <chrono>

#include "common/check.h"

namespace flexep {

void Event::wait() const {
  require_argument(moment_.valid(), "event",
                   "there is no event to wait for: the operation was not asynchronous");
  moment_.get();
}

bool Event::is_done() const {
  return moment_.valid() && moment_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

}  // namespace flexep
