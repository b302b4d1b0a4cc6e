"""resume.py - kills trainings and lets them go on: the end must be that of a run that was left alone, bit for bit.

  python3 tests/resume.py [./yolo] [kills=10] [seed=N] [NAME ...]

Python's standard library only; POSIX. Trains a tiny network on pictures that `yolo demo` draws, each time in a folder of its
own with the same names in it, so that whole files can be compared. What has to be the same: every byte of last.pt but the
seconds that it took, best.pt, results.csv but its column `time`. Prints a line a test, then "N passed, N failed, N skipped".
"""
import os, pickle, random, resource, shutil, signal, struct, subprocess, sys, tempfile, time, zipfile

NET = """nc: 6
scales:
  n: [0.33, 0.0625, 1024]
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 3, C2f, [128, True]]
  - [-1, 1, Conv, [256, 3, 2]]
  - [-1, 3, C2f, [256, True]]
  - [-1, 1, SPPF, [256, 5]]
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 2], 1, Concat, [1]]
  - [-1, 1, C2f, [128]]
  - [-1, 1, Conv, [256, 3, 2]]
  - [[8, 9], 1, Detect, [nc]]
"""
EPOCHS = 12
# Batches of 5 into steps of 4: gradients wait over the ends of epochs. The mosaic closes and epochs are kept on the way.
ARGUMENTS = ["data=drawn/set/data.yaml", "model=tiny.yaml", f"epochs={EPOCHS}", "imgsz=64", "batch=5", "nbs=20", "close_mosaic=2", "mixup=0.3",
             "degrees=5", "multi_scale=0.3", "save_period=3", "patience=0", "plots=false", "seed=3", "workers=2", "project=runs", "name=run",
             "exist_ok=true"]
LAST = "runs/run/weights/last.pt"

tests = []


def test(function):
    tests.append(function)
    return function


class Skip(Exception):
    pass


class Process:
    """A training; its output goes to a file."""

    def __init__(self, *arguments, **more):
        self.log = open("output.txt", "ab+")
        self.start = self.log.tell()
        self.process = subprocess.Popen([yolo, "train", *arguments], stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL, **more)

    def wait(self, limit=300):
        status = self.process.wait(limit)
        self.log.flush()
        self.log.seek(self.start)
        self.text = self.log.read().decode()
        self.log.close()
        return status

    def until(self, condition, limit=120):
        """Waits for the condition; false when the training ended before."""
        end = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            if self.process.poll() is not None:
                return False
            time.sleep(0.0005)
        return True


def train(*arguments, status=0, **more):
    process = Process(*arguments, **more)
    done = process.wait()
    assert done == status, f"{arguments}: exit status {done}, expected {status}:\n{process.text[-1500:]}"
    return process.text


def resume(*arguments, threads=2, **more):
    return train("resume=true", f"model={LAST}", f"threads={threads}", *arguments, **more)


class Thing:
    """Stands for every class in a checkpoint."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __setstate__(self, state):
        self.state = state


class Reader(pickle.Unpickler):
    def find_class(self, module, name):
        if name == "OrderedDict":
            return dict
        return type(name, (Thing,), {}) if name[0].isupper() else lambda *a: (name, a)

    def persistent_load(self, identity):
        return identity[2]


def checkpoint(path):
    """Its storages, and its numbers but for those that a clock makes."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None, path
        found = {name: archive.read(name) for name in archive.namelist() if "/data/" in name}
        with archive.open("archive/data.pkl") as data:
            root = Reader(data).load()
    for key in ("epoch", "best_fitness", "updates", "train_args"):
        found[key] = root[key]
    found["train_args"] = {k: v for k, v in root["train_args"].items() if k not in ("epochs", "workers", "resume", "model", "exist_ok")}
    if "yolo_state" in root:
        found["numbers"] = {k: v for k, v in root["yolo_state"]["numbers"].items() if k != "seconds"}
    return found


def csv(path="runs/run/results.csv"):
    with open(path) as file:
        rows = [line.strip().split(",") for line in file]
    assert all(len(row) == len(rows[0]) for row in rows), f"rows of different lengths in {path}"
    return [[cell for name, cell in zip(rows[0], row) if name.strip() != "time"] for row in rows]


