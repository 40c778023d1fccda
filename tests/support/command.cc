// SPDX-License-Identifier: Apache-2.0
#include "support/command.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <sstream>
#include <stdexcept>
#include <thread>

namespace flexep::testing {
namespace {

int memory_file(const char* name) {
  const int fd = memfd_create(name, MFD_CLOEXEC);
  if (fd < 0) throw std::runtime_error("memfd_create");
  return fd;
}

std::string contents(int fd) {
  std::string text(static_cast<std::size_t>(lseek(fd, 0, SEEK_END)), '\0');
  const ssize_t num_read = pread(fd, text.data(), text.size(), 0);
  text.resize(static_cast<std::size_t>(std::max<ssize_t>(num_read, 0)));
  return text;
}

}  // namespace

Command::Command(const std::vector<std::string>& arguments)
    : out_fd_(memory_file("out")), err_fd_(memory_file("err")), pid_(-1) {
  std::vector<std::string> copies = arguments;
  std::vector<char*> argv;
  for (auto& copy : copies) argv.push_back(copy.data());
  argv.push_back(nullptr);
  pid_ = fork();
  if (pid_ != 0) return;
  dup2(out_fd_, STDOUT_FILENO);
  dup2(err_fd_, STDERR_FILENO);
  execvp(argv[0], argv.data());
  _exit(125);
}

Command::~Command() {
  if (pid_ > 0) {
    send(SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close(out_fd_);
  close(err_fd_);
}

std::string Command::out() const {
  return contents(out_fd_);
}

std::string Command::err() const {
  return contents(err_fd_);
}

bool Command::wait_for_lines(int num_lines) const {
  using namespace std::chrono_literals;
  for (const auto give_up_at = std::chrono::steady_clock::now() + 10s;
       std::chrono::steady_clock::now() < give_up_at;) {
    const std::string text = out();
    if (std::ranges::count(text, '\n') >= num_lines) return true;
    std::this_thread::sleep_for(10ms);
  }
  return false;
}

CommandResult Command::wait() {
  int status = 0;
  waitpid(pid_, &status, 0);
  pid_ = -1;
  return {.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
          .out = out(),
          .err = err()};
}

std::vector<std::string> sorted_lines(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  std::ranges::sort(lines);
  return lines;
}

}  // namespace flexep::testing
