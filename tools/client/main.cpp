// SPDX-License-Identifier: MIT
#include <getopt.h>

#include <charconv>
#include <cstdio>
#include <string>

#include "base/log.h"
#include "client/commands.h"

namespace {

constexpr const char* kUsage =
    "usage: mose-client --server ADDRESS [--port 6379] [--connections 16] [--probes 2] [--interval-ms 20]\n"
    "                   [--mb 10] [--value-bytes 1000] [--seed 1]\n"
    "                   [--rate REQUESTS_PER_S [--mix set|get|set:PERCENT] [--keys uniform|zipf[:THETA]]]\n"
    "Reads commands from standard input, one a line: fill start pause resume watch begin end verify quit\n";

template <typename T>
bool parse_number(const char* text, T& out) {
  std::string_view view(text);
  auto [end, error] = std::from_chars(view.data(), view.data() + view.size(), out);
  return error == std::errc{} && end == view.data() + view.size();
}

template <typename T>
bool assign(mose::Result<T> parsed, T& out) {
  if (parsed) out = *parsed;
  return parsed.has_value();
}

bool parse_options(int argc, char** argv, mose::client::LoadOptions& out) {
  static const option longs[] = {
      {"server", 1, nullptr, 's'},      {"port", 1, nullptr, 'p'},        {"connections", 1, nullptr, 'c'},
      {"probes", 1, nullptr, 'o'},      {"interval-ms", 1, nullptr, 'i'}, {"mb", 1, nullptr, 'm'},
      {"value-bytes", 1, nullptr, 'v'}, {"seed", 1, nullptr, 'r'},        {"rate", 1, nullptr, 'a'},
      {"mix", 1, nullptr, 'x'},         {"keys", 1, nullptr, 'k'},        {nullptr, 0, nullptr, 0}};
  bool ok = true;
  for (int c; ok && (c = getopt_long(argc, argv, "", longs, nullptr)) != -1;) {
    switch (c) {
      case 's': out.server.address = optarg; break;
      case 'p': ok = parse_number(optarg, out.server.port); break;
      case 'c': ok = parse_number(optarg, out.workers); break;
      case 'o': ok = parse_number(optarg, out.probes); break;
      case 'i': ok = parse_number(optarg, out.worker_interval_ms); break;
      case 'm': ok = parse_number(optarg, out.megabytes); break;
      case 'v': ok = parse_number(optarg, out.value_bytes); break;
      case 'a':
        ok = parse_number(optarg, out.rate.emplace());
        break;
      case 'x':
        ok = assign(mose::client::parse_mix(optarg), out.mix);
        break;
      case 'k':
        ok = assign(mose::client::parse_key_distribution(optarg), out.distribution);
        break;
      case 'r': ok = parse_number(optarg, out.seed); break;
      default: ok = false;
    }
  }
  return ok && optind == argc && !out.server.address.empty();
}

}  // namespace

int main(int argc, char** argv) {
  mose::log::init("mose-client", mose::log::Level::info);
  mose::client::LoadOptions options;
  if (!parse_options(argc, argv, options)) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  auto client = mose::client::LoadClient::create(options);
  if (!client) {
    mose::log::error(client.error().what);
    return 2;
  }
  if (auto status = mose::client::serve(**client, 0, 1); !status) {
    mose::log::error(status.error().what);
    return 1;
  }
  return 0;
}
