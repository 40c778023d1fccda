// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace flexep::cpu {

/// How a kernel stores whole rows.
enum class StoreMode {
  kCached,     ///< ordinary stores: the reader finds small data in a cache
  kStreaming,  ///< around the caches: data larger than a cache is written without being read first
};

}  // namespace flexep::cpu
