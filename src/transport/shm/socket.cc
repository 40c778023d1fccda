// SPDX-License-Identifier: Apache-2.0
#include "transport/shm/socket.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/interruption.h"
#include "flexep/error.h"

namespace flexep {
namespace {

constexpr std::chrono::milliseconds kConnectRetry{2};

struct Address {
  sockaddr_un address{};
  socklen_t length = 0;

  explicit Address(const std::string& name) {
    address.sun_family = AF_UNIX;
    // A leading zero byte makes the name abstract.
    const std::size_t num_chars = std::min(name.size(), sizeof(address.sun_path) - 1);
    std::copy_n(name.begin(), num_chars, address.sun_path + 1);
    length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + num_chars);
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address); }
};

[[noreturn]] void throw_system_error(const std::string& action) {
  throw TransportError(fmt::format("{}: {}", action, std::strerror(errno)));
}

FileDescriptor make_socket() {
  FileDescriptor socket_fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket_fd) throw_system_error("cannot make a socket");
  return socket_fd;
}

ucred credentials_of(const FileDescriptor& socket) {
  ucred credentials{};
  socklen_t length = sizeof(credentials);
  getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &length);
  return credentials;
}

void sleep_for(std::chrono::nanoseconds time) {
  poll(nullptr, 0, std::max(1, static_cast<int>(time.count() / 1'000'000)));
}

void throw_if_interrupted() {
  if (is_interrupted()) throw TransportError("interrupted while other processes were awaited");
}

// Waits until there is something to receive; false when the deadline passes first.
bool await_input(const FileDescriptor& socket, const Deadline& deadline) {
  pollfd entry{.fd = socket.get(), .events = POLLIN, .revents = 0};
  const auto is_ready = [&] { return poll(&entry, 1, 0) > 0; };
  return wait_until(deadline, 1, is_ready, [&](std::chrono::nanoseconds longest) {
    throw_if_interrupted();
    poll(&entry, 1, std::max(1, static_cast<int>(longest.count() / 1'000'000)));
  });
}

}  // namespace

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) close(fd_);
}

FileDescriptor listen_at(const std::string& name, int backlog, const Deadline& deadline) {
  FileDescriptor socket_fd = make_socket();
  const Address address(name);
  const auto is_bound = [&] {
    if (bind(socket_fd.get(), address.get(), address.length) == 0) return true;
    if (errno != EADDRINUSE) throw_system_error(fmt::format("cannot bind the socket @{}", name));
    return false;
  };
  // A process of an earlier job with the same id may be about to end.
  if (!wait_until(deadline, 1, is_bound, sleep_for)) {
    throw TransportError(
        fmt::format("the socket @{} is in use: another job with the same id, or two ranks with the same "
                    "number, run on this machine",
                    name));
  }
  if (listen(socket_fd.get(), backlog) != 0) throw_system_error(fmt::format("cannot listen at @{}", name));
  return socket_fd;
}

std::optional<FileDescriptor> connect_to(const std::string& name, const Deadline& deadline) {
  FileDescriptor socket_fd;
  const Address address(name);
  bool is_taken = false;
  const auto is_connected = [&] {
    socket_fd = make_socket();
    if (connect(socket_fd.get(), address.get(), address.length) == 0) {
      is_taken = credentials_of(socket_fd).uid != geteuid();
      return !is_taken;
    }
    if (errno != ECONNREFUSED && errno != EAGAIN)
      throw_system_error(fmt::format("cannot connect to @{}", name));
    return false;
  };
  const auto nap = [](auto) {
    throw_if_interrupted();
    sleep_for(kConnectRetry);
  };
  if (wait_until(deadline, 1, is_connected, nap)) return socket_fd;
  if (is_taken) throw TransportError(fmt::format("a process of another user holds the socket @{}", name));
  return std::nullopt;
}

std::optional<FileDescriptor> accept_from(const FileDescriptor& listener, const Deadline& deadline) {
  while (await_input(listener, deadline)) {
    FileDescriptor socket_fd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket_fd && errno != EAGAIN && errno != ECONNABORTED)
      throw_system_error("cannot accept a connection");
    if (socket_fd && credentials_of(socket_fd).uid == geteuid()) return socket_fd;
  }
  return std::nullopt;
}

SendResult send_message(const FileDescriptor& socket, std::span<const std::byte> message, int fd) {
  iovec content{.iov_base = const_cast<std::byte*>(message.data()), .iov_len = message.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = &content;
  header.msg_iovlen = 1;
  if (fd >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(rights), &fd, sizeof(int));
  }
  while (sendmsg(socket.get(), &header, MSG_NOSIGNAL) < 0) {
    if (errno == EINTR) continue;
    // ETOOMANYREFS: too many descriptors are on their way and not received yet.
    return errno == EAGAIN || errno == ETOOMANYREFS ? SendResult::kQueueFull : SendResult::kRefused;
  }
  return SendResult::kSent;
}

std::optional<ReceivedMessage> receive_message(const FileDescriptor& socket, std::span<std::byte> buffer,
                                               const Deadline& deadline) {
  if (!await_input(socket, deadline)) return std::nullopt;
  iovec content{.iov_base = buffer.data(), .iov_len = buffer.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = &content;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  const ssize_t num_bytes = recvmsg(socket.get(), &header, MSG_CMSG_CLOEXEC);
  if (num_bytes <= 0) return std::nullopt;
  ReceivedMessage message{.num_bytes = static_cast<std::size_t>(num_bytes), .fd = {}};
  const cmsghdr* rights = CMSG_FIRSTHDR(&header);
  if (rights != nullptr && rights->cmsg_type == SCM_RIGHTS) {
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(rights), sizeof(int));
    message.fd = FileDescriptor(fd);
  }
  return message;
}

bool is_hung_up(const FileDescriptor& socket) {
  pollfd entry{.fd = socket.get(), .events = 0, .revents = 0};
  return poll(&entry, 1, 0) > 0 && (entry.revents & (POLLHUP | POLLERR)) != 0;
}

int peer_pid(const FileDescriptor& socket) {
  return credentials_of(socket).pid;
}

FileDescriptor open_process(int pid) {
  return FileDescriptor(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
}

bool has_ended(const FileDescriptor& process) {
  return process && await_input(process, Deadline(std::chrono::nanoseconds(0)));
}

}  // namespace flexep
