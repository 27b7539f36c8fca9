// SPDX-License-Identifier: MIT
#include "client/bulk.h"

#include <algorithm>

namespace mose::client {
namespace {

// Requests under way at once: enough to be bound by the server, few enough that neither side's buffers fill up.
constexpr uint32_t kPipeline = 256;
constexpr Nanoseconds kBound = std::chrono::seconds(20);

struct Checker {
  const DataSet& data;
  Verification out;

  void wrong(const std::string& what) {
    ++out.lost;
    if (out.problem.empty()) out.problem = what;
  }

  void check_key(uint32_t index, const Reply& reply) {
    ++out.checked;
    std::string key = DataSet::key_name(index);
    uint32_t found = 0, version = 0;
    if (reply.kind == Reply::Kind::null) return wrong(key + " is missing");
    if (reply.kind != Reply::Kind::bulk || !data.parse(reply.text, found, version) || found != index) {
      return wrong(key + " holds something that was never written");
    }
    if (version < data.acknowledged(index)) return wrong(key + " is older than its acknowledged write");
    if (version > data.sent(index)) return wrong(key + " is newer than any write");
  }

  void check_counter(const Worker& worker, const Reply& reply) {
    ++out.checked;
    std::string text(reply.kind == Reply::Kind::bulk ? reply.text : std::string_view());
    int64_t value = text.empty() ? -1 : std::strtoll(text.c_str(), nullptr, 10);
    if (value < worker.counter() || value > worker.counter_max()) {
      wrong(worker.counter_name() + " is " + text + ", not " + std::to_string(worker.counter()));
    }
  }
};

}  // namespace

Result<uint64_t> fill_server(const Endpoint& server, DataSet& data, const std::vector<Worker>& workers) {
  MOSE_ASSIGN(auto connection, Connection::connect(server, kBound));
  Reply reply;
  std::string batch;
  for (uint32_t begin = 0; begin < data.keys(); begin += kPipeline) {
    uint32_t end = std::min(data.keys(), begin + kPipeline);
    batch.clear();
    for (uint32_t i = begin; i < end; ++i) {
      append_request(batch, {"SET", DataSet::key_name(i), data.value(i, data.next_version(i))});
    }
    MOSE_TRY(connection.send_all(batch, kBound));
    for (uint32_t i = begin; i < end; ++i) {
      MOSE_TRY(connection.wait_reply(reply, kBound));
      if (reply.kind != Reply::Kind::status) return fail("the server refused a SET: " + std::string(reply.text));
      data.acknowledge(i, data.sent(i));
    }
  }
  for (const Worker& worker : workers) {
    batch.clear();
    append_request(batch, {"SET", worker.counter_name(), std::to_string(worker.counter())});
    MOSE_TRY(connection.send_all(batch, kBound));
    MOSE_TRY(connection.wait_reply(reply, kBound));
    if (reply.kind != Reply::Kind::status) return fail("the server refused a SET: " + std::string(reply.text));
  }
  return data.keys();
}

Verification read_back(const Endpoint& server, const DataSet& data, const std::vector<Worker>& workers) {
  Checker checker{data, {}};
  auto run = [&]() -> Status {
    MOSE_ASSIGN(auto connection, Connection::connect(server, kBound));
    Reply reply;
    std::string batch;
    for (uint32_t begin = 0; begin < data.keys(); begin += kPipeline) {
      uint32_t end = std::min(data.keys(), begin + kPipeline);
      batch.clear();
      for (uint32_t i = begin; i < end; ++i) append_request(batch, {"GET", DataSet::key_name(i)});
      MOSE_TRY(connection.send_all(batch, kBound));
      for (uint32_t i = begin; i < end; ++i) {
        MOSE_TRY(connection.wait_reply(reply, kBound));
        checker.check_key(i, reply);
      }
    }
    for (const Worker& worker : workers) {
      batch.clear();
      append_request(batch, {"GET", worker.counter_name()});
      MOSE_TRY(connection.send_all(batch, kBound));
      MOSE_TRY(connection.wait_reply(reply, kBound));
      checker.check_counter(worker, reply);
    }
    return {};
  };
  auto status = run();
  if (!status) checker.out.problem = "reading back: " + status.error().what;
  checker.out.verified = status && checker.out.lost == 0;
  return checker.out;
}

}  // namespace mose::client
