"""Compares the data set text of yolo.c with its oracles: PyYAML's loader and dumper, ultralytics' data.yaml and labels.

    PYTHON tests/oracle_data.py [SEED]      PYTHON has PyYAML and ultralytics; run at the top of the repository
"""
import ctypes
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile

import yaml

SHIM = r"""
#define YOLO_NO_MAIN
#define YOLO_NO_CUDA
#include "yolo.c"
static void quote(str *s, const char *text, size_t n) {
    str_append(s, "\"", 1);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 32 || c == '"' || c == '\\') str_format(s, "\\u%04x", c);
        else str_append(s, text + i, 1);
    }
    str_append(s, "\"", 1);
}
static void dump(str *s, const val *v) {
    char text[40];
    if (v->kind == VAL_NULL) str_add(s, "[\"n\"]");
    else if (v->kind == VAL_BOOL) str_format(s, "[\"b\",%d]", (int)v->integer);
    else if (v->kind == VAL_INT) str_format(s, "[\"i\",\"%lld\"]", (long long)v->integer);
    else if (v->kind == VAL_FLOAT) { yaml_repr(text, v->number); str_format(s, "[\"f\",\"%s\"]", text); }
    else if (v->kind == VAL_STRING) { str_add(s, "[\"s\","); quote(s, v->text, v->length); str_add(s, "]"); }
    else {
        str_add(s, v->kind == VAL_LIST ? "[\"l\",[" : "[\"m\",[");
        for (int64_t i = 0; i < v->count; i++) {
            if (i) str_add(s, ",");
            if (v->kind == VAL_MAP) { str_add(s, "["); dump(s, v->keys[i]); str_add(s, ","); }
            dump(s, v->items[i]);
            if (v->kind == VAL_MAP) str_add(s, "]");
        }
        str_add(s, "]]");
    }
}
/* text -> tree as JSON, NUL, the tree written again; or NULL and the message */
char *oracle_yaml(const char *text, size_t size, char *message) {
    arena memory = {0};
    val *root;
    yolo_error error = {0};
    str s = {0};
    if (yaml_parse(&memory, "x.yaml", text, size, &root, &error) != YOLO_OK) { strcpy(message, error.message); arena_free(&memory); return NULL; }
    str written = {0};
    dump(&s, root);
    yaml_write(&written, root);
    str_append(&s, "", 1);
    str_append(&s, written.text, (size_t)written.length);
    str_free(&written);
    arena_free(&memory);
    return s.text;
}
void oracle_free(char *text) { mem_free(text); }
/* the pictures of a split, a line each, behind "class_count names..." */
char *oracle_data(const char *path, const char *split, char *message) {
    data_set set;
    const data_list *list;
    yolo_error error = {0};
    str s = {0};
    if (data_open(&set, path, &error) != YOLO_OK) { strcpy(message, error.message); return NULL; }
    if (data_split(&set, split, &list, &error) != YOLO_OK) { strcpy(message, error.message); data_close(&set); return NULL; }
    str_format(&s, "%d", set.class_count);
    for (int i = 0; i < set.class_count; i++) str_format(&s, "\n%s", set.names[i]);
    for (int64_t i = 0; i < list->count; i++) str_format(&s, "\n%s", list->paths[i]);
    data_close(&set);
    return s.text;
}
/* "bad duplicates\n" and "class x y w h" lines */
char *oracle_label(const char *path, int classes, char *message) {
    lbl_list list;
    yolo_error error = {0};
    str s = {0};
    if (lbl_read(path, classes, &list, NULL, &error) != YOLO_OK) { strcpy(message, error.message); return NULL; }
    str_format(&s, "%d %d", (int)list.bad_lines, (int)list.duplicates);
    for (int64_t i = 0; i < list.count; i++)
        str_format(&s, "\n%d %.9g %.9g %.9g %.9g", list.items[i].class_id, list.items[i].x, list.items[i].y, list.items[i].w, list.items[i].h);
    lbl_list_free(&list);
    return s.text;
}
/* yolo_prepare; "train val background unlabelled damaged duplicates bad_lines boxes skipped" */
char *oracle_prepare(const char *source, const char *classes, const char *out, double val, const char *mode, char *message) {
    yolo_prepare_options o = yolo_prepare_defaults();
    yolo_prepare_report r;
    yolo_error error = {0};
    str s = {0};
    o.source = source; o.classes = classes; o.out = out; o.val = val; o.mode = mode;
    if (yolo_prepare(o, &r, &error) != YOLO_OK) { strcpy(message, error.message); return NULL; }
    str_format(&s, "%d %d %d %d %d %d %d %d %d", (int)r.train, (int)r.val, (int)r.background, (int)r.unlabelled, (int)r.damaged,
               (int)r.duplicates, (int)r.bad_lines, (int)r.boxes, (int)r.skipped);
    return s.text;
}
"""


