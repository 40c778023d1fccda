// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <string>

#include "flexep/error.h"

namespace flexep {

/// Throws InvalidArgument for `argument` unless `condition` holds; the message is formatted only then.
template <typename... Args>
void require_argument(bool condition, const char* argument, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) throw InvalidArgument(argument, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace flexep
