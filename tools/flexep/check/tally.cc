// SPDX-License-Identifier: Apache-2.0
#include "check/tally.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <new>
#include <system_error>
#include <utility>

namespace flexep::tool {
namespace {

constexpr std::chrono::milliseconds kTerminalInterval{100};
constexpr std::chrono::seconds kLogInterval{20};

[[noreturn]] void throw_errno(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

std::int64_t now_ns() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

}  // namespace

Tally Tally::create(std::int64_t num_cases) {
  const int fd = memfd_create("flexep-check", MFD_CLOEXEC);
  if (fd < 0) throw_errno("memfd_create");
  if (ftruncate(fd, sizeof(Counts)) != 0) throw_errno("ftruncate");
  Tally tally(fd);
  new (tally.counts_) Counts{.num_cases = num_cases};
  return tally;
}

Tally Tally::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) throw_errno(path.c_str());
  return Tally(fd);
}

std::string Tally::path() const {
  return fmt::format("/proc/{}/fd/{}", getpid(), fd_);
}

Tally::Tally(int fd) : fd_(fd) {
  void* memory = mmap(nullptr, sizeof(Counts), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) throw_errno("mmap");
  counts_ = static_cast<Counts*>(memory);
}

Tally::Tally(Tally&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), counts_(std::exchange(other.counts_, nullptr)) {}

Tally::~Tally() {
  if (counts_ != nullptr) munmap(counts_, sizeof(Counts));
  if (fd_ >= 0) close(fd_);
}

ProgressLine::ProgressLine()
    : is_terminal_(isatty(STDERR_FILENO) == 1),
      next_ns_(now_ns() + std::chrono::nanoseconds(is_terminal_ ? kTerminalInterval : kLogInterval).count()) {
}

void ProgressLine::show(const Tally& tally) {
  if (now_ns() < next_ns_) return;
  next_ns_ = now_ns() + std::chrono::nanoseconds(is_terminal_ ? kTerminalInterval : kLogInterval).count();
  const auto text = fmt::format("checked {} of {} cases, {} failed", tally.num_run(),
                                tally.counts().num_cases, tally.counts().num_failed.load());
  if (is_terminal_) {
    fmt::print(stderr, "\r\x1b[K{}", text);
    is_shown_ = true;
  } else {
    fmt::print(stderr, "{}\n", text);
  }
}

void ProgressLine::clear() {
  if (std::exchange(is_shown_, false)) fmt::print(stderr, "\r\x1b[K");
}

}  // namespace flexep::tool
