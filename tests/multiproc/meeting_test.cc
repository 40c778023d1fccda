// SPDX-License-Identifier: Apache-2.0
//
// How the processes of a job find each other, among strangers.
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "flexep/flexep.h"
#include "job.h"
#include "transport/shm/socket.h"

namespace flexep {
namespace {

using test::job_id;
using test::num_failed;
using test::Processes;
using namespace std::chrono_literals;

// The name of a socket that contains `part`, once there is one.
std::string await_socket(const std::string& part) {
  for (;; std::this_thread::sleep_for(5ms)) {
    std::ifstream sockets("/proc/net/unix");
    for (std::string line; std::getline(sockets, line);) {
      if (line.find(part) != std::string::npos) return line.substr(line.find('@') + 1);
    }
  }
}

TEST(MeetingTest, SilentStrangerDoesNotKeepRanksOut) {
  const std::string id = job_id("mute");
  Processes processes(id, 3, [&](int rank) {
    setenv("WORLD_SIZE", "2", 1);
    if (rank == 2) {
      const auto link = connect_to(await_socket(id), Deadline(20s));
      std::this_thread::sleep_for(40s);
      return 0;
    }
    if (rank == 1) std::this_thread::sleep_for(500ms);
    const auto begin = std::chrono::steady_clock::now();
    Communicator::from_environment({.timeout = 30s}).barrier();
    return std::chrono::steady_clock::now() - begin < 20s ? 0 : 1;
  });
  EXPECT_EQ(num_failed(processes, 2), 0);
}

TEST(MeetingTest, ProcessesThatAgreedOnAJobNeedNoEnvironment) {
  const std::string id = job_id("agreed");
  Processes processes(id, 2, [&](int rank) {
    unsetenv("RANK");
    unsetenv("WORLD_SIZE");
    for (const auto& name : {id + "a", id + "b"}) {
      auto comm = Communicator::from_job({.id = name, .rank = rank, .num_ranks = 2}, {.timeout = 30s});
      comm.barrier();
      if (comm.rank() != rank || comm.num_ranks() != 2) return 1;
    }
    return 0;
  });
  EXPECT_EQ(num_failed(processes, 2), 0);
  EXPECT_THROW(Communicator::from_job({.id = id, .rank = 2, .num_ranks = 2}), InvalidArgument);
  EXPECT_THROW(Communicator::from_job({.rank = 0, .num_ranks = 2}), InvalidArgument);
}

TEST(MeetingTest, FailedMeetingCanBeTriedAgain) {
  Processes processes(job_id("again"), 2, [](int rank) {
    if (rank == 0) {
      EXPECT_THROW(Communicator::from_environment({.timeout = 100ms}), TimeoutError);
    } else {
      std::this_thread::sleep_for(400ms);
    }
    Communicator::from_environment({.timeout = 30s}).barrier();
    return 0;
  });
  EXPECT_EQ(num_failed(processes, 2), 0);
}

TEST(MeetingTest, SocketOfAnotherUserIsNotTrusted) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can act as another user";
  const std::string name = job_id("other_user");
  Processes processes(name, 1, [&](int) {
    if (setuid(65534) != 0) return 1;
    const FileDescriptor listener = listen_at(name, 4, Deadline(10s));
    std::this_thread::sleep_for(20s);
    return 0;
  });
  await_socket(name);
  try {
    connect_to(name, Deadline(10s));
    ADD_FAILURE() << "connected";
  } catch (const TransportError& error) {
    EXPECT_NE(std::string(error.what()).find("another user"), std::string::npos) << error.what();
  }
}

TEST(MeetingTest, TimeoutsOutsideTheirRangeAreInvalid) {
  const auto argument_of = [](const CommunicatorOptions& options) -> std::string {
    try {
      Communicator::self(options);
    } catch (const InvalidArgument& error) {
      return error.argument();
    }
    return "";
  };
  EXPECT_EQ(argument_of({.timeout = -1ms}), "timeout");
  EXPECT_EQ(argument_of({.timeout = std::chrono::milliseconds::max()}), "timeout");
  EXPECT_EQ(argument_of({.timeout = 24h * 3650}), "");
  for (const char* secs : {"inf", "nan", "1e300", "0", "-1", "0.0001"}) {
    setenv("FLEXEP_TIMEOUT_SECS", secs, 1);
    EXPECT_EQ(argument_of({}), "FLEXEP_TIMEOUT_SECS") << secs;
  }
  unsetenv("FLEXEP_TIMEOUT_SECS");
}

TEST(MeetingTest, SingleRankHasTheTimeoutThatWasAskedFor) {
  Processes processes(job_id("single"), 1, [](int) {
    return Communicator::from_environment({.timeout = 1234ms}).timeout() == 1234ms ? 0 : 1;
  });
  EXPECT_EQ(num_failed(processes, 1), 0);
}

}  // namespace
}  // namespace flexep
