// SPDX-License-Identifier: MIT
#include "kernel/syscall_filter.h"

#include <linux/seccomp.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "base/fd.h"

namespace mose {
namespace {

constexpr int kToldMax = 100;          // a process that is no longer itself must not fill the disk
constexpr unsigned kNumbersMax = 512;  // of system calls that have names
constexpr size_t kNameMax = 24;
constexpr int kOfFilter = 1;  // SYS_SECCOMP, which the C library does not name

// For the handler, which can allocate nothing.
std::array<std::array<char, kNameMax>, kNumbersMax> call_names;
std::array<char, kNameMax> program_name;
std::atomic<int> refusals{0};

size_t append(char* line, size_t at, const char* text) {
  const size_t length = std::strlen(text);
  std::memcpy(line + at, text, length);
  return at + length;
}

size_t append_number(char* line, size_t at, unsigned number) {
  char digits[12];
  size_t count = 0;
  do {
    digits[count++] = static_cast<char>('0' + number % 10);
    number /= 10;
  } while (number != 0);
  while (count != 0) line[at++] = digits[--count];
  return at;
}

void tell(unsigned number) {
  if (refusals.fetch_add(1) >= kToldMax) return;
  char line[160];
  size_t at = append(line, 0, program_name.data());
  line[at++] = '[';
  at = append_number(line, at, static_cast<unsigned>(::getpid()));
  at = append(line, at, "] error: ");
  at = append(line, at, kRefusalText.data());
  at = append(line, at, " call=");
  at = append(line, at, number < kNumbersMax && call_names[number][0] != 0 ? call_names[number].data() : "unknown");
  at = append(line, at, " number=");
  at = append_number(line, at, number);
  line[at++] = '\n';
  [[maybe_unused]] ssize_t n = ::write(STDERR_FILENO, line, at);
}

// The call has done nothing; what this leaves in the register is what it has given.
void on_refusal(int, siginfo_t* info, void* context) {
  if (info->si_code != kOfFilter) return;  // somebody's kill()
  const int before = errno;
  tell(static_cast<unsigned>(info->si_syscall));
  auto& machine = static_cast<ucontext_t*>(context)->uc_mcontext;
#if defined(__x86_64__)
  machine.gregs[REG_RAX] = -EPERM;
#elif defined(__aarch64__)
  machine.regs[0] = static_cast<unsigned long long>(-EPERM);
#else
#error "where a system call's result lies on this architecture"
#endif
  errno = before;
}

struct Release {
  void operator()(void* context) const { seccomp_release(context); }
};
using Context = std::unique_ptr<void, Release>;

Status add_rule(scmp_filter_ctx context, const SyscallRule& rule) {
  const int number = seccomp_syscall_resolve_name(rule.name);
  if (number == __NR_SCMP_ERROR) return fail(std::string(rule.name) + " is no system call that libseccomp knows");
  if (number < 0) return {};  // of other architectures
  std::array<scmp_arg_cmp, 2> matches{};
  unsigned count = 0;
  for (const auto& match : {rule.first, rule.second}) {
    if (match.mask != 0) matches[count++] = {match.argument, SCMP_CMP_MASKED_EQ, match.mask, match.value};
  }
  const int result = seccomp_rule_add_array(context, SCMP_ACT_ALLOW, number, count, matches.data());
  return result == 0 ? Status{} : fail_errno(std::string("allow ") + rule.name, -result);
}

// The library writes to descriptors only.
Result<std::vector<sock_filter>> program_of(scmp_filter_ctx context) {
  Fd file(::memfd_create("mose-filter", MFD_CLOEXEC));
  if (!file) return fail_errno("memfd of a system call filter");
  if (const int result = seccomp_export_bpf(context, file.get()); result != 0) return fail_errno("compile a system call filter", -result);
  const off_t bytes = ::lseek(file.get(), 0, SEEK_END);
  if (bytes <= 0 || static_cast<size_t>(bytes) % sizeof(sock_filter) != 0) return fail("a system call filter of a strange size");
  std::vector<sock_filter> program(static_cast<size_t>(bytes) / sizeof(sock_filter));
  if (::pread(file.get(), program.data(), static_cast<size_t>(bytes), 0) != bytes) return fail_errno("read a system call filter");
  return program;
}

}  // namespace

Result<SyscallFilter> SyscallFilter::create(std::span<const SyscallRule> allowed) {
  Context context(seccomp_init(SCMP_ACT_TRAP));
  if (!context) return fail("no system call filter can be made");
  if (const int result = seccomp_attr_set(context.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS); result != 0)
    return fail_errno("prepare a system call filter", -result);
  // Its arguments lie in memory, where no filter sees them: the C library then takes clone().
  if (const int result = seccomp_rule_add(context.get(), SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0); result != 0)
    return fail_errno("refuse clone3", -result);
  // Some hundred compares for each call would cost more than the call: a tree of them.
  (void)seccomp_attr_set(context.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
  for (const SyscallRule& rule : allowed) MOSE_TRY(add_rule(context.get(), rule));
  MOSE_ASSIGN(std::vector<sock_filter> program, program_of(context.get()));
  return SyscallFilter(std::move(program));
}

Status SyscallFilter::install() const {
  const sock_fprog program{.len = static_cast<unsigned short>(program_.size()), .filter = const_cast<sock_filter*>(program_.data())};
  if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0u, &program) != 0) return fail_errno("install a system call filter");
  return {};
}

Status tell_refusals(std::string_view program) {
  program_name = {};
  program.copy(program_name.data(), kNameMax - 1);
  for (unsigned number = 0; number < kNumbersMax; ++number) {
    std::unique_ptr<char, decltype(&std::free)> name(seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, static_cast<int>(number)), &std::free);
    call_names[number] = {};
    if (name) std::string_view(name.get()).copy(call_names[number].data(), kNameMax - 1);
  }
  struct sigaction action{};
  action.sa_sigaction = on_refusal;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  if (::sigaction(SIGSYS, &action, nullptr) != 0) return fail_errno("handle refused system calls");
  return {};
}

}  // namespace mose
