// SPDX-License-Identifier: MIT
#include "move/pem.h"

#include <openssl/pem.h>

namespace mose::move {
namespace {

// Something begins, or ends, by a line that is itself not whole: OpenSSL takes it for the end of the file.
bool is_cut_off(std::string_view pem) {
  const size_t line = pem.rfind("\n-----");
  const std::string_view last = line == std::string_view::npos ? pem : pem.substr(line + 1);
  return last.starts_with("-----") && !last.starts_with("-----END ");
}

template <typename Owner, auto read>
Result<std::vector<Owner>> read_all_of(std::string_view pem, size_t count_max, const std::string& what) {
  ERR_clear_error();
  const BioPtr bio = bio_of(pem);
  std::vector<Owner> out;
  while (Owner next{read(bio.get(), nullptr, no_pass_phrase, nullptr)}) {
    if (out.size() == count_max) return fail("there are more than " + std::to_string(count_max) + " in it");
    out.push_back(std::move(next));
  }
  const unsigned long reason = ERR_peek_last_error();
  const bool at_end = ERR_GET_LIB(reason) == ERR_LIB_PEM && ERR_GET_REASON(reason) == PEM_R_NO_START_LINE;
  const std::string which = what + " number " + std::to_string(out.size() + 1) + " in it";
  if (!at_end) return fail_openssl(which + " is damaged");
  ERR_clear_error();
  if (is_cut_off(pem)) return fail(which + " is cut off");
  return out;
}

}  // namespace

int no_pass_phrase(char*, int, int, void*) { return -1; }

Result<std::vector<X509Ptr>> read_certificates(std::string_view pem, size_t count_max) {
  return read_all_of<X509Ptr, PEM_read_bio_X509>(pem, count_max, "certificate");
}

Result<std::vector<X509CrlPtr>> read_lists(std::string_view pem, size_t count_max) {
  return read_all_of<X509CrlPtr, PEM_read_bio_X509_CRL>(pem, count_max, "list");
}

}  // namespace mose::move
