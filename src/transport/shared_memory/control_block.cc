// SPDX-License-Identifier: Apache-2.0
#include "transport/shared_memory/control_block.h"

#include "common/math.h"

namespace flexep {
namespace {

constexpr std::size_t kLine = 64;

}  // namespace

std::size_t ControlBlock::num_bytes(int num_ranks) {
  return align_up(sizeof(Header), kLine) + static_cast<std::size_t>(num_ranks) * sizeof(Signal) +
         2 * sizeof(Slot) + Ballot::num_bytes(num_ranks);
}

ControlBlock::ControlBlock(std::byte* memory, int num_ranks) : memory_(memory) {
  std::byte* next = memory + align_up(sizeof(Header), kLine);
  arrivals_ = reinterpret_cast<Signal*>(next);
  next += static_cast<std::size_t>(num_ranks) * sizeof(Signal);
  slots_ = reinterpret_cast<Slot*>(next);
  ballot_ = Ballot(next + 2 * sizeof(Slot));
}

}  // namespace flexep
