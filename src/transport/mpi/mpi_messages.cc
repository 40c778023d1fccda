// SPDX-License-Identifier: Apache-2.0
#include "transport/mpi/mpi_messages.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <thread>

#include "common/deadline.h"
#include "flexep/error.h"
#include "transport/mpi/failure_notice.h"
#include "transport/transport.h"

namespace flexep {
namespace {

using namespace std::chrono_literals;

/// How long MPI gets to take messages back, and to get a notice out: much longer than that takes between
/// ranks that are well, and short to wait for those that are not.
constexpr std::chrono::nanoseconds kLastMoments = 200ms;
constexpr std::chrono::nanoseconds kPollInterval = 100us;

using Requests = std::vector<std::unique_ptr<MpiRequest>>;

// Lets MPI work on the last messages of a group. @return whether all have ended, one way or the other.
bool bring_to_end(Requests& requests) {
  const auto have_ended = [&] {
    std::erase_if(requests, [](const auto& request) { return request->test() != MpiProgress::kUnderWay; });
    return requests.empty();
  };
  return wait_until(Deadline(kLastMoments), 1, have_ended,
                    [](std::chrono::nanoseconds) { std::this_thread::sleep_for(kPollInterval); });
}

}  // namespace

MpiMessages::MpiMessages(std::shared_ptr<MpiWorld> world, std::uint64_t name, std::vector<int> world_ranks)
    : world_(std::move(world)), name_(name), world_ranks_(std::move(world_ranks)) {}

Messages::Ticket MpiMessages::send(int rank, std::span<const std::byte> bytes) {
  return post(rank, bytes, [&](std::span<const std::byte> piece) {
    return world_->communicator().send(world_rank(rank), MpiWorld::message_tag(name_), piece);
  });
}

Messages::Ticket MpiMessages::receive(int rank, std::span<std::byte> bytes) {
  return post(rank, bytes, [&](std::span<std::byte> piece) {
    return world_->communicator().receive(world_rank(rank), MpiWorld::message_tag(name_), piece);
  });
}

template <typename Bytes, typename Post>
Messages::Ticket MpiMessages::post(int rank, Bytes bytes, Post post_piece) {
  require_usable();
  Message message{.rank = rank, .pieces = {}};
  do {  // an empty message is one, too
    const Bytes piece = bytes.first(std::min(bytes.size(), MpiCommunicator::kMaxMessageBytes));
    message.pieces.push_back(post_piece(piece));
    bytes = bytes.subspan(piece.size());
  } while (!bytes.empty());
  messages_.emplace(++last_ticket_, std::move(message));
  return last_ticket_;
}

bool MpiMessages::is_complete(Ticket ticket) {
  require_usable();
  const auto found = messages_.find(ticket);
  auto& [rank, pieces] = found->second;
  while (!pieces.empty()) {
    MpiRequest& piece = *pieces.front();
    switch (piece.test()) {
      case MpiProgress::kUnderWay:
        return false;
      case MpiProgress::kComplete:
        pieces.erase(pieces.begin());
        break;
      case MpiProgress::kOtherLength:
        throw CollectiveMismatch("length", {}, fmt::format("a message of rank {} has another length", rank));
      case MpiProgress::kFailed:
        throw_failed(rank, piece.error());
    }
  }
  world_->note_contact(world_rank(rank));
  messages_.erase(found);
  return true;
}

void MpiMessages::throw_failed(int rank, const std::string& reason) {
  losses_.emplace(rank, reason);
  throw TransportError(fmt::format("rank {} cannot be reached: {}", rank, reason), {rank});
}

void MpiMessages::require_usable() const {
  if (!world_->is_usable()) {
    throw TransportError(
        "MPI is of no use to this process any more: messages of a broken group are stuck in it");
  }
}

void MpiMessages::cancel() {
  if (messages_.empty() || !world_->is_usable()) return;
  Requests requests;
  for (auto& [ticket, message] : messages_) std::ranges::move(message.pieces, std::back_inserter(requests));
  messages_.clear();
  for (const auto& request : requests) request->cancel();
  if (!bring_to_end(requests)) world_->give_up();
}

// Only those hear of it who have heard this rank before; they tell their domains, through memory.
void MpiMessages::give_up(const GroupFailure& failure) {
  if (has_given_up_.test_and_set() || !world_->is_usable()) return;
  auto notice = std::make_unique<FailureNotice>(failure);
  Requests requests;
  for (int rank = 0; rank < static_cast<int>(world_ranks_.size()); ++rank) {
    const bool is_to_blame = std::ranges::find(failure.culprits, rank) != failure.culprits.end();
    if (is_to_blame || !world_->has_contact(world_rank(rank))) continue;
    requests.push_back(
        world_->communicator().send(world_rank(rank), MpiWorld::notice_tag(name_), bytes_of(*notice)));
  }
  // Those who are gone never take it: then it stays for as long as the process.
  if (!bring_to_end(requests)) static_cast<void>(notice.release());
}

std::optional<GroupFailure> MpiMessages::failure() {
  if (!failure_ && world_->is_usable()) {
    FailureNotice notice;
    if (world_->communicator().take(MpiWorld::notice_tag(name_),
                                    std::as_writable_bytes(std::span(&notice, 1))))
      failure_ = notice.failure();
  }
  return failure_;
}

std::optional<std::string> MpiMessages::cause_of_loss(int rank) {
  const auto found = losses_.find(rank);
  if (found == losses_.end()) return std::nullopt;
  return found->second;
}

// Others are told nothing: nobody would take the message where the group has ended in peace.
void MpiMessages::leave() {
  cancel();
}

std::shared_ptr<Messages> MpiMessages::subgroup(std::span<const int> ranks, std::uint64_t name) {
  std::vector<int> world_ranks;
  for (const int rank : ranks) world_ranks.push_back(world_rank(rank));
  return std::make_shared<MpiMessages>(world_, name, std::move(world_ranks));
}

}  // namespace flexep
