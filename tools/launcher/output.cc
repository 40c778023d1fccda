// SPDX-License-Identifier: Apache-2.0
#include "launcher/output.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>

namespace flexep {
namespace {

constexpr std::size_t kMaxPendingBytes = 256 * 1024;
constexpr std::size_t kMaxLineBytes = 1024 * 1024;

}  // namespace

bool OutputSink::is_congested() const {
  return pending_.size() > kMaxPendingBytes;
}

void OutputSink::append_line(std::string_view prefix, std::string_view line) {
  pending_.append(prefix).append(line).push_back('\n');
}

void OutputSink::write_some() {
  // A pipe that poll calls writable takes PIPE_BUF bytes without blocking.
  const std::size_t num_bytes = std::min(pending_.size(), std::size_t{PIPE_BUF});
  const ssize_t written = write(fd_, pending_.data(), num_bytes);
  if (written >= 0) {
    pending_.erase(0, static_cast<std::size_t>(written));
  } else if (errno != EINTR && errno != EAGAIN) {
    pending_.clear();  // nobody can read it any more
  }
}

void RankStream::read_some() {
  std::array<char, 16 * 1024> bytes;
  const ssize_t num_read = read(pipe_.get(), bytes.data(), bytes.size());
  if (num_read > 0) {
    take({bytes.data(), static_cast<std::size_t>(num_read)});
  } else if (num_read == 0 || (errno != EINTR && errno != EAGAIN)) {
    finish();
  }
}

void RankStream::drain_and_close() {
  if (!is_open()) return;
  int num_available = 0;
  ioctl(pipe_.get(), FIONREAD, &num_available);
  std::string bytes(static_cast<std::size_t>(num_available), '\0');
  const ssize_t num_read = num_available > 0 ? read(pipe_.get(), bytes.data(), bytes.size()) : 0;
  if (num_read > 0) take({bytes.data(), static_cast<std::size_t>(num_read)});
  finish();
}

void RankStream::take(std::string_view bytes) {
  for (std::size_t end; (end = bytes.find('\n')) != std::string_view::npos; bytes.remove_prefix(end + 1)) {
    unfinished_line_.append(bytes.substr(0, end));
    sink_->append_line(prefix_, unfinished_line_);
    unfinished_line_.clear();
  }
  unfinished_line_.append(bytes);
  if (unfinished_line_.size() > kMaxLineBytes) {
    sink_->append_line(prefix_, unfinished_line_);
    unfinished_line_.clear();
  }
}

void RankStream::finish() {
  if (!unfinished_line_.empty()) sink_->append_line(prefix_, unfinished_line_);
  unfinished_line_.clear();
  pipe_.close();
}

}  // namespace flexep