def result(folder="runs/run"):
    """All that has to be the same."""
    found = {"results.csv": csv(f"{folder}/results.csv")}
    for name in sorted(os.listdir(f"{folder}/weights")):
        assert name.endswith(".pt"), f"{name} is left over"
        found[name] = checkpoint(f"{folder}/weights/{name}")
    return found


def same(found, wanted):
    assert list(found) == list(wanted), f"files {list(found)}, expected {list(wanted)}"
    for name in wanted:
        if found[name] == wanted[name]:
            continue
        if name == "results.csv":
            for a, b in zip(found[name] + [None], wanted[name] + [None]):
                assert a == b, f"results.csv: {a}, expected {b}"
        keys = [k for k in wanted[name] if found[name].get(k) != wanted[name][k]] + [k for k in found[name] if k not in wanted[name]]
        assert not keys, f"{name}: {len(keys)} parts differ: {[(k, found[name].get(k), wanted[name].get(k)) if '/' not in k else k for k in keys[:5]]}"


def left_alone():
    """The result of a run that nobody disturbed; once."""
    if not hasattr(left_alone, "result"):
        here = os.getcwd()
        fresh("left-alone")
        start = time.monotonic()
        train(*ARGUMENTS, "threads=2")
        left_alone.seconds = time.monotonic() - start
        left_alone.result = result()
        assert len(left_alone.result["results.csv"]) == EPOCHS + 1
        os.chdir(here)
    return left_alone.result


def fresh(name):
    """A folder with the data and the network, as the current one."""
    folder = os.path.join(scratch, name)
    os.makedirs(folder)
    os.chdir(folder)
    os.symlink(os.path.join(scratch, "drawn"), "drawn")
    with open("tiny.yaml", "w") as file:
        file.write(NET)


def go_on(threads, arguments=ARGUMENTS):
    """Resumes, or begins where nothing was saved."""
    if os.path.exists(LAST):
        return resume(threads=threads)
    said = resume(threads=threads, status=1)
    assert LAST in said and "no such file" in said, said
    return train(*arguments, f"threads={threads}")


def kill(process):
    process.process.kill()
    return process.wait()


@test
def threads():
    """1, 2 and 5 threads, 0 and 5 loaders: the same bits."""
    wanted = left_alone()
    for count, workers in ((1, 0), (5, 5)):
        fresh(f"threads-{count}")
        train(*[a for a in ARGUMENTS if not a.startswith("workers")], f"threads={count}", f"workers={workers}")
        same(result(), wanted)
    return f"{left_alone.seconds:.1f} s a run"


@test
def killed():
    """kill -9 at random moments, once or twice in a run."""
    wanted = left_alone()
    moments = []
    i = 0
    while len(moments) < kills:
        i += 1
        assert i < 5 * kills, f"{len(moments)} of {i} were killed in time"
        fresh(f"killed-{i}")
        for n in range(1 + i % 2):
            arguments = ["resume=true", f"model={LAST}"] if n and os.path.exists(LAST) else ARGUMENTS
            process = Process(*arguments, f"threads={(2, 1, 5)[(i + n) % 3]}")
            moment = chance.uniform(0, left_alone.seconds * (0.9 if n == 0 else 0.4))
            time.sleep(moment)
            epochs = len(csv()) - 1 if os.path.exists("runs/run/results.csv") else 0
            if kill(process) == -signal.SIGKILL:
                moments.append(f"{moment:.2f}s/{epochs}")
        if os.path.exists(LAST) and checkpoint(LAST)["epoch"] == EPOCHS - 1:
            assert "are done" in resume(status=2)  # the kill came after the last epoch
        else:
            go_on((1, 2, 5)[i % 3])
        same(result(), wanted)
        os.chdir(scratch)
        shutil.rmtree(f"killed-{i}")
    return f"{len(moments)} kills, at second/epoch {' '.join(moments)}"


