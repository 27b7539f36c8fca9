// SPDX-License-Identifier: MIT
#include "walk_terminal.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

namespace mose::test {
namespace {

// For a line of the shell: whatever is in it.
std::string quoted(const std::string& text) {
  std::string out = "'";
  for (char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

}  // namespace

Result<std::unique_ptr<WalkTerminal>> WalkTerminal::open(const Where& where) {
  int in[2], out[2];
  if (::pipe2(in, O_CLOEXEC) != 0) return fail_errno("pipe2");
  Fd in_read(in[0]), in_write(in[1]);
  if (::pipe2(out, O_CLOEXEC) != 0) return fail_errno("pipe2");
  Fd out_read(out[0]), out_write(out[1]);
  lab::ProgramSpec spec;
  spec.argv = {"/bin/bash", "-c", "cd \"$0\" && exec /bin/bash --noprofile --norc -e -u -o pipefail", where.directory};
  spec.place = where.place;
  spec.cgroup = where.cgroup;
  spec.in = in_read.get();
  spec.out = spec.err = out_write.get();
  spec.environment = {"PATH=" + where.path, "HOME=" + where.directory, "LANG=C.UTF-8"};
  MOSE_ASSIGN(auto shell, lab::start_program(spec));
  return std::unique_ptr<WalkTerminal>(new WalkTerminal(std::move(shell), std::move(in_write), std::move(out_read)));
}

WalkTerminal::~WalkTerminal() {
  in_.reset();
  if (!shell_.wait_ended(std::chrono::seconds(1))) (void)shell_.signal(SIGKILL);
  (void)shell_.reap(std::chrono::seconds(5));
}

// The shell's own input is no input of the block, which would read what is typed next.
WalkTerminal::Said WalkTerminal::type(const std::string& block, Nanoseconds bound) {
  const std::string mark = "== typed " + std::to_string(++typed_) + " ==\n";
  Said said;
  const std::string line = "eval " + quoted(block) + " < /dev/null\necho " + quoted(mark.substr(0, mark.size() - 1)) + "\n";
  said.ended = !write_all(in_.get(), line);
  const Timestamp deadline = now() + bound;
  while (!said.ended && !said.text.ends_with(mark)) {
    pollfd item{out_.get(), POLLIN, 0};
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - now()).count();
    char buffer[4096];
    ssize_t size = left > 0 && ::poll(&item, 1, static_cast<int>(left)) == 1 ? ::read(out_.get(), buffer, sizeof buffer) : 0;
    said.ended = size <= 0;
    if (size > 0) said.text.append(buffer, static_cast<size_t>(size));
  }
  if (!said.ended) said.text.resize(said.text.size() - mark.size());
  return said;
}

}  // namespace mose::test