def build(folder, prepare=True):
    source = SHIM if prepare else SHIM[: SHIM.index("/* yolo_prepare;")]
    with open(os.path.join(folder, "shim.c"), "w") as f:
        f.write(source)
    library = os.path.join(folder, "shim.so")
    subprocess.run(["gcc", "-std=c11", "-O1", "-g", "-w", "-shared", "-fPIC", "-I.", os.path.join(folder, "shim.c"), "-o", library,
                    "-lm", "-lpthread", "-ldl"], check=True)
    lib = ctypes.CDLL(library)
    for name in ("yaml", "data", "label") + (("prepare",) if prepare else ()):
        getattr(lib, "oracle_" + name).restype = ctypes.c_void_p
    return lib


def call(lib, name, *arguments):
    """(text, None) or (None, message)"""
    message = ctypes.create_string_buffer(1000)
    p = getattr(lib, "oracle_" + name)(*arguments, message)
    if not p:
        return None, message.value.decode(errors="replace")
    text = ctypes.string_at(p)
    if name == "yaml":
        text = text + b"\0" + ctypes.string_at(p + len(text) + 1)
    lib.oracle_free(ctypes.c_void_p(p))
    return text, None


def tree(v):
    """The tagged form of a Python value; dates are the text that they are to us."""
    if v is None:
        return ["n"]
    if isinstance(v, bool):
        return ["b", int(v)]
    if isinstance(v, int):
        return ["i", str(v)] if -(2**63) < v < 2**63 else ["f", repr(float(v))]
    if isinstance(v, float):
        return ["f", repr(v)]
    if isinstance(v, str):
        return ["s", v]
    if isinstance(v, (list, tuple)):
        return ["l", [tree(x) for x in v]]
    if isinstance(v, dict):
        return ["m", [[tree(k), tree(x)] for k, x in v.items()]]
    return ["?", str(type(v))]


def ours(lib, text):
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    out, message = call(lib, "yaml", raw, ctypes.c_size_t(len(raw)))
    if out is None:
        return None, message, None
    first, second = out.split(b"\0", 1)
    return json.loads(first), None, second.decode()


WORDS = ["person", "traffic light", "yes", "no", "Off", "null", "~", "", " lead", "trail ", "a: b", "a #b", "#x", "- x", "-", "?", ":", "a:",
         "1", "0x1F", "010", "08", "1e-3", "1.0e-3", ".5", "-.5", "1_000", "190:20:30", "1:2.5", ".inf", "-.INF", ".nan", "2024-01-01", "=",
         "<<", "it's", 'say "hi"', "back\\slash", "한글 이름", "é", "😀", "tab\there", "line\nbreak", "line\n\nbreak\n", "x\n y", "x \ny", "@at",
         "%p", "`b", "[x", "x]", "{", "a,b", "&a", "*a", "!t", "|", ">", "C:\\data\\new folder\\이미지", "/mnt/data set/x", "---", "...", "--- a",
         "\x7f", "\ufeff", "a" * 100, "word " * 40 + "end", "two  spaces " * 12 + "end", "it's " * 30 + "end", "\u00a0",
         "'", '"', "''", "end'", "-a", "?a", ":a", "a-b", "0o17", "0b11", "+1", "+", "-", ".", "..", "1.", "1.e5", "1.e+5", "true ", "None", "y", "n"]