@test
def killed_while_saving():
    """kill -9 while a file is being written, and between two files."""
    wanted = left_alone()
    hit = 0

    def partial(name):
        return lambda: os.path.exists(f"runs/run/weights/{name}.partial")

    def grown(epoch):
        def condition():
            try:
                with open("runs/run/results.csv", "rb") as file:
                    return file.read().count(b"\n") > epoch
            except FileNotFoundError:
                return False
        return condition

    cases = [("last", 0, partial("last.pt")), ("last", 3, partial("last.pt")), ("best", 2, partial("best.pt")), ("csv", 1, grown(1)), ("csv", 5, grown(5))]
    for i, (what, epoch, condition) in enumerate(cases):
        fresh(f"saving-{i}")
        process = Process(*ARGUMENTS, "threads=2")
        assert process.until(grown(epoch)) if epoch else True
        if process.until(condition):
            hit += kill(process) == -signal.SIGKILL
        else:
            process.wait()
            continue
        go_on(2)
        same(result(), wanted)
    return f"{hit} of {len(cases)} hit"


@test
def more_epochs():
    """A finished run, and one that was killed, go on to more epochs; a finished one without more says so."""
    left_alone()
    ends = []
    for i in range(2):
        fresh(f"more-{i}")
        train(*ARGUMENTS, "threads=2")
        said = resume(status=2)
        assert f"all of its {EPOCHS} epochs are done" in said, said
        before = csv()
        process = Process("resume=true", f"model={LAST}", f"epochs={EPOCHS + 3}", f"threads={1 + 4 * i}")
        if i:
            process.until(lambda: len(csv()) > EPOCHS + 2)
            kill(process)
            resume(threads=2)
        else:
            assert process.wait() == 0, process.text
        ends.append(result())
        rows = csv()
        assert rows[:EPOCHS + 1] == before and [row[0] for row in rows[1:]] == [str(e + 1) for e in range(EPOCHS + 3)], rows
    same(ends[1], ends[0])


@test
def variants():
    """Every optimizer, and options that change what a state is: killed and resumed against left alone."""
    short = [a for a in ARGUMENTS if not a.startswith(("epochs", "save_period"))] + ["epochs=4"]
    sets = [[f"optimizer={name}"] for name in ("SGD", "MuSGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSProp")]
    sets += [["cos_lr=true", "optimizer=SGD", "nbs=64"], ["rect=true", "cache=false"], ["single_cls=true", "freeze=2"], ["classes=0,2,5", "cutmix=0.5"],
             ["fraction=0.5", "val=false"], ["model=other.pt"], ["model=other.pt", "pretrained=false", "mosaic=0"], ["activation=relu", "batch=26"],
             ["patience=2"]]
    fresh("variants")
    with open("drawn/set/data.yaml") as file:
        text = file.read()
    with open("many.yaml", "w") as out:  # 100 classes make the head wider, and fine-tuning keeps that
        names = ["circle", "square", "triangle", "star", "cross", "ring"]
        assert all(name in text for name in names)
        out.write("path: drawn/set\ntrain: images/train\nval: images/val\nnames: [" + ", ".join(names + [f"c{i}" for i in range(94)]) + "]\n")
    train(*short, "data=many.yaml", "epochs=1", "project=first", "name=other")
    shutil.copy("first/other/weights/best.pt", os.path.join(scratch, "other.pt"))
    shutil.copy("many.yaml", os.path.join(scratch, "many.yaml"))
    for i, more in enumerate(sets):
        given = [a for a in short if a.split("=")[0] not in [m.split("=")[0] for m in more]] + more
        ends = []
        for killed in (False, True):
            fresh(f"variant-{i}-{killed}")
            shutil.copy(os.path.join(scratch, "other.pt"), "other.pt")
            shutil.copy(os.path.join(scratch, "many.yaml"), "many.yaml")
            start = time.monotonic()
            process = Process(*given, "threads=2")
            if killed:
                time.sleep(chance.uniform(0.2, 0.9) * took)
                kill(process)
                ended = os.path.exists(LAST) and len(csv()) == len(ends[0]["results.csv"])
                if not (ended and checkpoint(LAST)["epoch"] == ends[0]["last.pt"]["epoch"]):
                    go_on(1, given)
            else:
                status = process.wait()
                assert status == 0, f"{more}: {status}: {process.text[-1000:]}"
            took = time.monotonic() - start
            ends.append(result())
        try:
            same(ends[1], ends[0])
        except AssertionError as wrong:
            raise AssertionError(f"{more}: {wrong}")
    return f"{len(sets)} kinds"


