// SPDX-License-Identifier: Apache-2.0
//
// Messages of any length over an MPI that counts bytes in an int. The MPI here only takes notes, so that
// gigabytes cost nothing.
#include "transport/mpi/mpi_messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "flexep/error.h"

namespace flexep {
namespace {

using testing::ElementsAre;

constexpr std::size_t kMost = MpiCommunicator::kMaxMessageBytes;

/// What MPI was asked to send or receive.
struct Piece {
  const std::byte* begin;
  std::size_t num_bytes;
  MpiProgress progress = MpiProgress::kUnderWay;
};

class NotedRequest final : public MpiRequest {
 public:
  explicit NotedRequest(const MpiProgress& progress) : progress_(progress) {}
  MpiProgress test() override { return progress_; }
  void cancel() override {}
  std::string error() const override { return "the cable is cut"; }

 private:
  const MpiProgress& progress_;
};

class NotingCommunicator final : public MpiCommunicator {
 public:
  explicit NotingCommunicator(std::vector<std::unique_ptr<Piece>>& pieces) : pieces_(pieces) {}

  int rank() const override { return 0; }
  int num_ranks() const override { return 2; }
  int max_tag() const override { return 32767; }
  int first_rank_of_machine() override { return 0; }
  void all_gather(std::span<const std::byte>, std::span<std::byte>) override {}
  std::unique_ptr<MpiRequest> send(int, int, std::span<const std::byte> bytes) override {
    return note(bytes);
  }
  std::unique_ptr<MpiRequest> receive(int, int, std::span<std::byte> bytes) override { return note(bytes); }
  bool take(int, std::span<std::byte>) override { return false; }

 private:
  std::unique_ptr<MpiRequest> note(std::span<const std::byte> bytes) {
    pieces_.push_back(std::make_unique<Piece>(Piece{bytes.data(), bytes.size()}));
    return std::make_unique<NotedRequest>(pieces_.back()->progress);
  }

  std::vector<std::unique_ptr<Piece>>& pieces_;
};

class NotingLibrary final : public MpiLibrary {
 public:
  std::string description() const override { return "an MPI that takes notes"; }
  std::size_t handle_bytes() const override { return 0; }
  bool is_initialized() const override { return true; }
  bool is_finalized() const override { return false; }
  void initialize() override {}
  void finalize() override {}
  MpiThreads threads() const override { return MpiThreads::kAny; }
  bool is_main_thread() const override { return true; }
  std::unique_ptr<MpiCommunicator> duplicate(const void*) override { return nullptr; }
};

class MpiMessagesTest : public testing::Test {
 protected:
  // The end of the group waits a while for messages that are under way.
  void TearDown() override {
    for (const auto& piece : pieces_) piece->progress = MpiProgress::kComplete;
  }

  std::vector<std::size_t> lengths() const {
    std::vector<std::size_t> all;
    for (const auto& piece : pieces_) all.push_back(piece->num_bytes);
    return all;
  }
  /// Nobody looks at these bytes.
  static std::span<std::byte> bytes(std::size_t num_bytes) {
    return {reinterpret_cast<std::byte*>(std::uintptr_t{1} << 32), num_bytes};
  }

  NotingLibrary library_;
  std::vector<std::unique_ptr<Piece>> pieces_;
  MpiMessages messages_{
      std::make_shared<MpiWorld>(library_, std::make_unique<NotingCommunicator>(pieces_)), 0, {0, 1}};
};

TEST_F(MpiMessagesTest, NoPieceIsLongerThanMpiCanCount) {
  static_assert(kMost <= static_cast<std::size_t>(std::numeric_limits<int>::max()));
  messages_.send(1, bytes(kMost));
  EXPECT_THAT(lengths(), ElementsAre(kMost));
  messages_.send(1, bytes(kMost + 1));
  EXPECT_THAT(lengths(), ElementsAre(kMost, kMost, 1));
  messages_.receive(1, bytes(3 * kMost - 16));
  EXPECT_THAT(lengths(), ElementsAre(kMost, kMost, 1, kMost, kMost, kMost - 16));
}

TEST_F(MpiMessagesTest, PiecesFollowEachOther) {
  const auto message = bytes(2 * kMost + 7);
  messages_.send(1, message);
  const std::byte* next = message.data();
  for (const auto& piece : pieces_) {
    EXPECT_EQ(piece->begin, next);
    next += piece->num_bytes;
  }
  EXPECT_EQ(next, message.data() + message.size());
}

TEST_F(MpiMessagesTest, AnEmptyMessageIsOne) {
  const auto ticket = messages_.receive(1, {});
  EXPECT_THAT(lengths(), ElementsAre(0));
  EXPECT_FALSE(messages_.is_complete(ticket));
}

TEST_F(MpiMessagesTest, AMessageIsCompleteWhenAllOfItsPiecesAre) {
  const auto ticket = messages_.receive(1, bytes(kMost + 1));
  pieces_[1]->progress = MpiProgress::kComplete;
  EXPECT_FALSE(messages_.is_complete(ticket));
  pieces_[0]->progress = MpiProgress::kComplete;
  EXPECT_TRUE(messages_.is_complete(ticket));
}

TEST_F(MpiMessagesTest, APieceThatFailsFailsTheMessage) {
  const auto ticket = messages_.send(1, bytes(kMost + 1));
  pieces_[0]->progress = MpiProgress::kComplete;
  pieces_[1]->progress = MpiProgress::kFailed;
  EXPECT_THROW(messages_.is_complete(ticket), TransportError);
}

}  // namespace
}  // namespace flexep
