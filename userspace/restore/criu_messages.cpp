// SPDX-License-Identifier: MIT
#include "restore/criu_messages.h"

#include "criu_rpc.pb.h"

namespace mose::restore {
namespace {

constexpr uint32_t kManageCgroupsIgnore = 0;
constexpr uint32_t kNetworkLockSkip = 3;

void set_common(criu::Options& options, int images_dir_fd, const std::vector<std::string>& externals, int log_level,
                const char* log_file) {
  options.set_images_dir_fd(images_dir_fd);
  options.set_work_dir_fd(images_dir_fd);
  options.set_tcp_established(true);
  options.set_notify_scripts(true);
  options.set_manage_cgroups_mode(kManageCgroupsIgnore);
  options.set_network_lock(kNetworkLockSkip);
  options.set_log_level(log_level);
  options.set_log_file(log_file);
  for (const std::string& external : externals) options.add_external(external);
}

}  // namespace

std::string encode_dump(const DumpMessage& message) {
  criu::Request request;
  request.set_type(criu::DUMP);
  criu::Options& options = *request.mutable_opts();
  set_common(options, message.images_dir_fd, message.externals, message.log_level, kDumpLog);
  options.set_pid(message.pid);
  options.set_shell_job(false);
  options.set_leave_stopped(true);
  if (!message.freeze_cgroup.empty()) options.set_freeze_cgroup(message.freeze_cgroup);
  return request.SerializeAsString();
}

std::string encode_restore(const RestoreMessage& message) {
  criu::Request request;
  request.set_type(criu::RESTORE);
  criu::Options& options = *request.mutable_opts();
  set_common(options, message.images_dir_fd, message.externals, message.log_level, kRestoreLog);
  options.set_lazy_pages(message.lazy_pages);
  if (!message.root.empty()) options.set_root(message.root);
  return request.SerializeAsString();
}

std::string encode_hook_answer(bool ok) {
  criu::Request request;
  request.set_type(criu::NOTIFY);
  request.set_notify_success(ok);
  return request.SerializeAsString();
}

Result<CriuMessage> decode_criu_message(std::string_view bytes) {
  criu::Response response;
  if (!response.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return fail("CRIU sent something that is no answer");
  CriuMessage out;
  if (response.type() == criu::NOTIFY) {
    if (!response.has_notify() || response.notify().script().empty()) return fail("CRIU called a hook without a name");
    out.is_hook = true;
    out.hook = response.notify().script();
    out.pid = response.notify().pid();
    return out;
  }
  out.success = response.success();
  out.error = response.cr_errno();
  out.error_text = response.cr_errmsg();
  if (response.has_restore()) out.pid = response.restore().pid();
  return out;
}

}  // namespace mose::restore
