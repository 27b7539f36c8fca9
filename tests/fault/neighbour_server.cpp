// SPDX-License-Identifier: MIT
// A workload beside the one that is moved with pages missing: it keeps one value for one client after the other, as Redis does with SET
// and GET, and touches no page but those that it has needed for every answer before.
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

char value[128], request[256], answer[256];

bool write_answer(int fd, int length) { return ::write(fd, answer, static_cast<size_t>(length)) == length; }

// One line, "SET NAME VALUE" or "GET NAME".
bool serve(int fd, char* line) {
  if (std::strncmp(line, "SET ", 4) == 0) {
    const char* at = std::strchr(line + 4, ' ');
    if (at == nullptr) return false;
    std::snprintf(value, sizeof value, "%s", at + 1);
    return write_answer(fd, std::snprintf(answer, sizeof answer, "+OK\r\n"));
  }
  return write_answer(fd, std::snprintf(answer, sizeof answer, "$%zu\r\n%s\r\n", std::strlen(value), value));
}

void talk(int fd) {
  size_t held = 0;
  for (;;) {
    const ssize_t n = ::read(fd, request + held, sizeof request - 1 - held);
    if (n <= 0) return;
    held += static_cast<size_t>(n);
    request[held] = 0;
    while (char* end = std::strstr(request, "\r\n")) {
      *end = 0;
      if (!serve(fd, request)) return;
      held -= static_cast<size_t>(end + 2 - request);
      std::memmove(request, end + 2, held + 1);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_port = htons(static_cast<uint16_t>(argc > 1 ? std::atoi(argv[1]) : 0));
  ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (::bind(listener, reinterpret_cast<sockaddr*>(&any), sizeof any) < 0 || ::listen(listener, 8) < 0) return 1;
  for (;;) {
    const int fd = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) continue;
    talk(fd);
    ::close(fd);
  }
}
