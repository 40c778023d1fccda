// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>

namespace flexep {

/// Whether a group of this process has ever been broken, by itself or another rank: then some rank may never
/// come to what all ranks do together at the end of a program.
inline std::atomic<bool>& broken_group_flag() {
  static std::atomic<bool> flag = false;
  return flag;
}
inline bool has_broken_group() {
  return broken_group_flag();
}
inline void note_broken_group() {
  broken_group_flag() = true;
}

}  // namespace flexep
