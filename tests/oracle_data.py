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


def build(folder):
    with open(os.path.join(folder, "shim.c"), "w") as f:
        f.write(SHIM)
    library = os.path.join(folder, "shim.so")
    subprocess.run(["gcc", "-std=c11", *os.environ.get("CFLAGS", "").split(), "-O1", "-g", "-w", "-shared", "-fPIC", "-I.", os.path.join(folder, "shim.c"), "-o", library,
                    "-lm", "-lpthread", "-ldl"], check=True)
    lib = ctypes.CDLL(library)
    for name in ("yaml", "data", "label", "prepare"):
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


def boxes_of(label):
    return sorted((int(c), *(float(x) for x in row)) for c, row in zip(label["cls"].reshape(-1), label["bboxes"]))


def same_boxes(a, b):
    return len(a) == len(b) and all(x[0] == y[0] and all(abs(p - q) <= 1e-6 for p, q in zip(x[1:], y[1:])) for x, y in zip(a, b))


def dataset(yaml_path, split):
    """The pictures and boxes that ultralytics reads."""
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    data = check_det_dataset(yaml_path, autodownload=False)
    found = YOLODataset(img_path=data[split], data=data, task="detect", augment=False, rect=False)
    return data, {f: boxes_of(label) for f, label in zip(found.im_files, found.labels)}


def check_data_yaml(lib, folder):
    """data.yaml in the shapes people write: the same names and pictures, in the same order."""
    from PIL import Image

    failures = 0
    root = os.path.join(folder, "데이터 set")
    for name in ("images/train/a.jpg", "images/train/deep/b.JPG", "images/val/c.png", "images/val/d e.bmp", "images/.hidden/x.jpg", "images/val/.h.png"):
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Image.new("RGB", (16, 16)).save(path)
    with open(os.path.join(root, "val.txt"), "w") as f:
        f.write("./images/val/d e.bmp\n" + os.path.join(root, "images/val/c.png") + "\n")
    cases = ["train: images/train\nval: images/val\nnames: [a, b]\n", "train: [images/train, images/val]\nval: val.txt\nnames: {1: b, 0: a}\n",
             "train: images/train\nval: [val.txt, images/train]\nnc: 3\n", f"path: {root}/images\ntrain: train\nval: val\nnames: [no, 1.50, 'x y', 2e5, null]\n",
             "train: images/train\nvalidation: images/val\nnames: {'0': a, '1': b}\nnc: 2.0\n", "train: ../images/train\nval: ../images/val\nnc: '1'\nnames: [x]\n"]
    for text in cases:
        path = os.path.join(root, "data.yaml")
        with open(path, "w") as f:
            f.write(text)
        for split in ("train", "val"):
            data, found = dataset(path, split)
            out, message = call(lib, "data", path.encode(), split.encode())
            expected = [str(data["nc"])] + [data["names"][i] for i in range(data["nc"])] + list(found)
            got = (out or b"").decode().split("\n")
            got = got[: data["nc"] + 1] + [os.path.realpath(x) for x in got[data["nc"] + 1:]]
            if got != expected:
                failures += 1
                print("DATA", repr(text), split, "\n  expected", expected, "\n  got", got, message)
    print(f"{'ok  ' if not failures else 'FAIL'} data.yaml: {len(cases)} shapes, {failures} differ")
    return failures


