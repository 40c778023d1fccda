// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "launcher/child_process.h"

namespace moe_lm {

/// A process of a job, as /proc shows it.
struct JobProcess {
  pid_t pid = 0;
  std::map<std::string, std::string> environment;
};

/// A run of the program moe_lm, seen from outside.
class Job {
 public:
  explicit Job(const std::vector<std::string>& arguments);

  /// Reads its output until `text` is in it. @return false when it ends, or a minute passes, before.
  bool wait_for_output(const std::string& text);
  /// Reads its output until it ends. @return its exit code as a shell says it; -1 when it does not end in
  /// time.
  int wait(std::chrono::seconds timeout = std::chrono::seconds(50));

  /// Its processes that are alive: the one that was started, and the ranks that this one started.
  std::vector<JobProcess> processes() const;

  const std::string& out() const { return out_; }
  const std::string& err() const { return err_; }

 private:
  /// Reads what is there; waits for it a twentieth of a second. @return false when nothing more can come.
  bool read_some();

  std::string mark_;  ///< in the environment of all of its processes, and of no others
  flexep::ChildProcess process_;
  std::string out_;
  std::string err_;
};

}  // namespace moe_lm
