// SPDX-License-Identifier: MIT
#include "restore/pager_server.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <future>
#include <mutex>
#include <thread>
#include <vector>

#include "base/log.h"
#include "pager.pb.h"
#include "restore/pager_frames.h"
#include "restore/pager_messages.h"

namespace mose::restore {

struct PagerServer::Impl {
  std::string path;
  Handlers handlers;
  Fd wake;  // in both tables under one number
  std::mutex mutex;
  std::vector<PagerEventKind> events;
  bool sending = false;  // events that are no longer in there
  std::condition_variable said;
  bool stop = false;
  std::thread thread;

  // The thread's own from here on, also by descriptor table.
  Fd listener;
  Fd connection;
  std::string input, output;

  void main(std::promise<Status>& ready);
  Status separate_table();
  void serve();
  void accept_one();
  void exchange();
  [[nodiscard]] Status handle(const std::string& payload);
  void send(PagerEventKind kind);
  void drop(std::string_view reason);
};

PagerServer::PagerServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<PagerServer>> PagerServer::start(const std::string& socket_path, Handlers handlers) {
  auto impl = std::make_unique<Impl>();
  impl->path = socket_path;
  impl->handlers = std::move(handlers);
  impl->wake = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!impl->wake) return fail_errno("eventfd");
  std::promise<Status> ready;
  auto result = ready.get_future();
  Impl* one = impl.get();
  std::unique_ptr<PagerServer> server(new PagerServer(std::move(impl)));
  one->thread = std::thread([one, &ready] { one->main(ready); });
  MOSE_TRY(result.get());
  return server;
}

PagerServer::~PagerServer() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stop = true;
  }
  uint64_t one = 1;
  [[maybe_unused]] ssize_t n = ::write(impl_->wake.get(), &one, sizeof one);
  if (impl_->thread.joinable()) impl_->thread.join();
}

void PagerServer::post(PagerEventKind kind) {
  {
    std::lock_guard lock(impl_->mutex);
    // Progress that nobody has fetched is replaced by later progress.
    if (kind == PagerEventKind::progress && std::ranges::find(impl_->events, kind) != impl_->events.end()) return;
    impl_->events.push_back(kind);
  }
  uint64_t one = 1;
  [[maybe_unused]] ssize_t n = ::write(impl_->wake.get(), &one, sizeof one);
}

void PagerServer::wait_said(Nanoseconds bound) {
  std::unique_lock lock(impl_->mutex);
  impl_->said.wait_for(lock, bound, [this] { return impl_->events.empty() && !impl_->sending; });
}

Status PagerServer::Impl::separate_table() {
  if (::unshare(CLONE_FILES) != 0) return fail_errno("a descriptor table of the server's own");
  // Copies of what the process holds: a copy of a userfaultfd here would outlive its closing there.
  // Two stay: ours, and the one by which the handlers wake the process.
  unsigned from = 3;
  auto own = static_cast<unsigned>(wake.get());
  auto process = static_cast<unsigned>(handlers.wake_fd);
  for (unsigned keep : {std::min(own, process), std::max(own, process)}) {
    if (keep > from) ::syscall(SYS_close_range, from, keep - 1, 0u);
    from = std::max(from, keep + 1);
  }
  ::syscall(SYS_close_range, from, ~0u, 0u);
  return {};
}

void PagerServer::Impl::main(std::promise<Status>& ready) {
  auto separated = separate_table();
  if (!separated) return ready.set_value(std::move(separated));
  auto listening = unix_listen(path);
  if (!listening) return ready.set_value(std::unexpected(std::move(listening).error()));
  listener = std::move(*listening);
  ready.set_value({});
  serve();
  connection.reset();
  listener.reset();
  (void)::unlink(path.c_str());
}

void PagerServer::Impl::serve() {
  for (;;) {
    pollfd fds[3] = {{wake.get(), POLLIN, 0},
                     {listener.get(), POLLIN, 0},
                     {connection.get(), static_cast<short>(output.empty() ? POLLIN : POLLIN | POLLOUT), 0}};
    if (::poll(fds, 3, -1) < 0 && errno != EINTR) return;
    if (fds[0].revents != 0) {
      uint64_t count;
      [[maybe_unused]] ssize_t n = ::read(wake.get(), &count, sizeof count);
    }
    if (fds[2].revents != 0) exchange();
    if (fds[1].revents != 0) accept_one();
    std::vector<PagerEventKind> due;
    bool ending;
    {
      std::lock_guard lock(mutex);
      due.swap(events);
      sending = true;
      ending = stop;
    }
    for (PagerEventKind kind : due) send(kind);
    {
      std::lock_guard lock(mutex);
      sending = false;
    }
    said.notify_all();
    if (ending) return;
  }
}

// The newest connection counts: the older one's mosed is gone, or about to be. The directory lets nobody else in; this does not
// depend on its mode.
void PagerServer::Impl::accept_one() {
  Fd fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd) return;
  ucred peer{};
  socklen_t length = sizeof peer;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || (peer.uid != 0 && peer.uid != ::geteuid())) {
    log::warn("a connection by another user was refused", {{"uid", peer.uid}});
    return;
  }
  connection = std::move(fd);
  input.clear();
  output.clear();
  send(PagerEventKind::status);
}

void PagerServer::Impl::exchange() {
  auto written = write_available(connection.get(), output);
  if (!written) return drop(written.error().what);
  auto read = read_available(connection.get(), input);
  for (;;) {
    auto frame = take_pager_frame(input);
    if (!frame) return drop(frame.error().what);
    if (!*frame) break;
    if (auto done = handle(**frame); !done) return drop(done.error().what);
  }
  if (!read) drop(read.error().what);
}

Status PagerServer::Impl::handle(const std::string& payload) {
  pager::v1::PagerRequest request;
  if (!request.ParseFromString(payload)) return fail("a message that cannot be parsed");
  switch (request.kind_case()) {
    case pager::v1::PagerRequest::kStatus:
      send(PagerEventKind::status);
      return {};
    case pager::v1::PagerRequest::kThawed:
      handlers.thawed();
      return {};
    case pager::v1::PagerRequest::kStandby:
      handlers.standby(request.standby().discards());
      return {};
    case pager::v1::PagerRequest::kPagesAwaited:
      handlers.pages_awaited();
      return {};
    case pager::v1::PagerRequest::kDiscarded: {
      std::vector<StalePages> kept;
      if (!read_stale(request.discarded().kept(), kept)) return fail("a list of pages that cannot be");
      handlers.discarded(std::move(kept));
      return {};
    }
    case pager::v1::PagerRequest::kStandbyDropped:
      handlers.standby_dropped(request.standby_dropped().images_dir());
      return {};
    case pager::v1::PagerRequest::kQuit:
      handlers.quit(request.quit().tree_is_dead());
      return {};
    case pager::v1::PagerRequest::KIND_NOT_SET:
      break;
  }
  return fail("a message of an unknown kind");
}

void PagerServer::Impl::send(PagerEventKind kind) {
  if (!connection) return;
  std::string payload = write_report(kind, handlers.status()).SerializeAsString();
  if (output.size() + payload.size() > kPagerOutputMax) return drop("mosed does not read");
  output += pager_frame(payload);
  if (auto written = write_available(connection.get(), output); !written) drop(written.error().what);
}

void PagerServer::Impl::drop(std::string_view reason) {
  log::info("the connection to mosed has ended", {{"reason", reason}});
  connection.reset();
  input.clear();
  output.clear();
}

}  // namespace mose::restore
