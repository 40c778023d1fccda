// SPDX-License-Identifier: Apache-2.0
#include "job.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

namespace moe_lm {
namespace {

constexpr const char* kMarkName = "MOE_LM_TEST_JOB";

std::string new_mark() {
  static int num_jobs = 0;
  return fmt::format("{}.{}", getpid(), num_jobs++);
}

flexep::ChildProcess start(const std::vector<std::string>& arguments, const std::string& mark) {
  std::vector<std::string> command = {MOE_LM_PROGRAM};
  command.insert(command.end(), arguments.begin(), arguments.end());
  sigset_t no_signals;
  sigemptyset(&no_signals);
  return flexep::ChildProcess::spawn(
      {.command = command, .environment = {{kMarkName, mark}}, .signal_mask = no_signals});
}

/// Appends what is there to `text`; closes the file at its end.
void take(flexep::FileDescriptor& file, std::string& text) {
  std::array<char, 4096> bytes;
  const ssize_t num_bytes = read(file.get(), bytes.data(), bytes.size());
  if (num_bytes > 0) {
    text.append(bytes.data(), static_cast<std::size_t>(num_bytes));
  } else {
    file.close();
  }
}

/// Empty when the process is gone, or not ours to look at.
std::map<std::string, std::string> environment_of(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/environ", pid), std::ios::binary);
  std::map<std::string, std::string> environment;
  for (std::string entry; std::getline(file, entry, '\0');) {
    const auto equals = entry.find('=');
    if (equals != std::string::npos) environment[entry.substr(0, equals)] = entry.substr(equals + 1);
  }
  return environment;
}

}  // namespace

Job::Job(const std::vector<std::string>& arguments) : mark_(new_mark()), process_(start(arguments, mark_)) {}

bool Job::read_some() {
  std::array<pollfd, 2> files = {pollfd{.fd = process_.out().get(), .events = POLLIN},
                                 pollfd{.fd = process_.err().get(), .events = POLLIN}};
  if (!process_.out().is_open() && !process_.err().is_open()) return false;
  poll(files.data(), files.size(), /*timeout_ms=*/50);
  if (files[0].revents != 0) take(process_.out(), out_);
  if (files[1].revents != 0) take(process_.err(), err_);
  return true;
}

bool Job::wait_for_output(const std::string& text) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (out_.find(text) == std::string::npos) {
    if (!read_some() || std::chrono::steady_clock::now() > deadline) return false;
  }
  return true;
}

int Job::wait(std::chrono::seconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (std::chrono::steady_clock::now() < deadline) {
    if (read_some()) continue;
    if (const auto status = process_.try_reap()) return status->shell_code();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return -1;
}

std::vector<JobProcess> Job::processes() const {
  std::vector<JobProcess> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    pid_t pid = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), pid).ec != std::errc()) continue;
    auto environment = environment_of(pid);
    const auto mark = environment.find(kMarkName);
    if (mark != environment.end() && mark->second == mark_) found.push_back({pid, std::move(environment)});
  }
  return found;
}

}  // namespace moe_lm
