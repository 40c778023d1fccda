// SPDX-License-Identifier: Apache-2.0
#include "flexep/interruption.h"

#include <atomic>

#include "common/interruption.h"

namespace flexep {
namespace {

std::atomic<InterruptionCheck> interruption_check = nullptr;

}  // namespace

void set_interruption_check(InterruptionCheck check) {
  interruption_check.store(check);
}

bool is_interrupted() {
  const InterruptionCheck check = interruption_check.load(std::memory_order_relaxed);
  return check != nullptr && check();
}

}  // namespace flexep
