// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <string>

#include "flexep/error.h"
#include "flexep/tensor.h"

/// Shapes are formatted as they are, so that a check passes the shape itself and no text is made while it
/// holds.
template <>
struct fmt::formatter<flexep::Shape> : fmt::formatter<std::string> {
  template <typename Context>
  auto format(const flexep::Shape& shape, Context& context) const {
    return fmt::formatter<std::string>::format(shape.to_string(), context);
  }
};

namespace flexep {

/// Throws InvalidArgument for `argument` unless `condition` holds; the message is formatted only then.
template <typename... Args>
void require_argument(bool condition, const char* argument, fmt::format_string<Args...> format,
                      Args&&... args) {
  if (!condition) throw InvalidArgument(argument, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace flexep
