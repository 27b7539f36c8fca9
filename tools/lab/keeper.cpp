// SPDX-License-Identifier: MIT
// First process of a lab node: keeps the node's namespaces alive and reaps what nobody else waits for. It restarts
// nothing. SIGTERM or SIGKILL ends it, and with it the kernel ends every process of the node.
//
// Static and in the node's root, so that no file of the host is mapped in the node.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

int main() {
  sigset_t wanted;
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGCHLD);
  sigaddset(&wanted, SIGTERM);
  sigprocmask(SIG_BLOCK, &wanted, nullptr);
  while (true) {
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    int signal = 0;
    if (sigwait(&wanted, &signal) == 0 && signal == SIGTERM) return 0;
  }
}
