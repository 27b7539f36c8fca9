// SPDX-License-Identifier: MIT
// nginx with a master and three workers. Connections that are kept alive and connections of one request each fetch
// files; every body is compared with what was put there.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <vector>

#include "program_bed.h"
#include "text_connection.h"

namespace mose::test {
namespace {

constexpr uint16_t kHttpPort = 80;
constexpr unsigned kKeptClients = 8, kFreshClients = 2, kFiles = 24;
constexpr Nanoseconds kNginxStartBound = std::chrono::seconds(15);
// A new connection is accepted or refused at once; none may be refused.
constexpr Nanoseconds kOneTry{};
constexpr const char* kConfiguration = R"(daemon off;
user root;
worker_processes 3;
pid /mnt/nginx.pid;
error_log stderr;
events { worker_connections 256; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path /mnt/body;
  proxy_temp_path /mnt/proxy;
  fastcgi_temp_path /mnt/fastcgi;
  uwsgi_temp_path /mnt/uwsgi;
  scgi_temp_path /mnt/scgi;
  server { listen 80; root /srv/www; }
}
)";

using Files = std::vector<std::string>;

// From a few bytes to some hundred KiB, which no socket's buffer takes whole.
Files make_files() {
  std::mt19937 random(1);
  Files files;
  for (unsigned i = 0; i < kFiles; ++i) {
    std::string contents(1 + random() % (1u << (6 + i % 14)), '\0');
    for (char& byte : contents) byte = static_cast<char>(random());
    files.push_back(std::move(contents));
  }
  return files;
}

Status fetch(TextConnection& connection, const Files& files, unsigned number, bool keep) {
  MOSE_TRY(connection.send(
      fmt::format("GET /f{} HTTP/1.1\r\nHost: lab\r\n{}\r\n", number, keep ? "" : "Connection: close\r\n")));
  MOSE_ASSIGN(const std::string status, connection.line());
  if (status != "HTTP/1.1 200 OK") return fail(fmt::format("GET /f{}: {}", number, status));
  constexpr std::string_view kLength = "Content-Length: ";
  size_t size = 0;
  for (;;) {
    MOSE_ASSIGN(const std::string header, connection.line());
    if (header.empty()) break;
    if (header.starts_with(kLength)) size = std::strtoull(header.c_str() + kLength.size(), nullptr, 10);
  }
  MOSE_ASSIGN(const std::string body, connection.bytes(size));
  if (body != files[number]) return fail(fmt::format("the {} bytes of /f{} are not those of the file", size, number));
  return {};
}

TEST_F(ProgramMoves, KeepEveryConnectionOfNginxAndItsWorkers) {
  prepare({.name = "nginx",
           .files = {.programs = {"/usr/sbin/nginx"}, .trees = {}},
           .mounts = {"/srv/nginx:/mnt:copy"},
           .command = {"/usr/sbin/nginx", "-c", "/srv/nginx.conf"}});
  put_directory("/srv/nginx");
  put_directory("/var/log/nginx");  // it opens its built-in log before it reads where that should be
  put_directory("/usr/share/nginx");
  ASSERT_NO_FATAL_FAILURE(put_file("/srv/nginx.conf", kConfiguration));
  const Files files = make_files();
  for (unsigned i = 0; i < kFiles; ++i) ASSERT_NO_FATAL_FAILURE(put_file(fmt::format("/srv/www/f{}", i), files[i]));
  ASSERT_NO_FATAL_FAILURE(start());

  std::vector<std::unique_ptr<TextConnection>> kept;
  Load load;
  for (unsigned i = 0; i < kKeptClients; ++i) {
    auto connection = TextConnection::open(client_netns(), kHttpPort, kNginxStartBound);
    ASSERT_TRUE(connection) << connection.error().what << logs();
    kept.push_back(std::make_unique<TextConnection>(std::move(*connection)));
    load.add(fmt::format("connection {}", i),
             [&files, &own = *kept.back(), random = std::minstd_rand(i + 1)]() mutable {
               return fetch(own, files, random() % kFiles, /*keep=*/true);
             });
  }
  for (unsigned i = 0; i < kFreshClients; ++i) {
    load.add(fmt::format("new connections {}", i),
             [&files, netns = client_netns(), random = std::minstd_rand(i + 100)]() mutable -> Status {
               MOSE_ASSIGN(auto connection, TextConnection::open(netns, kHttpPort, kOneTry));
               return fetch(connection, files, random() % kFiles, /*keep=*/false);
             });
  }
  ASSERT_TRUE(move_all(load, 50));
  judge(load);
}

}  // namespace
}  // namespace mose::test
