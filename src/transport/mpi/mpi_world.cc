// SPDX-License-Identifier: Apache-2.0
#include "transport/mpi/mpi_world.h"

#include <algorithm>

namespace flexep {
namespace {

// Two tags for each name.
std::uint64_t names_per_rank(const MpiCommunicator& communicator) {
  return static_cast<std::uint64_t>(std::max(communicator.max_tag() / 2 / communicator.num_ranks(), 1));
}

}  // namespace

MpiWorld::MpiWorld(MpiLibrary& library, std::unique_ptr<MpiCommunicator> communicator)
    : library_(library),
      communicator_(std::move(communicator)),
      threads_(library.threads()),
      num_names_per_rank_(names_per_rank(*communicator_)),
      has_contact_(static_cast<std::size_t>(communicator_->num_ranks())) {}

std::uint64_t MpiWorld::draw_group_name() {
  const auto rank = static_cast<std::uint64_t>(communicator_->rank());
  return rank * num_names_per_rank_ + num_names_++ % num_names_per_rank_;
}

}  // namespace flexep