def check_labels(lib, folder, seed, count=3000):
    """Where ultralytics accepts a file, we read the same boxes; where it does not, we have a bad line (or a mixed file)."""
    from PIL import Image
    from ultralytics.data.utils import verify_image_label

    r = random.Random(seed)
    failures = 0
    image, label = os.path.join(folder, "l.png"), os.path.join(folder, "l.txt")
    Image.new("RGB", (16, 16)).save(image)
    refused = 0
    for n in range(count):
        polygon = r.random() < 0.3
        lines = []
        for _ in range(r.randrange(6)):
            c = r.choice(["0", "1", "2", "1.0", "79", "0", "1"] + (["80", "-1", "0.5", "x"] if r.random() < 0.1 else []))
            k = 2 * r.randrange(3, 9) if polygon else 4
            line = " ".join([c] + [r.choice([f"{r.random():.6f}", f"{r.random():.3g}", "1", "0", "1.005", f"{r.random():.17g}"] +
                                            (["-0.005", "1.02", "nan", "-0.5", "", "1e-3"] if r.random() < 0.05 else [])) for _ in range(k)])
            lines.append(line)
            if r.random() < 0.2:
                lines.append(r.choice(lines))
        text = r.choice(["", "\ufeff"]) + r.choice(["\n", "\r\n"]).join(lines) + r.choice(["", "\n", "\n\n", " "])
        with open(label, "w", newline="") as f:
            f.write(text)
        result = verify_image_label((image, label, "", False, 80, 0, 0, False))
        out, message = call(lib, "label", label.encode(), 80)
        rows = out.decode().split("\n")
        bad, duplicates = map(int, rows[0].split())
        got = sorted(tuple(float(x) for x in row.split()) for row in rows[1:])
        if result[1] is None:
            refused += 1
            wide = [len(x.split()) for x in lines]
            wrong = not bad and 6 not in wide and not (5 in wide and max(wide) > 6)  # a confidence, boxes among polygons: fine with us
        else:
            expected = sorted(tuple(float(x) for x in row) for row in result[1])
            wrong = bad or not same_boxes(expected, got)
        if wrong:
            failures += 1
            if failures < 6:
                print("LABEL", repr(text), "\n  expected", None if result[1] is None else expected, result[9], "\n  got", bad, got)
    print(f"{'ok  ' if not failures else 'FAIL'} labels: {count} files as verify_image_label reads them ({refused} refused by both), {failures} differ")
    return failures


def check_prepare(lib, folder, shared):
    """What prepare makes of coco128 loads in ultralytics, with the boxes of the source."""
    source = os.path.join(folder, "coco128")
    subprocess.run(["cp", "-r", os.path.join(shared, "data/coco128"), source], check=True)
    path = os.path.join(source, "data.yaml")
    with open(path) as f:
        text = f.read().replace("path: .\n", "")  # which would be the current folder
    with open(path, "w") as f:
        f.write(text)
    _, original = dataset(path, "train")
    original = {os.path.basename(f): boxes for f, boxes in original.items()}
    failures = 0
    for mode in ("copy", "link", "list"):
        out = os.path.join(folder, "prepared " + mode)
        text, message = call(lib, "prepare", source.encode(), None, out.encode(), ctypes.c_double(20), mode.encode())
        if text is None:
            print("PREPARE", mode, message)
            failures += 1
            continue
        sets = [dataset(os.path.join(out, "data.yaml"), split)[1] for split in ("train", "val")]
        found = {os.path.basename(f): boxes for s in sets for f, boxes in s.items()}
        wrong = sum(not same_boxes(original[f], found.get(f, [None])) for f in original)
        if wrong or len(sets[0]) + len(sets[1]) != len(original):
            failures += 1
        print(f"{'ok  ' if not wrong else 'FAIL'} prepare mode={mode}: {text.decode()}; ultralytics finds {len(sets[0])} + {len(sets[1])} of {len(original)}, {wrong} differ")
    return failures


if __name__ == "__main__":
    os.environ["YOLO_OFFLINE"] = "true"
    seed = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 1
    with tempfile.TemporaryDirectory() as folder:
        lib = build(folder)
        failures = check_cases(lib) + check_yaml(lib, seed) + check_mutations(lib, seed) + check_data_yaml(lib, folder) + check_labels(lib, folder, seed)
        shared = os.environ.get("YOLO_SHARED", "../shared")
        if os.path.isdir(os.path.join(shared, "data/coco128")):
            failures += check_prepare(lib, folder, shared)
        else:
            print("skip prepare: no", shared)
    sys.exit(1 if failures else 0)
