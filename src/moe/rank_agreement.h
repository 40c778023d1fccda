// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>

#include "flexep/communicator.h"
#include "flexep/error.h"

namespace flexep::moe {

/// Runs `check`, which is local and may throw InvalidArgument, on every rank, and lets no rank go on unless
/// all may: a rank whose own check fails throws its own error, the others PeerError with the same text.
/// Collective: one exchange of a byte, and of the texts when there are any.
template <typename Check>
void check_on_all_ranks(Communicator& comm, Check&& check) {
  std::string text;
  std::string argument;
  try {
    check();
  } catch (const InvalidArgument& error) {
    text = error.what();
    argument = error.argument();
  }
  bool all_may = true;
  for (const char failed : comm.all_gather(static_cast<char>(argument.empty() ? 0 : 1)))
    all_may = all_may && failed == 0;
  if (all_may) return;
  const auto texts = comm.all_gather_bytes(std::as_bytes(std::span(text)));
  if (!argument.empty()) throw InvalidArgument(argument, text);
  for (std::size_t rank = 0; rank < texts.size(); ++rank) {
    const std::string theirs(reinterpret_cast<const char*>(texts[rank].data()), texts[rank].size());
    if (!theirs.empty())
      throw PeerError(static_cast<int>(rank), "rank " + std::to_string(rank) + ": " + theirs);
  }
}

}  // namespace flexep::moe
