// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace flexep::tool {

/// What this binary was built from, and how.
struct BuildInfo {
  std::string_view version;
  std::string_view commit;  ///< empty when the sources are not a git repository
  bool dirty = false;       ///< tracked files differed from the commit
  std::string_view build_type;
  std::string_view compiler;
  std::string_view transports;  ///< separated by commas
  std::string_view devices;
};

BuildInfo build_info();

}  // namespace flexep::tool
