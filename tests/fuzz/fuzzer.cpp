// SPDX-License-Identifier: MIT
#include "fuzz/frames.h"

// clang++ -fsanitize=fuzzer calls this for every input it invents:
//   cmake --preset clang -DMOSE_FUZZ=ON && ninja -C build-clang frames_fuzzer && build-clang/bin/frames_fuzzer CORPUS
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  mose::fuzz::feed({reinterpret_cast<const std::byte*>(data), size});
  return 0;
}
