# SPDX-License-Identifier: MIT
#
# Reduces the C header that "bpftool btf dump ... format c" prints to the types named in types.txt and all that they
# embed. Usage: awk -v arch=x86_64 -f reduce.awk types.txt full-header.h; POSIX awk. Prints definitions only, in the
# order of the full header, which is topological. A type of the list that the kernel lacks is an error.

function fail(text) {
  print "reduce.awk: " text > "/dev/stderr"
  failed = 1
  exit 1
}

# The list of wanted types.
NR == FNR {
  if ($0 ~ /^[ \t]*(#|$)/) next
  if ($1 ~ /:/) {
    split($1, part, ":")
    if (part[1] != arch) next
    $1 = part[2]
  }
  key = $1 " " $2
  want[++wants] = key
  for (i = 3; i <= NF; i++) fields[key] = fields[key] " " $i
  next
}

# The full header: every definition begins in the first column with its keyword; if of several lines, it ends at a "}"
# there.
/^\/\* BPF kfuncs \*\/$/ { past_types = 1 }
past_types { next }
!inside && /^(struct|union|enum|typedef) / {
  if ($0 ~ /^(struct|union|enum) [A-Za-z0-9_]+;$/) next  # forward declarations are made anew
  inside = 1
  count++
  text[count] = ""
  if ($1 != "typedef" && $2 != "{") index_of[$1 " " $2] = count
}
inside {
  text[count] = text[count] $0 "\n"
  if (text[count] ~ /^enum \{/ && $1 ~ /^[A-Z]/ && $2 == "=") index_of["enumerator " $1] = count
  if ($0 ~ /^(\}|typedef ).*;$/) {
    if (text[count] ~ /^typedef /) index_of["typedef " declared_name($0)] = count
    inside = 0
  }
}

# The name that a line declares: "int (*name)(...);", "int name(...);", "char name[4];", "u32 name: 4;", "} name;".
function declared_name(line,   words, n) {
  if (match(line, /\(\*[A-Za-z0-9_]+\)/)) return substr(line, RSTART + 2, RLENGTH - 3)
  sub(/(\(.*\)|: [0-9]+|(\[[0-9]*\])*);$/, "", line)
  n = split(line, words, /[^A-Za-z0-9_]+/)
  return words[n]
}

# The line that closes what line `i` opens.
function closing(lines, i, n,   depth) {
  for (depth = 1; depth > 0 && ++i < n; ) {
    if (lines[i] ~ /\{$/) depth++
    if (lines[i] ~ /^\t+\}/) depth--
  }
  return i
}

# The struct cut down to the wanted fields of its first level; those of a member without a name belong to it.
function keep_fields(key, body,   lines, n, i, f, names, m, out, name, line, found) {
  n = split(body, lines, "\n")
  m = split(fields[key], names, " ")
  out = lines[1] "\n"
  for (i = 2; i < n && lines[i] !~ /^\}/; i++) {
    line = lines[i]
    if (line ~ /\{$/) {
      if (lines[closing(lines, i, n)] !~ /^\t+\};$/) i = closing(lines, i, n)
      continue
    }
    if (line ~ /^\t+\};$/) continue
    name = declared_name(line)
    sub(/^\t+/, "\t", line)
    for (f = 1; f <= m; f++) if (names[f] == name) { out = out line "\n"; found++ }
  }
  if (found != m) fail("not all fields found: " key ":" fields[key])
  return out lines[i] "\n"
}

# Marks a definition as wanted, and what it embeds; what it only points to is remembered for a forward declaration.
function mark(id,   lines, n, i) {
  if (id in wanted) return
  wanted[id] = 1
  n = split(text[id], lines, "\n")
  for (i = 1; i < n; i++) mark_line(lines[i], id)
}

function mark_line(line, id,   rest, kind, name, words, n, i, key) {
  rest = line
  while (match(rest, /(struct|union|enum) [A-Za-z0-9_]+[^A-Za-z0-9_]*/)) {
    split(substr(rest, RSTART, RLENGTH), words, /[^A-Za-z0-9_]+/)
    kind = words[1]; name = words[2]; key = kind " " name
    # A pointer, or the parameter of a function: the name is enough. An enum must be known in any case.
    if (kind != "enum" && (substr(rest, RSTART, RLENGTH) ~ /[*,)]/ || substr(rest, 1, RSTART) ~ /\(/)) forward[key] = 1
    else if (key in index_of) mark(index_of[key])
    rest = substr(rest, RSTART + RLENGTH)
  }
  n = split(line, words, /[^A-Za-z0-9_]+/)
  name = declared_name(line)  # a field may have the name of some type
  for (i = 1; i <= n; i++) {
    if (words[i] == "" || words[i] == name) continue
    key = "typedef " words[i]
    if (key in index_of && index_of[key] != id) mark(index_of[key])
  }
}

END {
  if (failed) exit 1
  for (i = 1; i <= wants; i++) {
    if (!(want[i] in index_of)) fail("this kernel has no " want[i])
    id = index_of[want[i]]
    if (want[i] in fields) text[id] = keep_fields(want[i], text[id])
  }
  for (i = 1; i <= wants; i++) mark(index_of[want[i]])
  for (id = 1; id <= count; id++) if (id in wanted) {
    split(text[id], part, " ")
    delete forward[part[1] " " part[2]]
  }
  for (key in forward) print key ";" | "sort"
  close("sort")
  for (id = 1; id <= count; id++) if (id in wanted) {
    # One-line typedefs stand together, everything else apart.
    one_line = text[id] ~ /^typedef [^{]*$/
    printf "%s%s", one_line && was_one_line ? "" : "\n", text[id]
    was_one_line = one_line
  }
}
