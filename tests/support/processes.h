// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <exception>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

namespace flexep::test {

/// The ranks of one job as processes forked from the test, which must not have started threads.
class Processes {
 public:
  /// Runs `body(rank)` in `num_ranks` processes that find each other by `job_id`. Its result is the exit
  /// code; an exception, printed, is kThrew.
  Processes(const std::string& job_id, int num_ranks, const std::function<int(int rank)>& body) {
    std::cout.flush();
    for (int rank = 0; rank < num_ranks; ++rank) {
      const pid_t pid = fork();
      if (pid == 0) run_child(job_id, rank, num_ranks, body);
      pids_.push_back(pid);
    }
  }
  ~Processes() {
    for (const pid_t pid : pids_) kill(pid, SIGKILL);
    for (const pid_t pid : pids_) waitpid(pid, nullptr, 0);
  }

  static constexpr int kThrew = 99;

  void signal(int rank, int number) const { kill(pids_[static_cast<std::size_t>(rank)], number); }

  /// Waits for the end of a rank: its exit code, or 128 + the signal that ended it.
  int exit_code_of(int rank) {
    pid_t& pid = pids_[static_cast<std::size_t>(rank)];
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  [[noreturn]] static void run_child(const std::string& job_id, int rank, int num_ranks,
                                     const std::function<int(int rank)>& body) {
    setenv("FLEXEP_JOB_ID", job_id.c_str(), 1);
    setenv("RANK", std::to_string(rank).c_str(), 1);
    setenv("WORLD_SIZE", std::to_string(num_ranks).c_str(), 1);
    int code = kThrew;
    try {
      code = body(rank);
    } catch (const std::exception& error) {
      std::cerr << "rank " << rank << ": " << error.what() << std::endl;
    }
    // Not exit(): the test framework's own exit handlers belong to the parent.
    std::_Exit(code);
  }

  std::vector<pid_t> pids_;
};

}  // namespace flexep::test
