// SPDX-License-Identifier: Apache-2.0
//
// How a new group is made of a broken one.
#include <algorithm>

#include "transport/shared_memory/channel.h"
#include "transport/shared_memory/election.h"

namespace flexep {

std::shared_ptr<Transport> Channel::rebuild(std::chrono::milliseconds patience) {
  require_member();
  // Ends the old group for everybody: whoever still waits in it is told, and can come here too.
  give_up("the group is being rebuilt", {}, false);
  Election election(
      control_block(0).ballot(),
      {.rank = rank_, .num_ranks = num_ranks(), .patience = patience, .cause_of_loss = [this](int rank) {
         return cause_of_loss(rank);
       }});
  std::vector<int> ranks;
  std::vector<Member> members;
  election.conclude([&] {
    ranks = election.settle_members();
    members = meet_again(election, ranks);
    // Nobody may give up his control block before all have mapped it.
    for (const int rank : ranks) election.await(rank, Ballot::Stage::kMapped);
  });
  const auto new_rank = std::find(ranks.begin(), ranks.end(), rank_) - ranks.begin();
  return std::shared_ptr<Channel>(
      new Channel(fabric_, timeout_, static_cast<int>(new_rank), 0, std::move(members)));
}

// Memory is made only now, so that none is announced to a rank that does not receive any more.
std::vector<Channel::Member> Channel::meet_again(Election& election, const std::vector<int>& ranks) {
  const auto num_members = static_cast<int>(ranks.size());
  std::vector<int> audience;
  for (const int rank : ranks) audience.push_back(members_[static_cast<std::size_t>(rank)].world_rank);
  const Segment mine = fabric_->create_segment(ControlBlock::num_bytes(num_members), audience);
  election.announce(mine.id);

  std::vector<Member> members;
  for (const int rank : ranks) {
    const SegmentId control = election.await(rank, Ballot::Stage::kMade).control;
    auto memory = rank == rank_ ? mine.memory : map_segment(rank, control);
    members.push_back({members_[static_cast<std::size_t>(rank)].world_rank, memory,
                       ControlBlock(memory.get(), num_members)});
  }
  election.confirm();
  return members;
}

}  // namespace flexep