def scalar(r):
    k = r.randrange(10)
    if k == 0:
        return r.choice([None, True, False])
    if k == 1:
        return r.choice([0, 1, -1, 80, 640, 2**31, 2**62, -(2**63) + 1, r.randrange(-10**6, 10**6)])
    if k == 2:
        return r.choice([0.0, -0.0, 1.0, 0.01, 1e-5, 1e16, 1e15, 123456789.125, 1e22, 1e300, 5e-324, math.inf, -math.inf, r.random(), r.gauss(0, 1e9),
                         r.random() * 10 ** r.randrange(-30, 30), 0.0001, 0.00012345, 1.5e-7])
    return r.choice(WORDS)


def random_tree(r, depth, strings=False):
    k = r.randrange(4 if depth else 2)
    if depth == 0 or k < 2:
        return r.choice(WORDS) if strings else scalar(r)
    if k == 2:
        return [random_tree(r, depth - 1, strings) for _ in range(r.randrange(5))]
    keys = [r.choice(WORDS) if strings or r.random() < 0.7 else r.choice([r.randrange(50), r.random(), True, None]) for _ in range(r.randrange(5))]
    return {k: random_tree(r, depth - 1, strings) for k in keys if not (isinstance(k, str) and (len(k) > 100 or "\n" in k))}


class Styled(str):
    pass


def check_yaml(lib, seed, count=4000):
    r = random.Random(seed)
    failures = 0

    class Dumper(yaml.CSafeDumper):
        style = None

        def ignore_aliases(self, data):
            return True

    Dumper.add_representer(Styled, lambda d, s: d.represent_scalar("tag:yaml.org,2002:str", str(s), style=Dumper.style))

    def style(v):
        if isinstance(v, list):
            return [style(x) for x in v]
        if isinstance(v, dict):
            return {k: style(x) for k, x in v.items()}
        return Styled(v) if isinstance(v, str) else v

    for n in range(count):
        Dumper.style = r.choice([None, "'", '"', "|", ">"])
        value = random_tree(r, r.randrange(1, 5), Dumper.style is not None)
        text = yaml.dump(style(value), Dumper=Dumper, sort_keys=False, allow_unicode=r.random() < 0.7, default_flow_style=r.choice([None, True, False]),
                         width=r.choice([20, 80, 10**6]), indent=r.choice([2, 4, 8]), explicit_start=r.random() < 0.3,
                         line_break=r.choice(["\n", "\r\n", "\r"]))
        if r.random() < 0.2:
            text = "\ufeff" + text
        expected = tree(yaml.load(text, Loader=yaml.CSafeLoader))
        got, message, written = ours(lib, text)
        if got != expected:
            failures += 1
            if failures < 6:
                print("PARSE", repr(text), "\n  expected", expected, "\n  got", got, message)
            continue
        dumped = yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True) if isinstance(value, (list, dict)) else None
        if dumped is not None and written != dumped:
            failures += 1
            if failures < 6:
                print("WRITE expected", repr(dumped), "\n  got", repr(written))
    print(f"{'ok  ' if not failures else 'FAIL'} yaml: {count} random trees read and written as PyYAML does, {failures} differ")
    return failures


