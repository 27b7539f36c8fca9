// SPDX-License-Identifier: MIT
// One libFuzzer program per target, which MOSE_FUZZ_TARGET names (tests/fuzz/CMakeLists.txt).
#include <google/protobuf/stubs/logging.h>

#include "base/log.h"
#include "fuzz/targets.h"

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  mose::log::init("fuzzer", mose::log::Level::error);
  google::protobuf::SetLogHandler(nullptr);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  mose::fuzz::MOSE_FUZZ_TARGET({reinterpret_cast<const std::byte*>(data), size});
  return 0;
}