@test
def newest():
    """resume=true alone takes the newest run."""
    wanted = left_alone()
    fresh("newest")
    process = Process(*ARGUMENTS, "threads=2")
    assert process.until(lambda: os.path.exists("runs/run/results.csv") and len(csv()) > 2)
    kill(process)
    shutil.copytree("runs/run", "runs/older")
    os.utime("runs/older/weights/last.pt", (1e9, 1e9))
    train("resume=true", "project=runs", "threads=2")
    same(result(), wanted)


def rows_at_least(count):
    return lambda: os.path.exists("runs/run/results.csv") and len(csv()) > count


@test
def interrupted():
    """Ctrl-C once: exit status 130, all is saved. Twice: the end comes at once. Both go on."""
    wanted = left_alone()
    for times, number in ((1, signal.SIGINT), (1, signal.SIGTERM), (2, signal.SIGINT)):
        fresh(f"interrupted-{times}-{number}")
        process = Process(*ARGUMENTS, "threads=2")
        assert process.until(rows_at_least(2))
        for _ in range(times):
            process.process.send_signal(number)
            time.sleep(0.01)
        start = time.monotonic()
        status = process.wait()
        took = time.monotonic() - start
        assert status in ((130,) if times == 1 else (130, -signal.SIGINT)), f"exit status {status}: {process.text[-600:]}"
        if times == 1:
            assert "resume=true" in process.text, process.text[-600:]
        assert took < 20, f"{took:.1f} s until the end"
        resume(threads=1)
        same(result(), wanted)


def wait_for_end(process):
    status = process.wait()
    assert status == 1, f"exit status {status}: {process.text[-1500:]}"
    sentence = process.text.strip().split("\n")[-1]
    return sentence


@test
def full_disk():
    """The disk fills up: a sentence, the last state stays whole; with room again the run goes on."""
    wanted = left_alone()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode:
        raise Skip("needs root, to make a small disk")
    subprocess.run(["umount", "/mnt"])
    fresh("full")
    os.makedirs("runs")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", "runs"], check=True)
    try:
        process = Process(*ARGUMENTS, "threads=2")
        assert process.until(rows_at_least(2))
        with open("runs/filler", "wb", buffering=0) as file:
            try:
                while process.process.poll() is None:
                    file.write(b"x" * 4096)
            except OSError:
                pass
        sentence = wait_for_end(process)
        assert "No space left on device" in sentence and "runs/run/" in sentence, sentence
        before = checkpoint(LAST)
        assert "No space left on device" in resume(status=1)  # still full
        assert checkpoint(LAST) == before
        os.remove("runs/filler")
        resume()
        same(result(), wanted)
    finally:
        os.path.ismount("runs") and subprocess.run(["umount", "-l", "runs"])
    return sentence


@test
def read_only():
    """The folder can be written to no more."""
    wanted = left_alone()
    if os.getuid():
        raise Skip("needs root, to give root up")
    fresh("read-only")
    os.chmod(scratch, 0o755)
    os.chown(".", 65534, 65534)

    def nobody():
        os.setgid(65534)
        os.setuid(65534)

    process = Process(*ARGUMENTS, "threads=2", preexec_fn=nobody)
    assert process.until(rows_at_least(2))
    os.chmod("runs/run/weights", 0o555)
    sentence = wait_for_end(process)
    assert "Permission denied" in sentence and "runs/run/weights/" in sentence, sentence
    os.chmod("runs/run/weights", 0o755)
    resume(preexec_fn=nobody)
    same(result(), wanted)
    fresh("read-only-from-the-start")
    os.makedirs("runs")
    os.chmod("runs", 0o555)
    said = train(*ARGUMENTS, "threads=2", status=1, preexec_fn=nobody)
    assert "Permission denied" in said and os.listdir("runs") == [], said
    return sentence


@test
def file_limit():
    """A limit on the size of files, as on an old file system: last.pt does not fit, and is told of before any training."""
    left_alone()
    fresh("limit")

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))

    said = train(*ARGUMENTS, "threads=2", status=1, preexec_fn=limited)
    sentence = said.strip().split("\n")[-1]
    assert "last.pt: cannot write" in sentence and "File too large" in sentence, sentence
    assert os.listdir("runs/run/weights") == [], os.listdir("runs/run/weights")
    return sentence


