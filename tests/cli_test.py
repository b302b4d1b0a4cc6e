"""cli_test.py - the executable as a person uses it: every verb, every kind of error, exit statuses, files.

  python3 tests/cli_test.py "COMMAND" [--shared DIR] [NAME ...]

COMMAND is ./yolo or "wine /path/yolo.exe". Python's standard library only. Works in a scratch folder with a Korean name;
models are built-in descriptions with random weights, but where a test wants the checkpoint in DIR (default: ../shared
beside the checkout). Prints a line a test, then "N passed, N failed, N skipped"; exit status 1 when any failed.
"""
import csv, io, json, os, re, shlex, shutil, signal, struct, subprocess, sys, tempfile, time, xml.dom.minidom, zlib

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
KOREAN = "사진 모음"
# The model has random weights: at this confidence it "finds" boxes everywhere, at 0.9 none.
MODEL = ["model=yolov8n.yaml", "imgsz=64", "threads=2"]
SURE = ["conf=0.9"]
UNSURE = ["conf=0.00001", "max_det=5"]

tests = []


def test(function):
    tests.append(function)
    return function


class Skip(Exception):
    pass


def png(width, height, seed):
    """The bytes of a small picture with some structure."""
    rows = b"".join(
        b"\0" + bytes((x * (seed + 3) + c * 40) & 255 if (x // 8 + y // 8 + seed) & 1 else (y * 5 + c * 90 + seed * 31) & 255 for x in range(width) for c in range(3))
        for y in range(height))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def write(path, data):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())


def read(path):
    with open(path, "rb") as file:
        return file.read()


def tree(folder):
    """All files, but for what is kept for undo."""
    found = (os.path.relpath(os.path.join(base, name), folder).replace("\\", "/") for base, _, names in os.walk(folder) for name in names)
    return sorted(name for name in found if not re.search("(^|/)[.]yolo_undo/", name))


def pictures(folder, names):
    for i, name in enumerate(names):
        write(f"{folder}/{name}", png(48 + 8 * (i % 3), 40 + 16 * (i % 2), i))


class Result:
    def __init__(self, done):
        self.status = done.returncode
        self.out = done.stdout.decode("utf-8").replace("\r\n", "\n")
        self.err = re.sub("(?m)^wine client error:.*\n", "", done.stderr.decode("utf-8").replace("\r\n", "\n"))  # wine's own, on the way out now and then


def yolo(*arguments, status=0, **more):
    """Runs the program and checks its exit status."""
    done = Result(subprocess.run(command + list(arguments), stdin=subprocess.DEVNULL, capture_output=True, timeout=300, **more))
    shown = " ".join(arguments)
    assert done.status == status, f"yolo {shown}: exit status {done.status}, expected {status}\n{done.out}{done.err}"
    assert status == 0 or done.err.strip(), f"yolo {shown}: failed without a word"
    return done


def says(done, *parts):
    for part in parts:
        assert part in done.out + done.err, f"{part!r} is not in:\n{done.out}{done.err}"


def label(*arguments, **more):
    return yolo("label", *MODEL, *arguments, **more)


def checkpoint():
    path = os.path.join(shared, "data", "yolov8n-coco.pt")
    if not os.path.exists(path):
        raise Skip("no checkpoint in " + shared)
    return path


def summary(done):
    """The counts of label's first line of results."""
    found = re.search(r"(\d+) pictures: (\d+) labelled, (\d+) empty, (\d+) skipped, (\d+) damaged", done.out)
    assert found, done.out + done.err
    return dict(zip(("pictures", "labelled", "empty", "skipped", "damaged"), map(int, found.groups())))


def label_lines(path, columns=5):
    lines = read(path).decode().splitlines()
    for line in lines:
        words = line.split(" ")
        assert len(words) == columns, f"{path}: {line!r}"
        assert words[0].isdigit() and all(re.fullmatch(r"[01]\.\d{6}", w) and float(w) <= 1 for w in words[1:]), f"{path}: {line!r}"
    return lines


# ---- help, version, wrong usage


@test
def help_and_version():
    done = yolo()
    says(done, "prepare", "label", "predict", "help VERB")
    assert yolo("help").out == done.out == yolo("--help").out == yolo("detect").out
    for verb in ("prepare", "train", "val", "label", "predict", "export", "info", "bench", "demo", "ui"):
        text = yolo("help", verb).out
        assert text == yolo(verb, "--help").out == yolo("detect", verb, "-h").out
        assert all(len(line) <= 116 for line in text.splitlines()), text
    says(yolo("help", "label"), "conf", "0.25", "existing", "skip|replace|merge|compare", "imgsz", "640", "32..8192 pixels")
    says(yolo("help", "val"), "0.001", "data.yaml")
    version = yolo("version").out
    assert re.match(r"yolo \d+\.\d+\.\d+ \(", version) and yolo("--version").out == version


@test
def wrong_usage():
    pictures("a", ["x.png"])
    for arguments, parts in (
        (["lable"], ["unknown verb 'lable'", "'label'"]),
        (["help", "vall"], ["'val'"]),
        (["label", "source=a"], ["model=FILE is missing", "yolo label model="]),
        (["label", "model=yolov8n.yaml"], ["source=PATH is missing"]),
        (["label", "model=yolov8n.yaml", "source=a", "cnof=1"], ["unknown option 'cnof'", "'conf'"]),
        (["label", "model=yolov8n.yaml", "source=a", "--agnostic", "1"], ["'agnostic_nms'"]),
        (["label", "model=yolov8n.yaml", "source=a", "conf=2"], ["conf=2", "0 to 1"]),
        (["label", "model=yolov8n.yaml", "source=a", "imgsz=7"], ["imgsz=7", "32 to 8192 pixels"]),
        (["label", "model=yolov8n.yaml", "source=a", "existing=maybe"], ["existing=maybe", "skip|replace"]),
        (["label", "model=yolov8n.yaml", "source=a", "classes=0,80"], ["classes=80", "0 to 79"]),
        (["label", "model=yolov8n.yaml", "source=a", "device=gpu"], ["device=gpu", "expected auto, cpu"]),
        (["label", "photos"], ["'photos'", "yolo label model="]),
        (["predict", "model=yolov8n.yaml", "source=a", "save=maybe"], ["save=maybe", "true or false"]),
        (["val", "model=yolov8n.yaml"], ["data=FILE is missing"]),
        (["prepare", "source=a"], ["out=DIR is missing"]),
        (["info"], ["model=FILE is missing", "yolo info best.pt"]),
        (["bench", "model=yolov8n.yaml", "repeats=0"], ["repeats=0"]),
        (["devices", "x=1"], ["unknown option 'x'", "json"]),
        (["version", "x=1"], ["no options"]),
    ):
        done = yolo(*arguments, status=2)
        says(done, *parts)
        assert not done.out and len(done.err.splitlines()) == 1, done.out + done.err
    assert tree(".") == ["a/x.png"]


@test
def missing_things():
    pictures("a", ["x.png"])
    write("bad.pt", b"PK\3\4 this is no checkpoint")
    for arguments, parts in (
        (["label", "model=none.pt", "source=a"], ["none.pt"]),
        (["label", "model=bad.pt", "source=a"], ["bad.pt"]),
        (["info", "bad.pt"], ["bad.pt"]),
        (["info", "none.pt"], ["none.pt"]),
        (["label", *MODEL, "source=nowhere"], ["nowhere: no such file or folder"]),
        (["predict", *MODEL, "source=nowhere"], ["nowhere: no such file or folder"]),
        (["label", *MODEL, "source=a/*.jpg"], ["a/*.jpg: no picture found"]),
        (["predict", *MODEL, "source=a/*.jpg"], ["a/*.jpg: no picture found"]),
        (["val", "model=yolov8n.yaml", "data=none.yaml"], ["none.yaml"]),
        (["prepare", "source=nowhere", "out=o"], ["nowhere"]),
        (["label", *MODEL, "source=bad.pt"], ["bad.pt: expected a picture"]),
    ):
        done = yolo(*arguments, status=1)
        says(done, *parts)
        assert not done.out, done.out
    assert not os.path.exists("runs") and not os.path.exists("o")


@test
def no_effect_is_said():
    pictures("a", ["x.png"])
    says(label("source=a", "half=true", *SURE), "half=true has no effect")
    assert "no effect" not in label("source=a", "half=False", "batch=1", *SURE).err


@test
def device_choice():
    pictures("a", ["x.png"])
    for device in ("cpu", "auto", "CPU"):
        label("source=a", f"device={device}", "existing=replace", *SURE)
    count = len(re.findall(r"^GPU +\d", yolo("devices").out, re.M))
    done = label("source=a", "device=0", status=1)
    says(done, "use device=cpu" if count else "GPU 0 not available: no GPU detected")
    says(label("source=a", "device=0,99", status=1), "not available:")


@test
def devices():
    out = yolo("devices").out
    assert re.search(r"^CPU +\S+.* \d+ core\(s\) usable, [\d.]+ GiB memory$", out, re.M), out
    assert re.search(r"^ +kernels: (portable|avx2|avx512)$", out, re.M), out
    assert re.search(r"^GPU ", out, re.M) and re.search(r"^NCCL ", out, re.M), out
    choices = json.loads(yolo("devices", "json=true").out)
    assert [choices[0]["id"], choices[-1]["id"]] == ["auto", "cpu"] and all(0 < c["free"] <= c["memory"] for c in choices[:1]), choices


NCCL = ["ncclGetVersion", "ncclGetErrorString", "ncclGetUniqueId", "ncclCommInitRank", "ncclCommDestroy", "ncclCommAbort",
        "ncclCommGetAsyncError", "ncclAllReduce"]


@test
def nccl_that_will_not_do():
    """A library beside the program goes before all others; one that lacks a function, or is of another version, is refused by name."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if wine or sys.platform != "linux" or not compiler:
        raise Skip("wants Linux and a C compiler")
    os.makedirs("with nccl")
    shutil.copy(command[0], "with nccl/yolo")
    library = os.path.join(os.getcwd(), "with nccl", "libnccl.so.2")

    def line(version, names):
        source = "".join(f"int {name}(int *v) {{ {f'*v = {version};' if name == 'ncclGetVersion' else '(void)v;'} return 0; }}\n" for name in names)
        write("nccl.c", source)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, "nccl.c"], check=True)
        out = subprocess.run(["with nccl/yolo", "devices"], stdout=subprocess.PIPE, check=True).stdout.decode()
        return re.search(r"^NCCL +(.*)$", out, re.M).group(1)

    for lacks in NCCL:
        found = line(22703, [name for name in NCCL if name != lacks])
        assert found == f"{library}: there is no {lacks} in it", found
    assert line(30001, NCCL) == f"{library}: expected version 2, found 3", line(30001, NCCL)
    assert line(22703, NCCL) == f"{library}, version 2.27.3", line(22703, NCCL)
    assert line(2804, NCCL) == f"{library}, version 2.8.4", line(2804, NCCL)


@test
def bench_scaling():
    done = yolo("bench", "scaling=true", "model=yolov8n.yaml", "batch=16", "link=pcie4-host", "gpu=rtx4090", "device=cpu")
    says(done, "PREDICTED, not measured", "one GPU: rtx4090", "DDP tool")
    assert len(re.findall(r"^pcie4-host +host +[248] ", done.out, re.M)) == 3, done.out
    says(yolo("bench", "scaling=true", "model=yolov8n.yaml", "gpu=rtx", "device=cpu", status=2), "gpu=rtx: expected one of auto, this, rtx3090")
    says(yolo("bench", "scaling=true", "model=yolov8n.yaml", "per_machine=0", "device=cpu", status=2), "per_machine")


@test
def results_that_cannot_be_written():
    if wine or not os.path.exists("/dev/full"):
        raise Skip("no /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run(command + ["version"], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1 and b"cannot write" in done.stderr, done


# ---- label


@test
def label_writes_beside():
    names = ["b.png", "가/나 다.png", "c/d/e.PNG"]
    pictures(KOREAN, names)
    done = label(f"source={KOREAN}", *UNSURE)
    assert summary(done) == {"pictures": 3, "labelled": 3, "empty": 0, "skipped": 0, "damaged": 0}, done.out
    stems = [os.path.splitext(n)[0] for n in names]
    assert tree(KOREAN) == sorted(names + [s + ".txt" for s in stems] + ["classes.txt"])
    assert sum(len(label_lines(f"{KOREAN}/{s}.txt")) for s in stems) == 15
    assert len(read(f"{KOREAN}/classes.txt").splitlines()) == 80
    says(done, "15 boxes")


@test
def label_mirrors_the_tree():
    pictures("in", ["b.png", "한/글.png", "한/글/깊이.png"])
    before = tree("in")
    label("source=in/", "out=out/나", *UNSURE)
    assert tree("in") == before
    assert tree("out") == ["나/b.txt", "나/classes.txt", "나/한/글.txt", "나/한/글/깊이.txt"], tree("out")


@test
def label_empty_and_confidence():
    pictures("in", ["b.png", "c.png"])
    done = label("source=in", "out=none", *SURE)
    assert summary(done)["empty"] == 2 and read("none/b.txt") == b"" == read("none/c.txt")
    label("source=in", "out=some", "--save_conf", *UNSURE)
    assert len(label_lines("some/b.txt", columns=6)) == 5


@test
def label_sources():
    pictures("in", ["a1.png", "a2.png", "b.png", "sub/a3.png"])
    label("source=in/b.png", "out=one", *SURE)
    assert tree("one") == ["b.txt", "classes.txt"]
    label("source=in/a*.png", "out=two", *SURE)
    assert tree("two") == ["a1.txt", "a2.txt", "classes.txt"], tree("two")
    write("list.txt", "\ufeffin/a1.png\r\n./in/sub/a3.png\r\n\r\nin/missing.png\r\n")
    done = label("source=list.txt", "out=three", *SURE)
    assert summary(done) == {"pictures": 3, "labelled": 0, "empty": 2, "skipped": 0, "damaged": 1}
    assert tree("three") == ["classes.txt", "in/a1.txt", "in/sub/a3.txt"], tree("three")
    says(done, "missing.png")


@test
def label_ranks_write_the_same():
    for i in range(36):  # many shapes, in folders, three of them damaged
        write(f"in/{'ab'[i % 2]}/{i:02}.png", png(24 + i * 7 % 60, 20 + i * 11 % 50, i) if i % 13 != 5 else b"\x89PNG\r\n\x1a\nno more")
    for verb, more in (("label", ["save_conf=true"]), ("predict", ["save_txt=true", "save_conf=true", "save_crop=true"])):
        trees = []
        for ranks in (1, 2, 4):
            where = [f"out=labels{ranks}"] if verb == "label" else ["project=runs", f"name=run{ranks}"]
            folder = f"labels{ranks}" if verb == "label" else f"runs/run{ranks}"
            says(yolo(verb, *MODEL, "source=in", "device=cpu", f"ranks={ranks}", *where, *UNSURE, *more), "36 pictures", f"{ranks} ranks share the CPU" if ranks > 1 else "")
            trees.append({name: read(f"{folder}/{name}") for name in tree(folder)})
        assert len(trees[0]) > 33 and trees[0] == trees[1] == trees[2], [len(t) for t in trees]
    says(label("source=in", "ranks=65", status=2), "ranks=65: expected a whole number from 0 to 64")


@test
def label_follows_the_labels_folder():
    pictures("set/images/train", ["a.png", "b.png"])
    write("set/labels/train/a.txt", "0 0.5 0.5 0.25 0.25\n")
    done = label("source=set/images", *SURE)
    assert summary(done)["skipped"] == 1 and read("set/labels/train/a.txt") == b"0 0.5 0.5 0.25 0.25\n"
    assert os.path.exists("set/labels/train/b.txt") and not os.path.exists("set/images/train/b.txt"), tree("set")


@test
def existing_labels_stay():
    pictures("in", ["a.png", "b.png", "c.png", "d.png"])
    mine = {"a": b"7 0.1 0.2 0.3 0.4\r\n\r\nmy own note", "b": b"", "c": "사람".encode()}
    for name, text in mine.items():
        write(f"in/{name}.txt", text)
        os.utime(f"in/{name}.txt", (1000000000, 1000000000))
    done = label("source=in", *UNSURE)
    assert summary(done) == {"pictures": 4, "labelled": 1, "empty": 0, "skipped": 3, "damaged": 0}
    for name, text in mine.items():
        assert read(f"in/{name}.txt") == text and os.path.getmtime(f"in/{name}.txt") == 1000000000, name
    done = label("source=in", "existing=replace", *UNSURE)
    assert summary(done)["labelled"] == 4 and all(len(label_lines(f"in/{n}.txt")) == 5 for n in "abcd")


@test
def skipping_decodes_nothing():
    write("in/a.jpg", b"no picture at all")
    write("in/a.txt", b"")
    done = label("source=in")
    assert summary(done) == {"pictures": 1, "labelled": 0, "empty": 0, "skipped": 1, "damaged": 0}


@test
def damaged_pictures_are_listed():
    pictures("in", ["a.png", "b.png"])
    write("in/cut.png", png(64, 64, 1)[:200])
    write("in/text.jpg", b"this is text")
    write("in/nothing.bmp", b"")
    kept = {n: read(f"in/{n}") for n in ("cut.png", "text.jpg", "nothing.bmp")}
    done = label("source=in", "out=out", *SURE)
    assert summary(done) == {"pictures": 5, "labelled": 0, "empty": 2, "skipped": 0, "damaged": 3}
    for name, data in kept.items():
        assert re.search(rf"^warning: in/{name}: .+", done.err, re.M), done.err
        assert read(f"in/{name}") == data
    assert tree("out") == ["a.txt", "b.txt", "classes.txt"]
    says(label("source=in/text.jpg", "out=two", status=1), "no picture could be read")


@test
def one_label_file_for_two_pictures():
    pictures("in", ["a.png", "b.png"])
    write("in/a.bmp", read("in/a.png"))
    write("in/classes.png", png(40, 40, 3))
    done = label("source=in", *UNSURE)
    assert summary(done)["labelled"] == 2, done.out
    says(done, "warning: in/a.png: not labelled, because in/a.txt belongs to another", "in/classes.png", "2 of the same label file")
    assert len(read("in/classes.txt").splitlines()) == 80


@test
def other_classes_stay():
    pictures("in", ["a.png"])
    write("in/classes.txt", "cat\ndog\n")
    says(label("source=in", *SURE), "in/classes.txt", "left as it is")
    assert read("in/classes.txt") == b"cat\ndog\n"


@test
def outputs_that_cannot_be_written():
    pictures("in", ["a.png", "b.png"])
    write("file", "x")
    done = label("source=in", "out=file/sub", status=1)
    says(done, "file")
    assert len(done.err.splitlines()) == 1, done.err
    os.makedirs("in/a.txt.partial")  # where the label is begun
    done = label("source=in", *SURE, status=1)
    says(done, "in/a.txt")
    if wine:
        return
    says(label("source=in", "out=/proc/none", status=1), "/proc/none: cannot make folder")
    import resource  # a file size limit is what a full disk looks like from inside: the write fails

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    done = label("source=in", "out=full", *UNSURE, status=1, preexec_fn=limit, restore_signals=False)
    says(done, "cannot write", "full/")
    assert not [n for n in tree("full") if n.endswith(".partial")], tree("full")


@test
def progress_plain():
    pictures("in", [f"{i:03}.png" for i in range(150)])
    done = label("source=in", "out=out", "progress=plain", *SURE)
    numbers = [int(n) for n in re.findall(r"^Progress:(\d+)%$", done.err, re.M)]
    assert numbers == sorted(set(numbers)) and numbers[0] == 0 and numbers[-1] == 100 and len(numbers) == 101, numbers
    assert "Progress" not in done.out
    done = label("source=in", "out=out2", *SURE)
    assert not done.err, done.err  # nothing when piped


@test
def progress_bar():
    if wine:
        raise Skip("no terminal under wine")
    import fcntl, pty, termios

    pictures("in", [f"{i:03}.png" for i in range(40)])
    write("in/bad.png", b"bad")
    main, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 44, 0, 0))
    with subprocess.Popen(command + ["predict", *MODEL, "source=in", *SURE], stdout=end, stderr=end) as process:
        os.close(end)
        text = b""
        while True:
            try:
                block = os.read(main, 65536)
            except OSError:
                break
            if not block:
                break
            text += block
    os.close(main)
    assert process.returncode == 0, text
    pieces = re.split(rb"[\r\n]+", text)
    bars = [p for p in pieces if p.startswith(b"predict ") and b"/41" in p]
    assert bars and all(len(p) <= 43 for p in bars), bars
    lines = [p for p in pieces if p.startswith(b"image ")]
    assert len(lines) == 40 and all(re.fullmatch(rb"image \d+/41 in/\d+\.png: \d+x\d+ \(no detections\), [\d.]+ms", p) for p in lines), lines
    assert any(p.startswith(b"warning: in/bad.png: ") for p in pieces), pieces


def start_long_label(out):
    pictures("in", [f"{i:04}.png" for i in range(12)])
    source = [f"in/{i:04}.png" for i in range(12)]
    for i in range(12, 600):
        shutil.copy(source[i % 12], f"in/{i:04}.png")
    process = subprocess.Popen(command + ["label", *MODEL, "imgsz=640", "source=in", f"out={out}", *UNSURE], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.time() + 60
    while time.time() < deadline and process.poll() is None and not (os.path.isdir(out) and len([n for n in os.listdir(out) if n.endswith(".txt")]) > 5):
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()
    return process


def check_continued(out):
    done = [n for n in os.listdir(out) if n.endswith(".txt") and n != "classes.txt"]
    assert 5 <= len(done) < 600, len(done)
    for name in done:
        assert len(label_lines(f"{out}/{name}")) == 5
    kept = {n: read(f"{out}/{n}") for n in done}
    result = label("source=in", f"out={out}", "imgsz=32", *UNSURE)
    counts = summary(result)
    assert counts["skipped"] == len(done) and counts["labelled"] == 600 - len(done), counts
    assert all(read(f"{out}/{n}") == data for n, data in kept.items())
    assert len([n for n in os.listdir(out) if n.endswith(".txt")]) == 601


@test
def interrupted_then_continued():
    if wine:
        raise Skip("no signals under wine")
    process = start_long_label("out")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, (process.returncode, err)
    assert re.search(rb"yolo label: interrupted after \d+ of 600 pictures", err), err
    assert re.search(rb"600 pictures: \d+ labelled", out), out
    assert not [n for n in os.listdir("out") if n.endswith(".partial")]
    check_continued("out")


@test
def killed_then_continued():
    if wine:
        raise Skip("no signals under wine")
    process = start_long_label("out")
    process.kill()
    process.communicate()
    check_continued("out")
    assert not [n for n in os.listdir("out") if n.endswith(".partial")]


# ---- label: labels that are there


APART = [*UNSURE, "iou=0.05", "agnostic_nms=true"]  # boxes that hardly overlap


def shapes(*arguments, **more):
    """label by a model that has learnt something, and has names: circle, square, triangle, star, cross, ring."""
    return yolo("label", f"model={ROOT}/weights/shapes.pt", "imgsz=64", "threads=2", *arguments, **more)


def contents(folder):
    return {n: read(f"{folder}/{n}") for n in tree(folder)}


def kept(folder):
    """The runs that can be taken back, the newest last."""
    return sorted(os.listdir(f"{folder}/.yolo_undo")) if os.path.exists(f"{folder}/.yolo_undo") else []


def undo(*arguments, **more):
    return yolo("label", *arguments, "undo=last", **more)


def rows(path):
    data = read(path)
    assert data.startswith(b"\xef\xbb\xbf"), path
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))


@test
def replaced_then_brought_back():
    pictures(KOREAN, ["a.png", "b.png", "가 나/c.png", "새/d.png"])
    for name, text in {"a": "7 0.1 0.2 0.3 0.4\r\n", "가 나/c": "사람"}.items():
        write(f"{KOREAN}/{name}.txt", text)
    write(f"{KOREAN}/classes.txt", "개\r\n")
    before = contents(KOREAN)
    done = label(f"source={KOREAN}", "existing=replace", "also=coco,csv,voc", "review=true", *UNSURE)
    assert summary(done)["labelled"] == 4 and len(label_lines(f"{KOREAN}/가 나/c.txt")) == 5 and len(read(f"{KOREAN}/classes.txt").splitlines()) == 80
    run = re.search(r"undo=([\d-]+)$", done.out, re.M).group(1)
    assert kept(KOREAN) == [run] and read(f"{KOREAN}/.yolo_undo/{run}/source/가 나/c.txt") == "사람".encode()
    mine = b"0 0.5 0.5 0.1 0.1\n"
    for name in ("b", "가 나/c"):
        write(f"{KOREAN}/{name}.txt", mine)  # a person's since then
    os.remove(f"{KOREAN}/a.txt")
    done = undo(f"source={KOREAN}/a.png")
    says(done, f"run {run}: 2 files restored", "2 kept", "b.txt: changed since that run, so it stays as it is", "c.txt: changed since that run, so it stays as it is; the old one")
    assert contents(KOREAN) == {**before, "b.txt": mine, "가 나/c.txt": mine} and kept(KOREAN) == [run]
    os.remove(f"{KOREAN}/가 나/c.txt")
    says(yolo("label", f"source={KOREAN}", f"undo={run}"), "1 files restored, 0 removed", "1 kept")
    assert contents(KOREAN) == {**before, "b.txt": mine} and not os.path.exists(f"{KOREAN}/.yolo_undo")
    says(undo(f"source={KOREAN}", status=1), "there is no run at all to take back")
    says(yolo("label", f"source={KOREAN}", "undo=20010101-000000", status=1), "there is no run 20010101-000000")
    says(undo("source=none", status=1), "none")
    says(yolo("label", "undo=last", status=2), "source=PATH is missing")


@test
def new_labels_taken_back():
    pictures(KOREAN, ["a.png", "b.png", "c.png", "가 나/d.png", "가 나/e.png"])
    write(f"{KOREAN}/a.txt", "7 0.1 0.2 0.3 0.4\r\n")
    before = contents(KOREAN)
    done = label(f"source={KOREAN}", "review=true", *UNSURE)
    first, runs = contents(KOREAN), kept(KOREAN)
    assert summary(done)["labelled"] == 4 and len(runs) == 1
    says(done, f"undo={runs[0]}")
    done = label(f"source={KOREAN}", "review=true", *UNSURE)
    assert summary(done)["skipped"] == 5 and contents(KOREAN) == first and kept(KOREAN) == runs and "undo=" not in done.out
    pictures(KOREAN, ["new/f.png"])
    label(f"source={KOREAN}", *UNSURE)
    second = contents(KOREAN)
    assert "new/f.txt" in second and len(kept(KOREAN)) == 2
    undo(f"source={KOREAN}")
    del second["new/f.txt"]
    assert contents(KOREAN) == second == {**first, "new/f.png": second["new/f.png"]} and kept(KOREAN) == runs
    write(f"{KOREAN}/b.txt", first["b.txt"] + b"0 0.5 0.5 0.1 0.1\n")  # corrected by a person
    write(f"{KOREAN}/가 나/.yolo_person", "d.txt\n")  # called right on the page
    done = undo(f"source={KOREAN}")
    says(done, "0 files restored, 3 removed", "3 kept", "b.txt: changed since that run", "d.txt: a person has called it right, so it stays")
    left = contents(KOREAN)
    assert sorted(set(left) - set(before)) == ["b.txt", "classes.txt", "new/f.png", "가 나/.yolo_person", "가 나/d.txt"] and kept(KOREAN) == []
    assert left["가 나/d.txt"] == first["가 나/d.txt"] and left["a.txt"] == before["a.txt"]
    says(undo(f"source={KOREAN}", status=1), "there is no run at all to take back")


@test
def new_labels_in_new_folders():
    pictures("set/images", ["a.png", "b/c.png", "b/깊이/d.png"])
    os.makedirs("set/labels")
    pictures("out/of", ["e.png"])
    folders = lambda: sorted(base for base, _, _ in os.walk("set"))
    before, made = contents("set"), folders()
    label("source=set/images", *UNSURE)
    assert "labels/b/깊이/d.txt" in contents("set") and kept("set/images")
    undo("source=set/images")
    assert contents("set") == before and folders() == made
    label("source=set/images", "out=there", "also=voc", *UNSURE)
    assert len(tree("there")) == 7 and contents("set") == before
    undo("source=set/images", "out=there")
    assert os.listdir("there") == []
    write("lists/list.txt", os.path.abspath("out/of/e.png") + "\n" + os.path.abspath("set/images/a.png") + "\n")
    says(label("source=lists/list.txt", *UNSURE), "2 new labels lie outside of lists, or are links: undo will not remove them")
    assert os.path.exists("out/of/e.txt") and os.path.exists("set/labels/a.txt")


@test
def replaced_twice_and_elsewhere():
    pictures("set/images", ["a.png", "b/c.png"])
    write("set/labels/b/c.txt", "1 0.5 0.5 0.5 0.5\n")
    before = contents("set")
    label("source=set/images", "existing=replace", "classes=3", *UNSURE)
    middle = contents("set")
    assert os.path.exists("set/labels/a.txt") and middle["labels/b/c.txt"] != before["labels/b/c.txt"]
    label("source=set/images", "existing=replace", *UNSURE)
    undo("source=set/images")
    assert contents("set") == middle
    undo("source=set/images")
    assert contents("set") == before
    label("source=set/images", "out=out/가", "existing=replace", *UNSURE)
    assert contents("set") == before and len(tree("out/가")) == 3
    undo("source=set/images", "out=out/가")
    assert os.listdir("out/가") == []


@test
def names_stay_with_labels():
    pictures("in", ["a.png", "b.png"])
    label("source=in", *UNSURE)
    names = read("in/classes.txt")
    write("in/b.txt", read("in/b.txt") + b"0 0.5 0.5 0.1 0.1\n")
    done = undo("source=in")
    says(done, "in/b.txt: changed since that run", "in/classes.txt: labels that stay have its numbers", "0 files restored, 1 removed", "2 kept")
    assert tree("in") == ["a.png", "b.png", "b.txt", "classes.txt"] and read("in/classes.txt") == names
    write("in/classes.txt", "나무\n")
    names, mine = read("in/classes.txt"), read("in/b.txt")
    label("source=in", "existing=merge", *UNSURE)
    longer = read("in/classes.txt")
    assert longer.startswith(names) and longer != names
    write("in/b.txt", read("in/b.txt") + mine)
    says(undo("source=in"), "in/classes.txt: labels that stay have its numbers")
    assert read("in/classes.txt") == longer
    os.remove("in/b.txt")
    write("in/classes.txt", names)
    label("source=in", "existing=replace", *UNSURE)
    undo("source=in")
    assert tree("in") == ["a.png", "b.png", "classes.txt"] and read("in/classes.txt") == names


@test
def links_are_not_replaced():
    if wine:
        raise Skip("no links under wine")
    pictures("in", ["a.png", "b.png"])
    pictures("other", ["c.png"])
    write("other/c.txt", "mine")
    write("kept.txt", "mine")
    os.symlink("../kept.txt", "in/a.txt")
    os.symlink("../other", "in/other")
    done = label("source=in", "existing=replace", *UNSURE)
    says(done, "in/a.txt: left as it is: it is a link", "in/other/c.txt: left as it is: a link leads out")
    assert read("kept.txt") == b"mine" == read("other/c.txt") and len(label_lines("in/b.txt")) == 5 and summary(done)["skipped"] == 2
    write("list.txt", os.path.abspath("other/c.png") + "\n")
    os.makedirs("lists")
    os.rename("list.txt", "lists/list.txt")
    says(label("source=lists/list.txt", "existing=replace", *UNSURE), "it lies outside of the source's folder")
    assert read("other/c.txt") == b"mine"
    shutil.rmtree("in/.yolo_undo")
    os.symlink("../other", "in/.yolo_undo")
    says(label("source=in", "existing=replace", *UNSURE, status=1), "in/.yolo_undo: is a link")
    says(undo("source=in", status=1), "in/.yolo_undo: is a link")


@test
def merged_labels():
    pictures("in", ["a.png", "b.png", "c.png", "d.png"])
    shapes("source=in", "out=all", *APART)
    lines = {n: read(f"all/{n}.txt").splitlines(keepends=True) for n in "abcd"}
    mine = {"a": b"".join(lines["a"][:3]).rstrip(b"\n"), "b": b"# my own note\r\n" + lines["b"][1].replace(b"\n", b" 0.5\r\n"), "c": b"".join(lines["c"])}
    for name, text in mine.items():
        write(f"in/{name}.txt", text)
        os.utime(f"in/{name}.txt", (1000000000, 1000000000))
    before = contents("in")
    done = shapes("source=in", "existing=merge", *APART)
    all_boxes = sum(map(len, lines.values()))
    says(done, f"{all_boxes} boxes, {all_boxes - 4 - len(lines['c'])} of them added")
    assert read("in/a.txt") == b"".join(lines["a"]) and read("in/b.txt") == mine["b"] + b"".join(lines["b"][:1] + lines["b"][2:])
    assert read("in/c.txt") == mine["c"] and os.path.getmtime("in/c.txt") == 1000000000 and read("in/d.txt") == b"".join(lines["d"])
    again = contents("in")
    runs = kept("in")
    done = shapes("source=in", "existing=merge", *APART)
    says(done, f"{all_boxes} boxes, 0 of them added")
    assert contents("in") == again and kept("in") == runs and "undo=" not in done.out  # nothing to take back
    undo("source=in")
    assert contents("in") == before


@test
def merged_into_other_classes():
    pictures("in", ["a.png"])
    shapes("source=in", "out=all", "classes=star,Cross", *APART)
    write("in/classes.txt", "나무\nstar\n")
    write("in/a.txt", "0 0.5 0.5 0.01 0.01\n")
    shapes("source=in", "existing=merge", "classes=3,cross", *APART)
    assert read("in/classes.txt").decode().splitlines() == ["나무", "star", "circle", "square", "triangle", "cross", "ring"]
    said = {"3": "1", "4": "5"}
    expected = [" ".join([said[w[0]], *w[1:]]) for w in (line.split(" ") for line in label_lines("all/a.txt"))]
    assert read("in/a.txt").decode().splitlines() == ["0 0.5 0.5 0.01 0.01", *expected]
    write("in/classes.txt", "a\n\nb\n")
    says(shapes("source=in", "existing=merge", *APART, status=1), "in/classes.txt:2: found an empty line")


@test
def compared_labels():
    pictures("in", ["a.png", "b.png", "c.png", "가.png", "e.png"])
    shapes("source=in", "out=in", "save_conf=true", *APART)
    lines = {n: [line.split(" ") for line in label_lines(f"in/{n}.txt", columns=6)] for n in ("a", "b", "가")}
    os.remove("in/e.txt")
    write("in/a.txt", "".join(" ".join(w) + "\n" for w in lines["a"][1:]) + "9 0.001 0.001 0.001 0.001\n")  # an extra one, a missing one
    lines["b"][0][0] = str(int(lines["b"][0][0]) ^ 1)
    write("in/b.txt", "".join(" ".join(w) + "\n" for w in lines["b"]))
    moved = max(lines["가"], key=lambda w: float(w[3]) * float(w[4]))
    right = sum(len(read(f"in/{n}.txt").splitlines()) for n in ("a", "b", "c", "가")) - 3
    x, w = float(moved[1]), float(moved[3])
    moved[1], moved[3] = f"{x - w / 4:.6f}", f"{w / 2:.6f}"  # its left half
    write("in/가.txt", "".join(" ".join(w) + "\n" for w in lines["가"]))
    before, runs = contents("in"), kept("in")
    done = shapes("source=in", "existing=compare", *APART)
    says(done, "Wrong class", "1 skipped")
    total = re.search(r"^ +all +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)$", done.out, re.M).groups()
    assert total == (str(right), "1", "1", "1", "1"), (right, done.out)
    found = rows("in/compare.csv")
    assert [(r["picture"], r["differences"], r["kind"]) for r in found] == [("in/a.png", "2", "missing"), ("in/a.png", "2", "extra"), ("in/b.png", "1", "wrong class"),
                                                                         ("in/가.png", "1", "poorly placed")], found
    assert abs(float(found[3]["iou"]) - 0.5) < 0.02 and found[1]["person_x1"] == "" and float(found[1]["model_x2"]) > 0 and found[0]["confidence"] == ""
    assert {k: v for k, v in contents("in").items() if k != "compare.csv"} == before and kept("in") == runs
    says(shapes("source=in", "existing=compare", "also=coco", status=2), "existing=compare writes no labels")


# ---- label: classes, lists, formats


@test
def classes_by_name():
    pictures("in", ["a.png", "b.png"])
    many = ["max_det=300", "conf=0.00001", "save_conf=true"]
    shapes("source=in", "out=all", "classes=[3, 4]", *many)
    shapes("source=in", "out=named", "classes=cross, STAR", *many)
    assert contents("all") == contents("named")
    everything = [line.split(" ") for n in "ab" for line in label_lines(f"all/{n}.txt", columns=6)]
    middle = sorted(float(w[5]) for w in everything if w[0] == "4")[len([w for w in everything if w[0] == "4"]) // 2] + 5e-7
    shapes("source=in", "out=some", "classes=3,4", *many, f"class_conf=cross:{middle:.7f},5:1")
    kept = [line.split(" ") for n in "ab" for line in label_lines(f"some/{n}.txt", columns=6)]
    assert 0 < len(kept) < len(everything) and kept == [w for w in everything if w[0] == "3" or float(w[5]) > middle], middle
    shapes("source=in", "out=one", "classes=3,4", r"rename=star:별\: 하나,4:별\: 하나,ring:square", *many)
    assert read("one/classes.txt").decode().splitlines() == ["circle", "square", "triangle", "별: 하나"]
    boxes = [line.split(" ") for n in "ab" for line in label_lines(f"one/{n}.txt", columns=6)]
    assert {w[0] for w in boxes} == {"3"} and len(boxes) < len(everything)  # one class now, so they suppress each other
    for option, said in (("classes=nobody", "classes=nobody: the model has 6 classes"), ("class_conf=star", "expected a list of class:value"), ("classes=0,6", "0 to 5"),
                         ("class_conf=star:2", "class_conf=star:2: expected a confidence"), ("rename=6:x", "rename=6: the model has"), ("also=coco,yolo", "also=coco,yolo")):
        says(shapes("source=in", "out=no", option, status=2), said)
    assert not os.path.exists("no")


@test
def review_list():
    pictures(KOREAN, ["가,나.png", "b.png", "c.png"])
    label(f"source={KOREAN}", "review=true", *UNSURE)
    found = rows(f"{KOREAN}/review.csv")
    assert list(found[0]) == ["unsure", "reasons", "picture", "label", "boxes", "lowest_confidence", "below_threshold", "differences"]
    assert sorted(r["picture"] for r in found) == sorted(f"{KOREAN}/{n}" for n in ("가,나.png", "b.png", "c.png"))
    assert all("low confidence" in r["reasons"] and "more boxes than max_det" in r["reasons"] and r["boxes"] == "5" for r in found)
    assert [float(r["unsure"]) for r in found] == sorted((float(r["unsure"]) for r in found), reverse=True)
    plain = contents(KOREAN)
    pictures(KOREAN, ["d.png"])
    label(f"source={KOREAN}", "review=true", "conf=0.000017", "max_det=300")  # the pictures of before stay in the list
    assert len(rows(f"{KOREAN}/review.csv")) == 4
    label(f"source={KOREAN}", "out=without", *UNSURE)  # to look below the threshold changes no label
    assert all(read(f"without/{n}") == data for n, data in plain.items() if n.endswith(".txt"))


@test
def pictures_that_look_alike():
    for name, seed in (("가,1.png", 1), ("b.png", 4), ("c.png", 1), ("d.png", 7)):
        write(f"in/{name}", png(160, 120, seed))
    label("source=in", "alike=true", *SURE)
    assert [(r["group"], r["picture"]) for r in rows("in/alike.csv")] == [("1", "in/c.png"), ("1", "in/가,1.png")], rows("in/alike.csv")


def check_formats(folder, names, source):
    coco = json.loads(read(f"{folder}/labels.coco.json").decode())
    table = rows(f"{folder}/labels.csv")
    by_id = {image["id"]: image for image in coco["images"]}
    assert len(by_id) == len(coco["images"]) and sorted(i["file_name"] for i in coco["images"]) == sorted(names)
    classes = {c["id"]: c["name"] for c in coco["categories"]}
    assert list(classes.values()) == read(f"{folder}/classes.txt").decode().splitlines() and list(classes) == list(range(1, len(classes) + 1))
    boxes = {name: [] for name in names}
    for a in coco["annotations"]:
        boxes[by_id[a["image_id"]]["file_name"]].append((a["category_id"] - 1, *a["bbox"]))
        assert abs(a["area"] - a["bbox"][2] * a["bbox"][3]) < 0.1 and a["iscrowd"] == 0
    assert [a["id"] for a in coco["annotations"]] == list(range(1, len(coco["annotations"]) + 1))
    for name in names:
        width, height = struct.unpack(">II", read(f"{source}/{name}")[16:24])
        stem = os.path.splitext(name)[0]
        lines = [list(map(float, line.split(" "))) for line in read(f"{folder}/{stem}.txt").decode().splitlines()]
        assert len(lines) == len(boxes[name]) == sum(r["image"] == name for r in table), name
        document = xml.dom.minidom.parseString(read(f"{folder}/{stem}.xml"))
        text = lambda node, tag: node.getElementsByTagName(tag)[0].firstChild.data
        objects = document.getElementsByTagName("object")
        assert text(document, "filename") == os.path.basename(name) and (text(document, "width"), text(document, "height")) == (str(width), str(height))
        for line, box, row, o in zip(lines, boxes[name], [r for r in table if r["image"] == name], objects, strict=True):
            c, x, y, w, h = line[:5]
            corners = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
            assert box[0] == c == int(row["class_id"]) and row["class"] == classes[c + 1] == text(o, "name")
            assert all(abs(a - b) < 0.01 for a, b in zip(corners, [box[1], box[2], box[1] + box[3], box[2] + box[4]])), (box, corners)
            assert all(abs(a - float(row[k])) < 0.02 for a, k in zip(corners, ("x1", "y1", "x2", "y2")))
            pixels = [int(text(o, k)) for k in ("xmin", "ymin", "xmax", "ymax")]
            assert 1 <= pixels[0] <= pixels[2] <= width and 1 <= pixels[1] <= pixels[3] <= height
            assert all(abs(a + d - p) <= 1 for a, d, p in zip(corners, (1, 1, 0, 0), pixels))


@test
def other_formats():
    names = ["a&b <c>.png" if not wine else "a&b.png", "나, 다/'가'.png", "e.png"]
    pictures(KOREAN, names)
    shapes(f"source={KOREAN}", "also=coco,csv,voc", "rename=0:사람 \"&<a>\\,", *APART)
    check_formats(KOREAN, names, KOREAN)
    first = contents(KOREAN)
    write(f"{KOREAN}/e.txt", "0 0.5 0.5 1 1 0.25\n1 0.5 0.5 0.00001 0.00001\n")  # corrected by hand; the file of all follows, the .xml stays as any label does
    shapes(f"source={KOREAN}", "also=coco,csv", "rename=0:사람 \"&<a>\\,", *APART)
    assert [(r["confidence"], r["x1"]) for r in rows(f"{KOREAN}/labels.csv") if r["image"] == "e.png"][0] == ("0.250000", "0.00")
    undo(f"source={KOREAN}")
    undo(f"source={KOREAN}")
    assert sorted(contents(KOREAN)) == sorted([*names, "e.txt", "classes.txt"]) != sorted(first)  # a person's, and its names
    shapes(f"source={KOREAN}", "out=out", "also=coco,csv,voc", *SURE)
    check_formats("out", names, KOREAN)


@test
def damaged_journals():
    pictures("in", ["a.png", "b.png", "c/d.png"])
    write("in/a.txt", "1 0.5 0.5 0.1 0.1\n")
    before = contents("in")
    label("source=in", "existing=replace", *UNSURE)
    (run,) = os.listdir("in/.yolo_undo")
    journal = f"in/.yolo_undo/{run}/journal.txt"
    good, after = read(journal), contents("in")
    damages = [b"", b"hello\n", good.replace(b"K 0 a.txt", b"K 0 ../a.txt"), good.replace(b"K 0 a.txt", b"K 0 /a.txt"), good[len(good.split(b"\n")[0]) + 1:],
               good[:40] + b"\0" * 20 + good[60:], good.replace(b"a.txt", b"b.txt", 1), good + good, b"\xff" * 4096]
    for at in range(5, len(good), 41):
        damages.append(good[:at] + bytes([good[at] ^ 4]) + good[at + 1:])
    for data in damages:
        write(journal, data)
        says(undo("source=in", status=1), "journal.txt")
        assert contents("in") == after
    write(f"in/.yolo_undo/{run}/source/a.txt", "2 0.5 0.5 0.1 0.1\n")
    write(journal, good)
    says(undo("source=in", status=1), "is not what was copied")
    assert read("in/a.txt") == after["a.txt"] and not os.path.exists("in/b.txt")
    write(f"in/.yolo_undo/{run}/source/a.txt", before["a.txt"])
    write(journal, good[:-10])  # as a kill leaves it
    undo("source=in")
    assert contents("in") == before


def kill_midway(arguments):
    """kill -9 of a labelling of in/000.png to in/039.png, when some of them are done and some are not."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.time() + 60
    while time.time() < deadline and process.poll() is None and not os.path.exists("in/009.txt"):
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert os.path.exists("in/009.txt") and not os.path.exists("in/039.txt")


@test
def killed_labelling_then_taken_back():
    if wine:
        raise Skip("no signals under wine")
    pictures("in", [f"{i:03}.png" for i in range(40)])
    write("in/000.txt", "0 0.5 0.5 0.1 0.1\n")
    before = contents("in")
    arguments = command + ["label", *MODEL, "imgsz=320", "source=in", *UNSURE]
    for goes_on in (False, True):
        kill_midway(arguments)
        if goes_on:
            done = yolo(*arguments[len(command):])
            continued = int(re.search(r"(\d+) done before", done.out).group(1))
            assert 8 <= continued < 39 and summary(done)["labelled"] == 39 - continued and summary(done)["skipped"] == 1 and len(kept("in")) == 1
        undo("source=in")
        assert contents("in") == before and kept("in") == []


@test
def killed_replacing_then_brought_back():
    if wine:
        raise Skip("no signals under wine")
    pictures("in", [f"{i:03}.png" for i in range(40)])
    for i in range(0, 40, 2):
        write(f"in/{i:03}.txt", f"{i} 0.5 0.5 0.1 0.1\n")
    before = contents("in")
    arguments = command + ["label", *MODEL, "imgsz=320", "source=in", "existing=replace", *UNSURE]
    kill_midway(arguments)
    done = yolo(*arguments[len(command):])
    continued = int(re.search(r"(\d+) done before", done.out).group(1))
    assert 8 <= continued < 40 and summary(done)["labelled"] == 40 - continued and len(kept("in")) == 1
    assert all(len(label_lines(f"in/{i:03}.txt")) == 5 for i in range(40))
    undo("source=in")
    assert contents("in") == before


# ---- predict


@test
def predict_writes_run_folders():
    pictures("in", ["a.png", "sub/a.png", "한글.png"])
    done = yolo("detect", "predict", *MODEL, "source=in", "save_txt", "save_conf=True", "save_crop=true", *UNSURE)
    says(done, "image 1/3 in/", "Speed: ", "3 labels saved to runs/detect/predict/labels", "Results saved to runs/detect/predict\n")
    found = tree("runs/detect/predict")
    assert [n for n in found if "/" not in n] == ["a-2.jpg", "a.jpg", "한글.jpg"], found
    assert [n for n in found if n.startswith("labels/")] == ["labels/a-2.txt", "labels/a.txt", "labels/한글.txt"], found
    assert all(len(label_lines("runs/detect/predict/" + n, columns=6)) == 5 for n in found if n.startswith("labels/"))
    crops = [n for n in found if n.startswith("crops/")]
    assert len(crops) == 15 and all(read("runs/detect/predict/" + n)[:2] == b"\xff\xd8" for n in crops), crops
    yolo("predict", *MODEL, "source=in/a.png", *SURE)
    assert tree("runs/detect/predict2") == ["a.jpg"]
    yolo("predict", *MODEL, "source=in/a.png", "exist_ok=true", "name=predict2", "save=false", "save_txt=true", *SURE)
    assert tree("runs/detect/predict2") == ["a.jpg"] and sorted(os.listdir("runs/detect")) == ["predict", "predict2"]
    yolo("predict", *MODEL, "source=in", "project=my/runs", "name=first", "verbose=false", *SURE)
    assert len(tree("my/runs/first")) == 3


@test
def predict_without_outputs():
    pictures("in", ["a.png"])
    done = yolo("predict", *MODEL, "source=in", "save=false", *SURE)
    assert tree(".") == ["in/a.png"] and "Results saved" not in done.out
    assert re.search(r"^image 1/1 in/a\.png: \d+x\d+ \(no detections\), [\d.]+ms$", done.out, re.M), done.out
    says(done, "Speed: ", "at shape (1, 3, ")


@test
def predict_json_lines():
    pictures("in", ["a.png", "b/c.png", "d.png"])
    done = yolo("predict", *MODEL, "source=in", "save=false", "json=true", "most=2", *UNSURE)
    classes, *lines = [json.loads(line) for line in done.out.splitlines() if line.startswith("{")]
    assert len(classes["classes"]) == 80
    assert [(line["name"], line["width"], line["height"]) for line in lines] == [("a.png", 48, 40), ("b/c.png", 56, 56)], lines
    boxes = [box for line in lines for box in line["boxes"]]
    assert boxes and all(0 <= box[k] <= 1 for box in boxes for k in ("x", "y", "w", "h", "confidence")) and "image 1/" not in done.out
    assert tree(".") == ["in/a.png", "in/b/c.png", "in/d.png"]


@test
def predict_leaves_earlier_runs_out():
    pictures(".", ["a.png", "sub/b.png"])
    for run in ("predict", "predict2"):
        says(yolo("predict", *MODEL, "source=.", "save_crop=true", *UNSURE), "image 2/2 ", f"Results saved to runs/detect/{run}")
    says(yolo("predict", *MODEL, "source=runs/detect/predict/a.jpg", *SURE), "image 1/1 ")


@test
def predict_spares_the_pictures():
    pictures("in", ["a.png", "a.jpg"])
    before = {n: read(f"in/{n}") for n in tree("in")}
    done = yolo("predict", *MODEL, "source=in", "project=.", "name=in", "exist_ok=true", *SURE, status=2)
    says(done, "annotated ones need another folder")
    assert {n: read(f"in/{n}") for n in tree("in")} == before


# ---- prepare, val, info, bench


def labelled(folder, count):
    for i in range(count):
        write(f"{folder}/{i:03}.png", png(40 + i, 40, i))
        write(f"{folder}/{i:03}.txt", f"{i % 2} 0.5 0.5 0.4 0.4\n")
    write(f"{folder}/classes.txt", "\ufeff고양이\r\ndog\r\n")


@test
def prepare_and_val():
    labelled(KOREAN, 20)
    done = yolo("prepare", f"source={KOREAN}", "out=데이터", "val=25", "progress=plain")
    assert re.search(r"^\d+ train and \d+ val pictures, 20 boxes -> 데이터/data\.yaml$", done.out, re.M), done.out
    numbers = [int(n) for n in re.findall(r"^PrepProgress:(\d+)%$", done.err, re.M)]
    assert numbers and numbers == sorted(set(numbers)) and numbers[-1] == 100, done.err
    assert "고양이" in read("데이터/data.yaml").decode()
    before = tree("데이터")
    yolo("prepare", f"source={KOREAN}", "out=데이터", "val=25")
    assert tree("데이터") == before
    says(yolo("prepare", f"source={KOREAN}", "out=other", "val=200", status=2), "val=200")


@test
def prepare_reports():
    labelled("in", 10)
    write("in/003.txt", "9 0.5 0.5 0.4 0.4\n0 0.5 0.5 0.4 0.4\n")
    copy = "copy 1.png" if wine else 'copy "1".png' # Windows has no quotes in names
    shutil.copy("in/001.png", f"in/{copy}")
    write("in/고장.png", "no picture")
    done = yolo("prepare", "source=in", "out=in/set", "val=30")
    says(done, "in/고장.png", "in/003.txt:1: class 9", "same picture as", "out=in/set lies within source=in", "duplicates (same content)")
    report = json.loads(read("in/set/report.json"))
    counts = report["counts"]
    assert counts["train"] + counts["val"] == 10 and counts["duplicates"] == counts["damaged"] == counts["bad_lines"] == 1, counts
    assert report["damaged"][0]["picture"] == "고장.png" and report["damaged"][0]["reason"], report["damaged"]
    assert report["duplicates"] == [{"picture": copy, "of": "001.png", "other_label": False}], report["duplicates"]
    assert report["bad_lines"] == ["in/003.txt:1: class 9 out of range [0,2)"], report["bad_lines"]
    assert [c["name"] for c in report["classes"]] == ["고양이", "dog"] and sum(c["train_pictures"] + c["val_pictures"] for c in report["classes"]) == 10
    assert all(c["train_pictures"] and c["val_pictures"] for c in report["classes"]), report["classes"]
    says(yolo("prepare", "source=in", "out=in", status=2), "out=in: is the source itself")
    says(yolo("prepare", "source=nowhere", "out=x", status=1), "nowhere: no such folder")
    write("mine/images/train/a.png", png(40, 40, 99))
    says(yolo("prepare", "source=in", "out=mine"), "was there before and is not prepare's")
    assert read("mine/images/train/a.png") == png(40, 40, 99)


@test
def prepare_killed():
    """Killed at any moment, the same command ends as if it had not been."""
    if wine:
        raise Skip("no signals under wine")
    for i in range(300):
        write(f"in/{i % 7}/{i:03}.png", png(24, 24 + i % 3, i))
        write(f"in/{i % 7}/{i:03}.txt", f"{i % 2} 0.5 0.5 0.4 0.4\n")
    write("in/classes.txt", "a\nb\n")
    yolo("prepare", "source=in", "out=whole")
    killed = 0
    for delay in (0.01, 0.03, 0.06, 0.1, 0.15):
        process = subprocess.Popen(command + ["prepare", "source=in", "out=out"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.time() + 20
        while time.time() < deadline and process.poll() is None and not os.path.exists("out/split.tsv"):
            time.sleep(0.001)
        time.sleep(delay)
        process.kill()
        killed += process.wait() != 0
    assert killed, "each was over before it could be killed"
    yolo("prepare", "source=in", "out=out")
    names = tree("whole")
    assert tree("out") == names
    for name in names:
        assert name == "report.json" or read(f"out/{name}") == read(f"whole/{name}"), name


@test
def info_of_a_checkpoint():
    done = yolo("info", checkpoint())
    says(done, "3,157,200", "SiLU", "person")
    assert yolo("info", "model=" + checkpoint()).out == done.out


@test
def info_of_a_description():
    done = yolo("info", "yolov8s.yaml")
    says(done, "Detect", "SiLU")
    write("own.yaml", "nc: 2\nbackbone:\n  - [-1, 1, Conv, [16, 3, 2]]\n")
    says(yolo("info", "own.yaml", status=1), "own.yaml: ")


@test
def export():
    done = yolo("export", "model=yolov8n.yaml", "format=onnx", "imgsz=96,64", "batch=2", "simplify=true")
    assert done.out.startswith("yolov8n.onnx: ") and done.out.endswith("images [2, 3, 96, 64] -> output0 [2, 84, 126]\n") and not done.err, done.out
    assert b"images" in read("yolov8n.onnx") and tree(".") == ["yolov8n.onnx"]
    done = yolo("export", "model=yolov8n.yaml", "out=a.onnx", "imgsz=[60]", "--dynamic", "--nms", "max_det=7", "half=true")
    says(done, "images [batch, 3, height, width] -> output0 [batch, 7, 6]")
    assert os.path.getsize("a.onnx") < 0.52 * os.path.getsize("yolov8n.onnx")
    for arguments, parts, status in (
        (["model=yolov8n.yaml", "format=engine"], ["format=engine", "expected onnx"], 2),
        (["model=yolov8n.yaml", "imgsz=1,2,3"], ["3 numbers", "height,width"], 2),
        (["model=yolov8n.yaml", "opset=12"], ["opset=12", "17 to 22"], 2),
        (["model=none.pt"], ["none.pt"], 1),
        (["model=yolov8n.yaml", "out=nowhere/a.onnx"], ["nowhere/a.onnx"], 1),
    ):
        says(yolo("export", *arguments, status=status), *parts)
    assert tree(".") == ["a.onnx", "yolov8n.onnx"]


@test
def bench():
    out = yolo("bench", *MODEL, "repeats=3").out.splitlines()
    assert len(out) == 2 and out[0].split()[:3] == ["size", "batch", "threads"], out
    row = out[1].split()
    assert row[0] == "64x64" and row[1:3] == ["1", "2"] and float(row[5]) <= float(row[4]) <= float(row[6]), row
    out = yolo("bench", *MODEL, "width=96", "batch=2", "repeats=1", "isa=portable", "layers=true").out.splitlines()
    assert out[-1].split()[:4] == ["64x96", "2", "2", "portable"] and len(out) > 60, out[-1]
    shares = [float(line.split()[-1].rstrip("%")) for line in out[1:-2]]
    assert abs(sum(shares) - 100) < 5, sum(shares)


@test
def bench_of_several():
    out = yolo("bench", "model=yolov8n.yaml,yolov8s.yaml", "imgsz=32", "batch=1,2", "repeats=1", "threads=2").out.splitlines()
    assert [line.split()[0] for line in out] == ["model", "yolov8n", "yolov8n", "yolov8s", "yolov8s"], out
    assert [line.split()[2] for line in out[1:]] == ["1", "2", "1", "2"], out
    says(yolo("bench", *MODEL, "batch=1,x", status=2), "batch=1,x", "1,16")
    says(yolo("bench", *MODEL, "batch=", status=2), "batch=")
    says(yolo("bench", *MODEL, "batch=0", status=2), "batch")


@test
def bench_of_training():
    def parts(line):
        return dict(re.findall(r"(\w+) (\d+\.\d\d) ms", line))

    out = yolo("bench", *MODEL, "train=true", "batch=2", "repeats=3").out.splitlines()
    assert len(out) == 3 and out[1].endswith("training step"), out
    median, least, most = (float(word) for word in out[1].split()[4:7])
    assert 0 < least <= median <= most
    assert list(parts(out[2])) == ["input", "forward", "loss", "backward", "update"], out[2]
    assert 0 < sum(map(float, parts(out[2]).values())) <= 1.01 * 3 * most, out[2]
    labelled("source", 6)
    yolo("prepare", "source=source", "out=set", "val=20")
    out = yolo("bench", *MODEL, "train=true", "batch=2", "repeats=4", "data=set/data.yaml").out.splitlines()
    assert next(iter(parts(out[2]))) == "loader", out[2]
    says(yolo("bench", *MODEL, "train=true", "batch=64", "data=set/data.yaml", status=2), "a batch has 64")
    says(yolo("bench", *MODEL, "train=true", "width=96", status=2), "width=96")
    says(yolo("bench", *MODEL, "train=true", "data=nothing.yaml", status=1), "nothing.yaml")
    says(yolo("bench", *MODEL, "train=true", "optimizer=SDG", status=2), "SDG")


@test
def finds_what_is_there():
    model = checkpoint()
    source = os.path.join(shared, "data", "coco128", "images", "train2017")
    if not os.path.isdir(source):
        raise Skip("no coco128")
    names = sorted(os.listdir(source))[:16]
    for name in names:
        shutil.copy(os.path.join(source, name), name)
    done = yolo("label", f"model={model}", "source=*.jpg", "out=labels", "classes=0,2", "threads=2")
    counts = summary(done)
    assert counts["pictures"] == 16 and counts["labelled"] >= 4 and counts["damaged"] == 0, counts
    assert {line.split()[0] for n in tree("labels") if n != "classes.txt" for line in label_lines("labels/" + n)} == {"0", "2"}
    assert read("labels/classes.txt").splitlines()[0] == b"person"
    again = yolo("predict", f"model={model}", "source=.", "save_txt=true", "classes=[0,2]", "threads=1", "save=0")
    for name in names:  # predict is label with other folders; the thread count changes nothing
        stem = os.path.splitext(name)[0]
        flat = f"runs/detect/predict/labels/{stem}.txt"
        assert (read(flat) if os.path.exists(flat) else b"") == read(f"labels/{stem}.txt"), name
    says(again, "Results saved to")


@test
def val_of_a_checkpoint():
    model, data = checkpoint(), os.path.join(shared, "data", "coco128")
    if not os.path.isdir(data):
        raise Skip("no coco128")
    if wine:
        raise Skip("slow under wine")
    write("data.yaml", f"path: {data}\ntrain: images/train2017\nval: images/train2017\n" + read(os.path.join(data, "data.yaml")).decode()[read(os.path.join(data, "data.yaml")).decode().index("names:"):])
    out = yolo("val", f"model={model}", "data=data.yaml", "batch=16").out.splitlines()
    assert out[0].split() == ["Class", "Images", "Instances", "Box(P", "R", "mAP50", "mAP50-95)"], out[0]
    row = out[1].split()
    assert row[:3] == ["all", "128", "929"] and 0.55 < float(row[5]) < 0.75 and 0.4 < float(row[6]) < 0.6, row
    assert out[2].split()[0] == "person" and any(line.startswith("Speed: ") for line in out)


# ---- train, demo

# A step of a few milliseconds, from weights that know nothing.
TRAIN = ["model=yolov8n.yaml", "epochs=1", "imgsz=32", "batch=4", "threads=2", "plots=false"]


def drawn(folder, count=12, **more):
    yolo("demo", "epochs=0", f"pictures={count}", f"out={folder}", **more)
    return f"data={folder}/set/data.yaml"


def train(*arguments, **more):
    return yolo("train", *TRAIN, *arguments, **more)


def one_row(done):
    """The numbers under the heading of a training's results."""
    lines = done.out.splitlines()
    assert lines[0].split() == ["Epochs", "Best", "Box(P", "R", "mAP50", "mAP50-95)", "Time", "img/s"], done.out + done.err
    return lines[1].split()


def own_set(names, labels, out="set", copies=1):
    """A set of one picture per label text (None: without a file), the same for training and validation."""
    for i, text in enumerate(labels * copies):
        write(f"{out}/images/{i:03}.png", png(64 + 8 * (i % 2), 64, i))
        if text is not None:
            write(f"{out}/labels/{i:03}.txt", text)
    write(f"{out}/data.yaml", "train: images\nval: images\nnames:\n" + "".join(f"  {i}: {name}\n" for i, name in enumerate(names)))
    return f"data={out}/data.yaml"


@test
def train_says_what_fits():
    data = drawn("d")
    before = tree(".")
    fit = json.loads(train(data, "fit=true").out)
    assert fit["batch"] > 16 and fit["imgsz"] == 32 and fit["memory"] > 1 << 20 and tree(".") == before, fit
    fits_less = json.loads(train(data, "fit=true", "imgsz=640").out)
    assert fits_less["batch"] < fit["batch"], fits_less


@test
def train_tells_programs_where_it_is():
    done = train(drawn("d"), "progress=plain", "project=runs")
    lines = done.err.splitlines()
    assert lines.index("RunFolder:runs/train") < lines.index("Progress:100%")


@test
def train_checks_the_data():
    labels = ["0 0.5 0.5 0.4 0.4\n", "0 0.5 0.5 0.4 0.4\n7 0.5 0.5 0.1 0.1\n", "1 0.5 0.5 0.02 0.03\n", ""]
    for i, text in enumerate(labels):
        write(f"set/images/train/{i}.png", png(64, 64, i))
        write(f"set/labels/train/{i}.txt", text)
        write(f"set/images/val/{i}.png", png(64, 64, i if i == 2 else 10 + i))
        write(f"set/labels/val/{i}.txt", text)
    write("set/images/train/again.png", png(64, 64, 1))
    write("set/labels/train/again.txt", labels[0])
    write("set/data.yaml", "train: images/train\nval: images/val\nnames: [cat, 개, bird]\n")
    done = train("data=set/data.yaml", "project=r", "name=a")
    says(done, "train: 5 pictures, 4 labels, 1 background, 0 damaged", "val: 4 pictures, 3 labels, 1 background, 0 damaged; 1 label lines left out as bad",
         "same pictures by their bytes: 1 more than once in train, 0 in val; 1 of val in train too", "images/val/2.png is", "classes without a label in train: bird; in val: bird",
         "1 of 4 boxes are under 4 x 4 pixels at imgsz=32")
    clean = train(drawn("drawn", 16), "project=r", "name=b", "imgsz=160")
    assert "same pictures" not in clean.err and "under 4 x 4" not in clean.err, clean.err


@test
def demo_draws():
    done = yolo("demo", "epochs=0", "pictures=16", f"out={KOREAN}/a", "seed=3")
    assert done.out == f"Results saved to {KOREAN}/a\n", done.out
    pictures = [n for n in tree(f"{KOREAN}/a/drawn") if n.endswith(".jpg")]
    assert len(pictures) == 16 and len([n for n in tree(f"{KOREAN}/a/held-out") if n.endswith(".jpg")]) == 4
    assert all(label_lines(f"{KOREAN}/a/drawn/{n[:-4]}.txt") for n in pictures)
    assert read(f"{KOREAN}/a/drawn/classes.txt").split() == b"circle square triangle star cross ring".split()
    says(yolo("demo", "epochs=0", "pictures=16", f"out={KOREAN}/a", "seed=3"), f"Results saved to {KOREAN}/a2")
    assert tree(f"{KOREAN}/a") == tree(f"{KOREAN}/a2")
    assert all(read(f"{KOREAN}/a/{n}") == read(f"{KOREAN}/a2/{n}") for n in tree(f"{KOREAN}/a") if n.endswith((".jpg", ".txt")))
    assert read("사진 모음/a/drawn/00000.jpg") != read("사진 모음/a/drawn/00001.jpg")
    says(yolo("demo", "pictures=3", status=2), "pictures=3", "from 8")


@test
def train_leaves_a_run_folder():
    data = drawn("d")
    done = train(data, "epochs=2", "plots=true")
    row = one_row(done)
    assert row[0] == "2" and row[1] in "12", row
    says(done, "Results saved to runs/detect/train\n")
    files = tree("runs/detect/train")
    for name in ("args.yaml", "results.csv", "log.txt", "weights/best.pt", "weights/last.pt", "results.png", "labels.jpg", "train_batch0.jpg",
                 "val_batch0_labels.jpg", "val_batch0_pred.jpg", "confusion_matrix.png", "BoxPR_curve.png"):
        assert name in files, (name, files)
    assert len(read("runs/detect/train/results.csv").splitlines()) == 3
    assert b"imgsz: 32" in read("runs/detect/train/args.yaml")
    says(yolo("info", "runs/detect/train/weights/best.pt"), "star")
    yolo("val", "model=runs/detect/train/weights/best.pt", data, "imgsz=32")
    yolo("label", "model=runs/detect/train/weights/last.pt", "source=d/held-out", "out=labels", "imgsz=32")
    done = train(data, "model=runs/detect/train/weights/best.pt", "freeze=10", "optimizer=SGD", "cache=True", "name=second", "val=False")
    assert tree("runs/detect/second") and "runs/detect/second" in done.out
    assert not os.path.exists("runs/detect/train2")
    train(data)
    assert os.path.exists("runs/detect/train2/weights/last.pt")


@test
def train_resumes():
    data = drawn("d")
    train(data, "epochs=3", "name=whole")
    train(data, "epochs=2", "name=part")
    train("epochs=3", "resume=runs/detect/part/weights/last.pt")
    assert len(read("runs/detect/part/results.csv").splitlines()) == 4
    for name in ("x", "b", "y", "a"):  # runs of less than a second: the newest is the last one all the same
        train(data, f"name={name}", "val=false")
    train("resume=true", "epochs=2")
    assert len(read("runs/detect/a/results.csv").splitlines()) == 3
    says(yolo("train", "resume=true", "project=nowhere", status=2), "nowhere")


@test
def train_as_typed():
    done = yolo("detect", "train", "data=x.yaml", "model=yolov8n.pt", "epochs=100", "imgsz=640", status=1)
    says(done, "yolov8n.pt: no such file, and nothing is downloaded", "yolov8n.yaml")
    write("yolov8n.pt", "x")
    done = yolo("task=detect", "mode=train", "data=x.yaml", "model=yolov8n.pt", "half=True", "deterministic=False", "verbose=True", status=1)
    says(done, "half=True has no effect", "deterministic=False has no effect")
    assert "verbose" not in done.err
    for arguments, parts in (
        (["epoch=3"], ["unknown option 'epoch'", "'epochs'"]),
        (["epochs=-3"], ["epochs=-3"]),
        (["optimizer=adamm"], ["adamm", "AdamW"]),
        (["batch=2.5"], ["batch", "2.5"]),
        (["batch=0"], ["batch", "0"]),
        (["freeze=99"], ["freeze", "99"]),
        (["activation=tanh"], ["tanh", "relu"]),
        (["device=7"], ["GPU 7"]),
        (["cache=rom"], ["cache=rom"]),
        (["classes=9"], ["9"]),
        (["fraction=0"], ["fraction=0", "above 0"]),
        (["shear=95"], ["shear=95"]),
        (["multi_scale=0.97"], ["multi_scale=0.97", "0.95"]),
    ):
        done = train(drawn("d"), *arguments, status=1 if arguments[0] == "device=7" else 2)
        says(done, *parts)
        assert not done.out, done.out
        shutil.rmtree("d")
    assert not os.path.exists("runs") or all(n.endswith("log.txt") for n in tree("runs")), tree("runs")


@test
def train_without_pictures():
    says(train("data=none.yaml", status=1), "none.yaml")
    own_set(["a"], ["0 .5 .5 .5 .5\n"])
    says(train("data=set/data.yaml", "model=set/data.yaml", status=1), "set/data.yaml: model description: expected the lists backbone and head")
    os.makedirs("set/nothing")
    write("set/empty.yaml", "train: nothing\nval: images\nnames: [a]\n")
    says(train("data=set/empty.yaml", status=1), "set/empty.yaml:1: 'train' has no pictures")
    write("set/noval.yaml", "train: images\nval: nothing\nnames: [a]\n")
    done = train("data=set/noval.yaml")
    says(done, "set/noval.yaml:2: 'val' has no pictures; training goes on without validation")
    assert one_row(done)[2:6] == ["-"] * 4, done.out
    shutil.rmtree("runs")
    write("bad/images/a.jpg", "no picture")
    write("bad/data.yaml", "train: images\nval: images\nnames: [a]\n")
    says(train("data=bad/data.yaml", status=1), "bad/images")
    assert not [n for n in tree("runs") if n.endswith(".pt")] if os.path.exists("runs") else True


@test
def train_on_little():
    one_row(train(own_set(["a"], ["0 .5 .5 .5 .5\n"], "one")))
    one_row(train(own_set(["a", "never", "고양이"], ["0 .5 .5 .5 .5\n", "2 .2 .2 .3 .3\n"], "gap"), "plots=true"))
    done = train(own_set(["a", "b"], ["0 .5 .5 .5 .5\n", "7 .5 .5 .5 .5\n1 .5 .5 2 .5\n1 .5 .5 .5\n1 .4 .4 .1 .1\n"], "bad"))
    says(done, "bad/labels/001.txt:1: ", "bad/labels/001.txt:2: ", "bad/labels/001.txt:3: ")
    one_row(done)
    done = train(own_set(["a"], ["", None], "background", copies=3))
    assert one_row(done)[4] == "0", done.out
    says(done, "background")
    boxes = "".join(f"0 {0.01 + i % 71 / 73:.6f} {0.01 + i // 71 / 73:.6f} 0.01 0.01\n" for i in range(5000))
    one_row(train(own_set(["a"], [boxes], "many", copies=2), "imgsz=64"))


@test
def train_in_korean():
    data = own_set(["고양이", "강아지"], ["0 .5 .5 .5 .5\n", "1 .4 .4 .2 .2\n"], KOREAN, copies=3)
    done = train(data, "project=결과 폴더", "name=첫 번째", "plots=true")
    says(done, "Results saved to 결과 폴더/첫 번째")
    says(yolo("info", "결과 폴더/첫 번째/weights/best.pt"), "고양이", "강아지")
    label("model=결과 폴더/첫 번째/weights/best.pt", f"source={KOREAN}/images", "out=라벨", *UNSURE)
    assert read("라벨/classes.txt").decode() == "고양이\n강아지\n"


@test
def train_where_nothing_can_be_written():
    data = drawn("d")
    write("file", "x")
    says(train(data, "project=file/sub", status=1), "file")
    if wine:
        return
    says(train(data, "project=/proc/none", status=1), "/proc/none")
    import resource

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000000, 1000000))

    done = train(data, "name=full", status=1, preexec_fn=limit, restore_signals=False)
    says(done, "cannot write", "runs/detect/full/weights/")
    assert not [n for n in tree("runs/detect/full") if n.endswith(".partial")], tree("runs/detect/full")


def start_training(*arguments):
    process = subprocess.Popen(command + ["train", *TRAIN, "epochs=1000", "patience=0", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.time() + 60
    rows = "runs/detect/train/results.csv"
    while time.time() < deadline and process.poll() is None and not (os.path.exists(rows) and read(rows).count(b"\n") > 1):
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    return process


@test
def train_interrupted():
    if wine:
        raise Skip("no signals under wine")
    data = drawn("d")
    process = start_training(data)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, (process.returncode, err)
    says(Result(subprocess.CompletedProcess([], 130, out, err)), "Ctrl-C again stops at once", "interrupted", "resume")
    done = len(read("runs/detect/train/results.csv").splitlines()) - 1
    one_row(train("resume=true", f"epochs={done + 1}"))
    assert len(read("runs/detect/train/results.csv").splitlines()) == done + 2


@test
def train_interrupted_twice():
    if wine:
        raise Skip("no signals under wine")
    process = start_training(drawn("d", 24), "imgsz=160", "batch=16")
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    start = time.time()
    process.communicate(timeout=30)
    assert process.returncode in (-signal.SIGINT, 130) and time.time() - start < 2, process.returncode
    epochs = len(read("runs/detect/train/results.csv").splitlines()) - 1
    yolo("train", "resume=true", f"epochs={epochs + 1}")


def run_one(function):
    folder = os.path.join(scratch, function.__name__ + " " + KOREAN)
    os.makedirs(folder)
    os.chdir(folder)
    start = time.time()
    try:
        function()
        verdict, why = "ok", ""
    except Skip as skip:
        verdict, why = "skip", str(skip)
    except Exception as failure:
        verdict = "FAIL"
        why = "".join("\n    " + line for line in f"{type(failure).__name__}: {failure}".splitlines()[:30])
        trace = failure.__traceback__
        while trace.tb_next and trace.tb_next.tb_frame.f_code.co_name not in ("yolo", "says", "summary", "label", "label_lines", "run", "communicate"):
            trace = trace.tb_next
        why = f" line {trace.tb_lineno}" + why
    os.chdir(scratch)
    shutil.rmtree(folder, ignore_errors=True)
    print(f"{verdict:4} {function.__name__:34} {time.time() - start:6.2f} s {why}", flush=True)
    return verdict


if __name__ == "__main__":
    arguments = sys.argv[1:]
    shared = os.path.join(ROOT, "..", "shared")
    if "--shared" in arguments:
        at = arguments.index("--shared")
        shared = arguments[at + 1]
        del arguments[at:at + 2]
    shared = os.path.abspath(shared)
    command = [os.path.abspath(w) if os.path.exists(w) and os.sep in w else w for w in shlex.split(arguments[0] if arguments else os.path.join(ROOT, "yolo"))]
    wine = "wine" in os.path.basename(command[0])
    scratch = tempfile.mkdtemp(prefix="yolo-cli-")
    verdicts = [run_one(t) for t in tests if not arguments[1:] or any(t.__name__.startswith(n) for n in arguments[1:])]
    os.chdir("/")
    shutil.rmtree(scratch, ignore_errors=True)
    print(f"{verdicts.count('ok')} passed, {verdicts.count('FAIL')} failed, {verdicts.count('skip')} skipped")
    sys.exit(1 if "FAIL" in verdicts or not verdicts.count("ok") else 0)
