#!/bin/sh
# check_layout.sh - is the source laid out as it says? One line a check, then "N passed, N failed, N skipped".
#
#   sh tests/check_layout.sh [-v]      -v lists the length of every section and the longest functions
#
# For yolo.c and kernels.cu: the CONTENTS list equals the banners (number, prefixes; a banner's title begins the list's);
# every function's name begins with a prefix of its section; nothing calls a section below its own (C forbids it for
# static functions as long as none is declared ahead, so that is what is checked, and the public calls one by one); no
# function over 120 lines, median <= 20, 90 % <= 60; no mutable state at file scope but the few names below.
# For all sources: nothing switched off, no environment switch, no code for one machine, no path of one machine.
cd "$(dirname "$0")/.." || exit 1
verbose=${1:-}
passed=0 failed=0 skipped=0
check() { # check NAME COMPLAINTS: passes when there are none
    if [ -z "$2" ]; then passed=$((passed + 1)); echo "ok   $1"
    else failed=$((failed + 1)); echo "FAIL $1"; printf '%s\n' "$2" | sed 's/^/    /'; fi
}

# Functions allowed to be longer than 120 lines, and state allowed at file scope.
long_functions=" "
state=" err_interrupt mem_fail_after com_test_visit pipe_test_visit "

# Prints: S section prefixes title line | C (the same from CONTENTS) | F section name length line | P section name line
# (a static function declared ahead) | U section public-name line (a use) | V name line (mutable state at file scope).
scan() {
    awk '
    function code_of(line,    out, i, c) { # the line without comments, strings and character constants
        out = ""
        for (i = 1; i <= length(line); i++) {
            c = substr(line, i, 1)
            if (comment) { if (substr(line, i, 2) == "*/") { comment = 0; i++ } continue }
            if (quote != "") { if (c == "\\") i++; else if (c == quote) quote = ""; continue }
            if (substr(line, i, 2) == "/*") { comment = 1; i++; continue }
            if (substr(line, i, 2) == "//") break
            if (c == "\"" || c == "\047") { quote = c; out = out (c == "\"" ? "\"\"" : "0"); continue }
            out = out c
        }
        quote = ""
        return out
    }
    function split_heading(kind, text,    number, words, n, prefixes, i, title) { # "1 os_ x_: title"
        number = text; sub(/ .*/, "", number); sub(/^[^ ]* +/, "", text)
        n = split(text, words, " "); prefixes = ""
        for (i = 1; i <= n && words[i] ~ /^[a-z0-9]+_:?$/; i++) { sub(/:$/, "", words[i]); prefixes = prefixes words[i] "," }
        title = ""
        for (; i <= n; i++) title = title (title == "" ? "" : " ") words[i]
        print kind "\t" number "\t" prefixes "\t" title "\t" NR
        return number
    }
    function name_of(text,    rest, before) { # the declared function, or ""
        while (match(text, /OP_\([a-z0-9_]+\)/)) # the kernels of section 14 are named once per instruction set
            text = substr(text, 1, RSTART - 1) "op_" substr(text, RSTART + 4, RLENGTH - 5) substr(text, RSTART + RLENGTH)
        gsub(/__attribute__ *\(\(([^()]|\([^()]*\))*\)\)/, " ", text)
        gsub(/__declspec *\([^()]*(\([^()]*\))?\)/, " ", text)
        gsub(/__launch_bounds__ *\([^()]*\)/, " ", text)
        gsub(/[A-Z][A-Z0-9_]+ *\([^()]*\)/, " ", text)
        if (!match(text, /(^|[^A-Za-z0-9_])[a-z][a-z0-9_]* *\(/)) return ""
        rest = substr(text, RSTART, RLENGTH); before = substr(text, 1, RSTART)
        if (before ~ /=/) return ""
        gsub(/[^a-z0-9_]/, "", rest)
        return rest
    }
    function declared(text,    name) { # a declaration at file scope that ends in ; or = {
        if (text !~ /(^| )static /) return
        name = text; sub(/=.*/, "", name)
        if (name ~ /\(/) { if (text !~ /=/ && (name = name_of(text)) != "") print "P\t" section "\t" name "\t" NR; return }
        if (name ~ /(^|[^a-z_])const(expr)?([^a-z_]|$)/ || name ~ /__constant__/) return
        gsub(/\[[^]]*\]/, "", name); gsub(/[ ;]+$/, "", name); sub(/.*[ *]/, "", name)
        print "V\t" name "\t" NR
    }
    /CONTENTS/ && !seen_contents { contents = 1; seen_contents = 1; next }
    contents && /^ *$/ { contents = 0 }
    contents { text = $0; sub(/^ +/, "", text); split_heading("C", text); next }
    /^\/\* ==== / {
        text = $0; sub(/^\/\* ==== /, "", text); sub(/ *=+ *(\*\/)?$/, "", text)
        section = split_heading("S", text); head = ""; depth = 0
    }
    {
        code = code_of($0)
        if (code ~ /^ *#/ || continued) { continued = code ~ /\\ *$/; next }
        uses = code
        while (match(uses, /(^|[^A-Za-z0-9_])yolo_[a-z0-9_]+ *\(/)) {
            use = substr(uses, RSTART, RLENGTH); gsub(/[^a-z0-9_]/, "", use)
            print "U\t" section "\t" use "\t" NR
            uses = substr(uses, RSTART + RLENGTH)
        }
        if (depth == 0 && head == "" && code ~ /^ *$/) next
        for (i = 1; i <= length(code); i++) {
            c = substr(code, i, 1)
            if (depth > 0) {
                if (c == "{") depth++
                if (c == "}" && (--depth == 0 || (i == 1 && length(code) > 0))) {
                    depth = 0
                    if (body) { print "F\t" section "\t" function_name "\t" NR - first + 1 "\t" first; head = "" }
                }
                continue
            }
            if (head == "") { if (c == " ") continue; first = NR }
            if (c == ";") { declared(head); head = ""; continue }
            if (c == "{") {
                depth = 1
                body = head ~ /\)[^=]*$/ && head !~ /=/ && head !~ /^(template *<[^>]*> *)?(typedef|struct|enum|union|extern "")/
                function_name = name_of(head)
                if (head ~ /^extern ""$/ || head ~ /^extern "" *$/) { depth = 0; head = "" }
                continue
            }
            head = head c
        }
        if (head != "" && head !~ / $/) head = head " "
    }' "$1"
}

for file in yolo.c kernels.cu; do
    list=$(mktemp)
    scan "$file" >"$list"
    check "$file: the list of contents equals the banners" "$(awk -F '\t' -v file="$file" '
        $1 == "C" { listed[$2] = $3; title[$2] = $4; order[++n] = $2 }
        $1 == "S" { at[$2] = ++s; if (!($2 in listed)) { print file ":" $5 ": section " $2 " is not in the list"; next }
            if (listed[$2] != $3) print file ":" $5 ": section " $2 " has the prefixes " $3 " here and " listed[$2] " in the list"
            if (index(title[$2], $4) != 1) print file ":" $5 ": section " $2 " is called \"" $4 "\" here and \"" title[$2] "\" in the list"
            if (order[s] != $2) print file ":" $5 ": section " $2 " is out of order" }
        END { for (i = 1; i <= n; i++) if (!(order[i] in at)) print file ": section " order[i] " of the list has no banner"
            if (!n) print file ": no list of contents" }' "$list")"
    check "$file: names begin with a prefix of their section" "$(awk -F '\t' -v file="$file" '
        $1 == "S" { prefixes[$2] = $3 }
        $1 == "F" { n = split(prefixes[$2], p, ","); good = $3 == "main" || $3 ~ /^yolo_/
            for (i = 1; i < n; i++) if (index($3, p[i]) == 1) good = 1
            if (!good) print file ":" $5 ": " $3 " in section " $2 " (" prefixes[$2] ")" }' "$list")"
    check "$file: no static function is declared ahead" "$(awk -F '\t' -v file="$file" '
        $1 == "P" { print file ":" $4 ": " $3 " in section " $2 }' "$list")"
    check "$file: no section calls the public functions of a later one" "$(awk -F '\t' -v file="$file" '
        $1 == "F" { home[$3] = $2 + 0 }
        $1 == "U" { used[++n] = $3; by[n] = $2 + 0; line[n] = $4 }
        END { for (i = 1; i <= n; i++) if (home[used[i]] > by[i]) print file ":" line[i] ": section " by[i] " calls " used[i] " of section " home[used[i]] }' "$list")"
    check "$file: no mutable state at file scope" "$(awk -F '\t' -v file="$file" -v allowed="$state" '
        $1 == "V" && !index(allowed, " " $2 " ") { print file ":" $3 ": " $2 }' "$list")"
    check "$file: no function over 120 lines" "$(awk -F '\t' -v file="$file" -v allowed="$long_functions" '
        $1 == "F" && $4 > 120 && !index(allowed, " " $3 " ") { print file ":" $5 ": " $3 " has " $4 " lines" }' "$list")"
    lengths=$(awk -F '\t' '$1 == "F" { print $4 }' "$list" | sort -n)
    summary=$(printf '%s\n' "$lengths" | awk '{ a[NR] = $1 } END { print NR, a[int((NR + 1) / 2)], a[int(NR * 0.9 + 0.5)], a[NR] }')
    # shellcheck disable=SC2086
    set -- $summary
    echo "     $file: $(wc -l <"$file") lines, $1 functions: median $2, 90 % at most $3, longest $4 lines"
    check "$file: median length <= 20 lines, 90 % <= 60" "$([ "$2" -le 20 ] && [ "$3" -le 60 ] || echo "median $2, 90 % $3")"
    if [ "$verbose" = -v ]; then
        awk -F '\t' '$1 == "S" { if (n) print "       ", n, $5 - from, "lines"; n = $2 " " $4; from = $5 }' "$list"
        awk -F '\t' '$1 == "F" { print "       ", $4, $3 }' "$list" | sort -rn | head -n 12
    fi
    rm -f "$list"
done

sources=$(find . -path ./build -prune -o -path ./.git -prune -o -type f \( -name '*.[ch]' -o -name '*.cu' -o -name '*.sh' -o -name '*.bat' -o -name '*.py' -o -name run \) -print | grep -v check_layout.sh)
# shellcheck disable=SC2046,SC2086
{
check "nothing is switched off: #if 0" "$(grep -nE '^ *# *if +0' $sources)"
# What a launcher tells a process is read in one place.
check "no environment switch" "$(grep -nE 'getenv *\(' $(printf '%s\n' $sources | grep -E '\.(c|h|cu)$') | grep -v 'os_environment(const char \*name) { return getenv(name); }'
    awk '/^[^ ].*\{$/ { home = $0 } /os_environment\(/ && !/^static const char \*os_environment/ && home !~ / yolo_peers_/ { print FILENAME ":" FNR ": " $0 }' yolo.c)"
check "no build for one machine, no unsafe maths" "$(grep -nE 'march=native|-Ofast|-ffast-math|use_fast_math' $sources)"
check "no path of one machine" "$(grep -nE '(^|[^A-Za-z.])/(work|root|home)/' $sources)"
check "no promise left in the text" "$(grep -nE 'TODO|FIXME|XXX|HACK' $sources)"
}
fixtures=$(find tests -name '*.ref' -o -path 'tests/fixtures/*' -type f | tr '\n' '\0' | xargs -0 cat /dev/null | wc -c)
check "the fixtures of the tests are under 1 MB together" "$([ "$fixtures" -lt 1000000 ] || echo "$fixtures bytes")"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