# Text by hand: what people write.
CASES = """a: 1
b: [1, 2,
  3]  # c
c: {x: 1, 'y': "2",}
d:
- 1
- - 2
  - 3
-
  e: f
  g: h
|||a: b: c|||a:
  - b
 - c|||a: |
  x
   y

  z
b: >-
  one
  two

  three
   more
  last
|||[a: b, c]|||{a, b: }|||{"a":1, 'b':2}|||a: 'x
  y

  z'|||a: "x\\
  y \\
  z"|||a: x
  y
  z|||- a
- b: c
  d: e
-   - f
    - g|||"a b": 1|||a: b #c
 d|||a: b
  c: d|||key without value|||a:	1|||	a: 1|||a:
	b|||- [1, [2, [3, {a: [4]}]]]|||a: [1, 2|||a: ]|||a: 'x|||&x a|||a: *x|||a: !!str 1|||%YAML 1.1
---
a: 1
...
|||a: 1
---
b: 2|||---
a: 1|||a: 1
a: 2
1: x
1.0: y
true: z|||? a
: b|||a: - b|||- a: 1
 b: 2|||a: [b, , c]|||a: [,]|||a: {b: c, d}|||a: {b c}|||a: "x" y|||a: [x] y|||a: >+
  x

|||a: |2
    x
  y|||[]|||{}|||
|||# only a comment|||a: http://x.y/z#f|||a: x:y|||a:b: c|||"a":b|||{a: [b]: c}|||path: C:\\data\\x|||path: "C:\\data\\x"|||{a:1}|||{a: b}: c|||a: %x|||a: @x|||-|||- |||-a|||a: -|||a: ?|||--- a|||--- [a]|||--- a: b|||a: 'b'c|||a : b|||a:   |||? |||'a': b|||[a, b]: c|||[?, a]|||[? a]|||{? a : b}|||[-, a]|||[-]|||a: |
 x
b|||a: |
b: c|||nc: 80 # n
names:
  0: person
  1: 'yes'
  2: no
  3: 3.10|||a: "\\x41\\u00e9\\U0001F600\\/"|||a: "\\q"|||a: 'x # y'|||a: x #|||a: x# y|||[a #c
, b]|||a: {
  b: 1
  }|||a: [
1,
2
]|||- - - a|||- -
  - a|||a:

  b|||a: b

  c|||- a

  b
- c|||x: 0b101
y: 0o7
z: 0xfF_f
w: +12
v: 1__0|||- ! a|||a: |x|||a: >1-
  b|||a: |-1
  b|||a: |0
 b|||- |
 a
-
 - >
   b
   c"""


def check_cases(lib):
    failures = 0
    cases = CASES.split("|||")
    for text in cases:
        try:
            expected = tree(yaml.load(text, Loader=yaml.CSafeLoader))
        except Exception as e:
            expected = None
        got, message, _ = ours(lib, text)
        if got != expected and not (got is None and re.search(r"[&*!?]", text)):
            failures += 1
            print("CASE", repr(text), "\n  expected", expected, "\n  got", got, message)
    print(f"{'ok  ' if not failures else 'FAIL'} yaml: {len(cases)} texts by hand, {failures} differ")
    return failures


def check_mutations(lib, seed, count=20000):
    """Damaged text: where both read it, they read the same; how often one is stricter."""
    r = random.Random(seed)
    base = [c for c in CASES.split("|||") if len(c) > 12]
    differ = looser = stricter = 0
    for n in range(count):
        s = list(r.choice(base))
        for _ in range(r.randrange(1, 4)):
            i = r.randrange(len(s) + 1)
            if r.random() < 0.5 and s:
                del s[min(i, len(s) - 1)]
            else:
                s.insert(i, r.choice(" \n:-,[]{}'\"#|>?ab1.\t"))
        text = "".join(s)
        try:
            expected = tree(yaml.load(text, Loader=yaml.CSafeLoader))
        except Exception:
            expected = None
        got, message, _ = ours(lib, text)
        if got is None and expected is not None:
            stricter += not re.search(r"[&*!?]", text)
            if not re.search(r"[&*!?]", text) and stricter < 8 and "-v" in sys.argv:
                print("STRICTER", repr(text), message)
        elif got is not None and expected is None:
            looser += 1
            if looser < 8 and "-v" in sys.argv:
                print("LOOSER", repr(text), got)
        elif got != expected:
            differ += 1
            if differ < 6:
                print("DIFFER", repr(text), "\n  expected", expected, "\n  got", got)
    print(f"{'ok  ' if not differ else 'FAIL'} yaml: {count} damaged texts, {differ} read differently ({looser} only by us, {stricter} only by PyYAML)")
    return differ


if __name__ == "__main__":
    seed = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 1
    with tempfile.TemporaryDirectory() as folder:
        lib = build(folder, "--no-prepare" not in sys.argv)
        failures = check_cases(lib) + check_yaml(lib, seed) + check_mutations(lib, seed)
    sys.exit(1 if failures else 0)
