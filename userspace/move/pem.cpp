// SPDX-License-Identifier: MIT
#include "move/pem.h"

#include <openssl/pem.h>

#include <algorithm>
#include <initializer_list>

namespace mose::move {
namespace {

// Something begins, or ends, by a line that is itself not whole: OpenSSL takes it for the end of the file.
bool is_cut_off(std::string_view pem) {
  const size_t line = pem.rfind("\n-----");
  const std::string_view last = line == std::string_view::npos ? pem : pem.substr(line + 1);
  return last.starts_with("-----") && !last.starts_with("-----END ");
}

// Of one kind, by the lines that they end with: one whose first line is damaged is passed over by OpenSSL.
size_t ends_of(std::string_view pem, std::initializer_list<std::string_view> labels) {
  size_t count = 0;
  for (size_t at = pem.find("-----END "); at != std::string_view::npos; at = pem.find("-----END ", at + 1)) {
    const std::string_view label = pem.substr(at + 9);
    count += std::ranges::any_of(labels, [&](std::string_view one) { return label.starts_with(one) && label.substr(one.size()).starts_with("-----"); });
  }
  return count;
}

template <typename Owner, auto read>
Result<std::vector<Owner>> read_all_of(std::string_view pem, size_t count_max, const std::string& what,
                                       std::initializer_list<std::string_view> labels) {
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
  if (const size_t ends = ends_of(pem, labels); ends != out.size())
    return fail("it has the ends of " + std::to_string(ends) + " of them and " + std::to_string(out.size()) + " can be read: a first line is damaged");
  return out;
}

}  // namespace

int no_pass_phrase(char*, int, int, void*) { return -1; }

Result<std::vector<X509Ptr>> read_certificates(std::string_view pem, size_t count_max) {
  return read_all_of<X509Ptr, PEM_read_bio_X509>(pem, count_max, "certificate", {"CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"});
}

Result<std::vector<X509CrlPtr>> read_lists(std::string_view pem, size_t count_max) {
  return read_all_of<X509CrlPtr, PEM_read_bio_X509_CRL>(pem, count_max, "list", {"X509 CRL"});
}

}  // namespace mose::move
