// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "flexep/flexep.h"
#include "job.h"

namespace flexep {
namespace {

using test::job_id;
using test::num_failed;
using test::Processes;
using namespace std::chrono_literals;

// What a job could leave behind on the machine.
bool has_socket_of(const std::string& name_part) {
  std::ifstream sockets("/proc/net/unix");
  for (std::string line; std::getline(sockets, line);) {
    if (line.find(name_part) != std::string::npos) return true;
  }
  return false;
}

std::set<std::string> shared_memory_files() {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm"))
    names.insert(entry.path().string());
  return names;
}

// A dispatch and a combine that check themselves: expert e doubles its rows.
bool round_trip(ElasticBuffer& buffer, int num_tokens) {
  const int num_ranks = buffer.num_ranks();
  Tensor x = Tensor::empty({num_tokens, 64}, DType::kFloat32);
  Tensor topk_idx = Tensor::empty({num_tokens, 1}, DType::kInt64);
  for (int token = 0; token < num_tokens; ++token) {
    topk_idx.data<std::int64_t>()[token] = (token + buffer.rank()) % num_ranks;
    for (int i = 0; i < 64; ++i)
      x.data<float>()[token * 64 + i] = static_cast<float>(token * 100 + buffer.rank());
  }
  auto recv = buffer.dispatch({.x = x, .topk_idx = topk_idx, .num_experts = num_ranks});
  for (float& value : recv.x.values<float>()) value *= 2;
  const auto out = buffer.combine({.x = recv.x, .handle = recv.handle});
  for (std::size_t i = 0; i < x.values<float>().size(); ++i) {
    if (out.x.values<float>()[i] != 2 * x.values<float>()[i]) return false;
  }
  return true;
}

TEST(ShmTest, ProcessesMeetAndExchangeRows) {
  constexpr int kNumRanks = 4;
  Processes processes(job_id("meet"), kNumRanks, [](int rank) {
    Communicator comm = Communicator::from_environment({.timeout = 60s});
    ElasticBuffer buffer(comm);
    bool ok = comm.rank() == rank && comm.num_ranks() == kNumRanks && comm.transport_name() == "shm";
    // Growing sizes: every arena has to grow several times, and every rank to map what the others grew.
    for (const int num_tokens : {0, 1, 100, 5000, 60000, 7}) ok = ok && round_trip(buffer, num_tokens);
    return ok ? 0 : 1;
  });
  EXPECT_EQ(num_failed(processes, kNumRanks), 0);
}

TEST(ShmTest, SeveralGroupsAndBuffersOfOneJobAreIndependent) {
  constexpr int kNumRanks = 3;
  Processes processes(job_id("several"), kNumRanks, [](int) {
    Communicator first = Communicator::from_environment({.timeout = 60s});
    Communicator second = Communicator::from_environment({.timeout = 60s});
    ElasticBuffer a(first);
    ElasticBuffer b(second.split(0, -second.rank()));
    bool ok = true;
    std::thread other([&] {
      for (int i = 0; i < 50; ++i) ok = ok && round_trip(b, i);
    });
    bool mine = true;
    for (int i = 0; i < 50; ++i) mine = mine && round_trip(a, 50 - i);
    other.join();
    return ok && mine ? 0 : 1;
  });
  EXPECT_EQ(num_failed(processes, kNumRanks), 0);
}

TEST(ShmTest, JobsAtTheSameTimeDoNotMeet) {
  const auto body = [](int) {
    Communicator comm = Communicator::from_environment({.timeout = 60s});
    ElasticBuffer buffer(comm);
    return comm.num_ranks() == 2 && round_trip(buffer, 10) ? 0 : 1;
  };
  Processes first(job_id("one"), 2, body);
  Processes second(job_id("two"), 2, body);
  EXPECT_EQ(num_failed(first, 2) + num_failed(second, 2), 0);
}

TEST(ShmTest, DeadProcessIsNamedWithinSecondsAndNothingIsLeft) {
  constexpr int kNumRanks = 4;
  constexpr int kVictim = 2;
  const std::string id = job_id("killed");
  const auto files_before = shared_memory_files();
  Processes processes(id, kNumRanks, [](int) {
    Communicator comm = Communicator::from_environment({.timeout = 60s});
    ElasticBuffer buffer(comm);
    try {
      for (;;) round_trip(buffer, 200);
    } catch (const TransportError& error) {
      return error.failed_ranks() == std::vector<int>{kVictim} ? 7 : 1;
    }
  });
  std::this_thread::sleep_for(500ms);
  const auto killed_at = std::chrono::steady_clock::now();
  processes.signal(kVictim, SIGKILL);
  EXPECT_EQ(processes.exit_code_of(kVictim), 128 + SIGKILL);
  for (const int rank : {0, 1, 3}) EXPECT_EQ(processes.exit_code_of(rank), 7) << "rank " << rank;
  EXPECT_LT(std::chrono::steady_clock::now() - killed_at, 10s);
  EXPECT_FALSE(has_socket_of(id));
  EXPECT_EQ(shared_memory_files(), files_before);
}

TEST(ShmTest, RankThatNeverComesIsNamed) {
  Processes processes(job_id("absent"), 3, [](int rank) {
    if (rank == 1) return 0;
    try {
      Communicator::from_environment({.timeout = 500ms});
    } catch (const TimeoutError& error) {
      const auto& missing = error.missing_ranks();
      return std::find(missing.begin(), missing.end(), 1) != missing.end() ? 7 : 1;
    }
    return 1;
  });
  EXPECT_EQ(processes.exit_code_of(0), 7);
  EXPECT_EQ(processes.exit_code_of(1), 0);
  EXPECT_EQ(processes.exit_code_of(2), 7);
}

TEST(ShmTest, StoppedRankIsATimeoutThatNamesIt) {
  Processes processes(job_id("stopped"), 3, [](int rank) {
    Communicator comm = Communicator::from_environment({.timeout = 8s});
    ElasticBuffer buffer(comm);
    round_trip(buffer, 10);
    if (rank == 1) raise(SIGSTOP);
    try {
      round_trip(buffer, 10);
    } catch (const TimeoutError& error) {
      return error.missing_ranks() == std::vector<int>{1} && error.operation() == "dispatch" &&
                     error.sequence_number() == 3
                 ? 7
                 : 1;
    }
    return 0;
  });
  EXPECT_EQ(processes.exit_code_of(0), 7);
  EXPECT_EQ(processes.exit_code_of(2), 7);
  // Woken up, it learns that the others have given it up, instead of waiting for them.
  processes.signal(1, SIGCONT);
  EXPECT_EQ(processes.exit_code_of(1), 7);
}

TEST(ShmTest, EnvironmentThatDoesNotFitIsAnErrorThatNamesTheVariable) {
  const auto argument_with = [](const char* name, const char* value) {
    Processes processes(job_id("environment"), 1, [&](int) {
      setenv("WORLD_SIZE", "2", 1);
      if (*value == '\0') {
        unsetenv(name);
      } else {
        setenv(name, value, 1);
      }
      try {
        Communicator::from_environment({.timeout = 200ms});
      } catch (const InvalidArgument& error) {
        return error.argument() == name ? 7 : 1;
      }
      return 1;
    });
    return processes.exit_code_of(0);
  };
  EXPECT_EQ(argument_with("RANK", "2"), 7);
  EXPECT_EQ(argument_with("RANK", "one"), 7);
  EXPECT_EQ(argument_with("RANK", ""), 7);
  EXPECT_EQ(argument_with("WORLD_SIZE", "0"), 7);
  EXPECT_EQ(argument_with("LOCAL_WORLD_SIZE", "1"), 7);
  EXPECT_EQ(argument_with("FLEXEP_JOB_ID", ""), 7);
}

}  // namespace
}  // namespace flexep
