// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "common/deadline.h"

namespace flexep {

/// An open file, closed with its owner.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

/// Sockets between processes of one user on one machine that keep message boundaries and carry file
/// descriptors. Their names are abstract: nothing in the file system, and gone with the process.

/// @throws TransportError when the name is taken until the deadline, or the system refuses.
FileDescriptor listen_at(const std::string& name, int backlog, const Deadline& deadline);
/// A connection to the process of this user that listens at `name`, or nothing when none does until the
/// deadline. @throws TransportError, also when a process of another user holds the name.
std::optional<FileDescriptor> connect_to(const std::string& name, const Deadline& deadline);
/// The next connection, or nothing when none comes until the deadline. Connections of other users are
/// dropped. @throws TransportError.
std::optional<FileDescriptor> accept_from(const FileDescriptor& listener, const Deadline& deadline);

enum class SendResult {
  kSent,
  kQueueFull,  ///< the other end has to receive first
  kRefused,    ///< errno says why
};
/// Sends one message, with a descriptor when `fd` is not negative. Never waits.
SendResult send_message(const FileDescriptor& socket, std::span<const std::byte> message, int fd);

struct ReceivedMessage {
  std::size_t num_bytes = 0;
  FileDescriptor fd;
};
/// The next message, cut to `buffer`, or nothing when none comes until the deadline or the other end is gone.
std::optional<ReceivedMessage> receive_message(const FileDescriptor& socket, std::span<std::byte> buffer,
                                               const Deadline& deadline);

/// Whether the process at the other end has closed the connection, by intent or by dying.
bool is_hung_up(const FileDescriptor& socket);
/// The process that opened the other end.
int peer_pid(const FileDescriptor& socket);

/// Watches a process; nothing where the kernel has no such thing. A connection alone does not tell of its
/// death while a process that it forked off holds the other end open.
FileDescriptor open_process(int pid);
bool has_ended(const FileDescriptor& process);

}  // namespace flexep