@test
def damaged():
    """A last.pt that is cut off, that has a wrong bit, or that is no training's is refused with a sentence."""
    left_alone()
    fresh("damaged")
    shutil.copytree("../left-alone/runs", "runs")
    whole = open(LAST, "rb").read()
    for name, content in (("cut off", whole[:len(whole) // 2]), ("a wrong bit", whole[:len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1:]),
                          ("empty", b""), ("stripped", open("runs/run/weights/best.pt", "rb").read())):
        with open(LAST, "wb") as file:
            file.write(content)
        for more in ([], [f"epochs={EPOCHS + 1}"]):
            process = Process("resume=true", f"model={LAST}", *more)
            status = process.wait()
            assert status in (1, 2) and "last.pt" in process.text.strip().split("\n")[-1], f"{name}: {status}: {process.text}"
        with open(LAST, "rb") as file:
            assert file.read() == content, f"{name}: changed"


@test
def hostile():
    """Numbers in last.pt that no training writes: a sentence or a result, within seconds."""
    left_alone()
    fresh("hostile")
    train(*[a for a in ARGUMENTS if not a.startswith(("epochs", "save_period"))], "epochs=2", "threads=2")
    with zipfile.ZipFile(LAST) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    numbers = checkpoint(LAST)["numbers"]
    said = {0: 0, 1: 0, 2: 0}
    for name in list(numbers) + ["seconds"]:
        for value in (float("nan"), float("inf"), -1.0, 0.0, 0.5, 1e9, -1e300):
            with zipfile.ZipFile(LAST, "w") as archive:
                for entry, data in entries:
                    if entry.endswith("data.pkl"):
                        key = b"X" + struct.pack("<I", len(name)) + name.encode()
                        at = data.rindex(key) + len(key)
                        assert data[at:at + 1] == b"G", name
                        data = data[:at + 1] + struct.pack(">d", value) + data[at + 9:]
                    archive.writestr(entry, data)
            shutil.copy("runs/run/results.csv", "before.csv")
            process = Process("resume=true", f"model={LAST}", "epochs=3", "threads=1")
            try:
                status = process.wait(30)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"{name}={value}: does not end: {kill(process)} {process.text[-800:]}")
            assert status in said, f"{name}={value}: exit status {status}: {process.text[-1500:]}"
            sentence = process.text.strip().split("\n")[-1]
            assert status == 0 or sentence.startswith("yolo train: ") and len(sentence) > 30, f"{name}={value}: {status}: {sentence}"
            said[status] += 1
            shutil.copy("before.csv", "runs/run/results.csv")
    return f"{len(numbers) + 1} numbers, exit status 0: {said[0]}, 1: {said[1]}, 2: {said[2]}"


def run_one(function):
    start = time.monotonic()
    verdict, why = "ok", ""
    try:
        why = function() or ""
    except Skip as skip:
        verdict, why = "skip", str(skip)
    except Exception as failure:
        verdict, why = "FAIL", f"line {failure.__traceback__.tb_next.tb_lineno if failure.__traceback__.tb_next else '?'}: {type(failure).__name__}: {str(failure)[:1500]}"
    print(f"{verdict:4} {function.__name__:22} {time.monotonic() - start:6.1f} s  {function.__doc__.splitlines()[0]}  {why}", flush=True)
    os.chdir(scratch)
    return verdict


if __name__ == "__main__":
    words = sys.argv[1:]
    options = dict(word.split("=", 1) for word in words if "=" in word)
    names = [word for word in words if "=" not in word and os.sep not in word]
    paths = [word for word in words if os.sep in word]
    yolo = os.path.abspath(paths[0] if paths else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "yolo"))
    kills = int(options.get("kills", 10))
    seed = int(options.get("seed", time.time()))
    chance = random.Random(seed)
    scratch = tempfile.mkdtemp(prefix="yolo-resume-")
    os.chdir(scratch)
    subprocess.run([yolo, "demo", "epochs=0", "pictures=34", "imgsz=64", "out=drawn"], check=True, capture_output=True)
    verdicts = [run_one(t) for t in tests if not names or t.__name__ in names]
    os.chdir("/")
    if "keep" not in options:
        shutil.rmtree(scratch, ignore_errors=True)
    if "FAIL" in verdicts:
        print(f"to repeat: seed={seed}")
    print(f"{verdicts.count('ok')} passed, {verdicts.count('FAIL')} failed, {verdicts.count('skip')} skipped")
    sys.exit(1 if "FAIL" in verdicts or not verdicts.count("ok") else 0)
