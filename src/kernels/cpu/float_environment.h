// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cfenv>

namespace flexep::cpu {

/// While it lives, this thread rounds to nearest even, keeps subnormals and masks floating-point traps,
/// whatever the program has set; then the program's settings and exception flags are as before. So that
/// results do not depend on -ffast-math start-up code, or on a library that sets flush-to-zero. About 100 ns.
class FloatEnvironment {
 public:
  FloatEnvironment() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~FloatEnvironment() { std::fesetenv(&saved_); }
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

 private:
  std::fenv_t saved_;
};

}  // namespace flexep::cpu
