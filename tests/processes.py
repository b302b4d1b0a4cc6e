"""processes.py - trainings of several processes on the loopback address: the same bits as one process, and nobody waits for the dead.

  python3 tests/processes.py [./yolo] [seed=N] [gpus=true [nccl=LIBRARY]] [NAME ...]

Python's standard library only; POSIX. Trains resume.py's tiny network, and compares as that does. Processes are killed, stopped,
slowed down, told different things, and disturbed by strangers: the others must end within seconds, say who was the cause, and leave
a last.pt from which the training ends in the same bits. gpus=true: the tests of processes with GPUs instead, of which there must be two;
each process has its own where they are emulated (tests/gpu.sh --emulated builds such a program). nccl: what stands in for NCCL there, tests/emulate/nccl.c. Prints a line a test, then "N passed, N failed, N skipped".
"""
import os, random, re, shutil, signal, socket, subprocess, sys, tempfile, threading, time

import resume
from resume import LAST, NET, result, same

EPOCHS = 4
TIMEOUT = 2 # seconds without a sign of life
# Batches of 8 into steps of 16: gradients wait over the ends of epochs.
ARGUMENTS = ["data=drawn/set/data.yaml", "model=tiny.yaml", f"epochs={EPOCHS}", "imgsz=64", "batch=8", "nbs=16", "close_mosaic=1", "multi_scale=0.3",
             "patience=0", "plots=false", "workers=1", "threads=2", "device=cpu", "project=runs", "name=run", "exist_ok=true"]
LAUNCHERS = [("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
             ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")]
CLEAN = {k: v for k, v in os.environ.items() if k not in sum(LAUNCHERS, ()) + ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE")}

tests, gpu_tests = [], []


def test(function):
    tests.append(function)
    return function


def gpu_test(function):
    gpu_tests.append(function)
    return function


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Process:
    """A training with an environment; its output goes to a file."""

    def __init__(self, rank, environment, arguments, program=None):
        self.path = f"output{rank}.txt"
        with open(self.path, "wb") as log:
            self.process = subprocess.Popen([program or yolo, "train", *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**CLEAN, **environment})

    def text(self):
        with open(self.path, errors="replace") as file:
            return file.read()

    def wait(self, limit):
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.path} does not end: {self.text()[-800:]}")

    def until(self, condition, limit=60):
        end = time.monotonic() + limit
        while True:
            ended = self.process.poll() is not None
            if condition():
                return
            assert time.monotonic() < end, f"waited in vain: {self.text()[-800:]}"
            assert not ended, f"ended early: {self.text()[-800:]}"
            time.sleep(0.002)


class Group:
    """`count` processes, killed at the end of a `with`. `more` is what a rank has beside the others, `unset` what its environment lacks."""

    def __init__(self, count, *arguments, launcher=0, port=None, host="127.0.0.1", more={}, size={}, environment={}, delay=None, program=None):
        self.port = port or free_port()
        names = LAUNCHERS[launcher]
        self.all = []
        for rank in range(count):
            if rank and delay:
                delay()
            own = {names[0]: str(rank), names[1]: str(size.get(rank, count)), names[2]: str(rank), "MASTER_ADDR": host, "MASTER_PORT": str(self.port)}
            self.all.append(Process(rank, {**own, **environment}, [*ARGUMENTS, *arguments, *more.get(rank, [])], program))

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        for p in self.all:
            p.process.kill()
            p.process.wait()

    def end(self, statuses, limit=60):
        """Waits for all, and for what each says in the end."""
        start = time.monotonic()
        found = [p.wait(limit - (time.monotonic() - start)) for p in self.all]
        last = [last_line(p.text()) for p in self.all]
        assert found == statuses, f"exit statuses {found}, expected {statuses}: {last}"
        return last

    def trains(self):
        """Waits until steps are taken in an epoch behind the first."""
        self.all[0].until(lambda: self.all[0].text().count("box_loss") > 1)


def last_line(text):
    return text.strip().split("\n")[-1]


def fresh(name):
    resume.fresh(name)


def whole():
    """What one process with four ranks makes of it; once."""
    if not hasattr(whole, "result"):
        here = os.getcwd()
        fresh("whole")
        subprocess.run([yolo, "train", *ARGUMENTS, "ranks=4"], check=True, capture_output=True, env=CLEAN)
        whole.result = result()
        os.chdir(here)
    return whole.result


def without_ranks(found):
    """How the four ranks are spread is written down with the options."""
    for part in found.values():
        if isinstance(part, dict):
            for name in ("ranks", "device", "allreduce"):
                part["train_args"].pop(name, None)
    return found


def go_on():
    """From last.pt, by two processes: the end must be that of a run that was left alone."""
    with Group(2, "resume=true", f"model={LAST}", "ranks=2") as g:
        g.end([0, 0])
    same(without_ranks(result()), without_ranks(whole()))


def kill_one(victim, latest, limit, *arguments, program=None):
    """kill -9 of one of two at a random moment, at most `latest` seconds after training began; the run again where it was over by then.
    What the other said, which must end within `limit` seconds."""
    for attempt in range(8):
        shutil.rmtree("runs", ignore_errors=True)
        with Group(2, *arguments, program=program) as g:
            g.trains()
            time.sleep(chance.random() * latest / 2**attempt)
            g.all[victim].process.kill()
            start = time.monotonic()
            other = g.all[1 - victim]
            status = other.wait(20)
            if status == 0 or resume.checkpoint(LAST)["epoch"] in (-1, EPOCHS - 1):
                continue
            assert status == 1, f"exit status {status}: {other.text()[-800:]}"
            assert time.monotonic() - start < limit, "too late"
            return other.text()
    raise AssertionError("all runs were over before they were killed")


def gone(last, who, status="gone"):
    for text in last:
        assert re.search(rf"{who}.*{status}", text), f"{text}: expected {who} to be named"


@test
def equal():
    """Four processes, and two with two ranks each: the bits of one with four."""
    for count, ranks, launcher in ((2, 2, 0), (4, 1, 1)):
        fresh(f"equal-{count}")
        with Group(count, f"ranks={ranks}", launcher=launcher) as g:
            g.end([0] * count)
            assert "box_loss" not in g.all[1].text() and os.listdir("runs") == ["run"], "more than process 0 writes"
        same(without_ranks(result()), without_ranks(whole()))


@test
def synchronized():
    """sync_bn over processes; host names; SLURM's and MPICH's variables."""
    results = []
    for count, ranks, launcher in ((1, 3, 0), (3, 1, 3), (1, 3, 2)):
        fresh(f"sync-{launcher}")
        with Group(count, f"ranks={ranks}", "sync_bn=true", "batch=9", "epochs=1", launcher=launcher, host="localhost") as g:
            g.end([0] * count)
        results.append(without_ranks(result()))
    same(results[1], results[0])
    same(results[2], results[0])


@test
def killed():
    """kill -9 of any process at a random moment: the others name it, and nothing is lost."""
    for victim in (1, 0, chance.randrange(2)):
        fresh(f"killed-{len(os.listdir(resume.scratch))}")
        text = kill_one(victim, 0.5, 5, "ranks=2")
        gone([last_line(text)], "ranks 2 to 3" if victim else "ranks 0 to 1", "are gone: the connection was closed")
        go_on()


@test
def stopped():
    """SIGSTOP: gone after the time that is allowed; it hears so when it wakes."""
    fresh("stopped")
    with Group(3, "batch=9", f"peer_timeout={TIMEOUT}") as g:
        g.trains()
        g.all[2].process.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        for p in g.all[:2]:
            assert p.wait(20) == 1
        took = time.monotonic() - start
        assert TIMEOUT - 1.5 < took < TIMEOUT + 3, f"{took:.1f} s"
        g.all[2].process.send_signal(signal.SIGCONT)
        gone(g.end([1, 1, 1], 10), r"rank 2 \(host", "no sign of life|closed")


@test
def slow():
    """A process that has a tenth of the time is waited for."""
    fresh("slow")
    with Group(2, "ranks=2", "epochs=2", "peer_timeout=1") as g:
        g.trains()
        for _ in range(8):
            g.all[1].process.send_signal(signal.SIGSTOP)
            time.sleep(0.4)
            g.all[1].process.send_signal(signal.SIGCONT)
            time.sleep(0.04)
        g.end([0, 0])


@test
def interrupted():
    """Ctrl-C in one process ends all, with 130; resumed, the same bits."""
    fresh("interrupted")
    with Group(2, "ranks=2") as g:
        g.trains()
        g.all[1].process.send_signal(signal.SIGINT)
        gone(g.end([130, 130], 20), "interrupted", "")
    go_on()


@test
def different():
    """Other options, weights or pictures, and a WORLD_SIZE of its own: all say what differs."""
    fresh("different")
    with open("data.yaml", "w") as file:
        file.write("path: drawn/set\n" + open("drawn/set/data.yaml").read().replace("images/train", "images/val"))
    with open("other.yaml", "w") as file:
        file.write(NET.replace("0.0625", "0.125"))
    cases = [({1: ["lr0=0.02"]}, {}, r"rank 1 \(host .*lr0: 0.02, but lr0: 0.01 in rank 0", 2), ({1: ["ranks=2"]}, {}, "ranks: 2, but ranks: 1 in rank 0", 2),
             ({}, {1: 3}, "WORLD_SIZE: 3, but WORLD_SIZE: 2 in rank 0", 2), ({1: ["model=other.yaml"]}, {}, "rank 1 starts from other weights", 2),
             ({1: ["data=data.yaml"]}, {}, "rank 1 has .* pictures to train on", 2), ({1: ["data=none.yaml"]}, {}, "none.yaml", 1)]
    for more, size, sentence, status in cases:
        with Group(2, more=more, size=size) as g:
            for text in g.end([status, status], 20):
                assert re.search(sentence, text), f"{text}: expected {sentence}"
    assert not os.path.exists("runs"), "a run has begun"
    with Group(2, f"peer_timeout=1", size={0: 3, 1: 3}) as g:
        assert "1 of 3 processes have not come" in g.end([1, 1], 20)[0]


@test
def environment():
    """Variables that are half set, or damaged: a sentence each."""
    fresh("environment")
    good = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1234"}
    cases = [({"RANK": None}, "RANK is not set"), ({"WORLD_SIZE": None}, "WORLD_SIZE is not set"), ({"RANK": "2"}, "RANK=2: expected a whole number, 0 to 1"),
             ({"RANK": "-1"}, "RANK=-1"), ({"WORLD_SIZE": "2x"}, "WORLD_SIZE=2x"), ({"WORLD_SIZE": "99999999999"}, "WORLD_SIZE=9999"), ({"MASTER_ADDR": None}, "MASTER_ADDR is not set"),
             ({"MASTER_ADDR": "a" * 300}, "MASTER_ADDR"), ({"MASTER_PORT": "0"}, "MASTER_PORT=0"), ({"MASTER_PORT": ""}, "MASTER_PORT"), ({"LOCAL_RANK": "x"}, "LOCAL_RANK=x")]
    for change, sentence in cases:
        p = Process(0, {k: v for k, v in {**good, **change}.items() if v is not None}, ARGUMENTS)
        assert p.wait(20) == 2 and sentence in p.text(), f"{change}: {p.text()[-300:]}"
    p = Process(0, {"RANK": "0", "WORLD_SIZE": "1"}, [*ARGUMENTS, "epochs=1"])
    assert p.wait(20) == 0 and "meeting" not in p.text(), "one process needs no other"


@test
def strangers():
    """Rubbish and silence at the port, before and while the processes meet; a port that is taken; one where something else answers."""
    fresh("strangers")
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]

        def chat():
            while True:
                try:
                    client, _ = taken.accept()
                    client.sendall(b"SSH-2.0-server of something else altogether\r\n")
                except OSError:
                    return
        threading.Thread(target=chat, daemon=True).start()
        with Group(2, port=port) as g:
            last = g.end([1, 1], 20)
            assert f"port {port} cannot be listened at" in last[0] and "is not rank 0 of this version" in last[1], last
    port, held = free_port(), []
    knocks = [b"GET / HTTP/1.1\r\n\r\n", b"", b"YOLO", b"YOLO\1\0\1\0" + b"\xff" * 16, b"YOLO\1\0\1\0" + bytes(8) + b"\0\1\0\0\0\0\0\0" + bytes(256), bytes(100000), None]

    def come(words):
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                held.append(socket.create_connection(("127.0.0.1", port), 5))
                return held[-1].sendall(os.urandom(chance.randrange(1, 300)) if words is None else words)
            except ConnectionRefusedError:
                time.sleep(0.02)
            except OSError:
                return

    def crowd():
        for words in knocks + [None] * 20:
            come(words)
    with Group(2, "ranks=2", "epochs=2", port=port, delay=crowd) as g:
        crowd()
        g.end([0, 0], 40)
    for s in held:
        s.close()


# As above on GPUs. Two processes that share a device where it is emulated do not know of each other.
GPUS = ["epochs=3", "imgsz=32", "batch=4", "nbs=8", "fraction=0.5", "val=false"]


def two_gpus(*arguments):
    """What one process with two GPUs makes of it."""
    subprocess.run([yolo, "train", *ARGUMENTS, *GPUS, "device=0,1", "allreduce=host", *arguments], check=True, capture_output=True, env=CLEAN)
    return without_ranks(result())


@gpu_test
def gpus_equal():
    """Two processes with a GPU each, which LOCAL_RANK chooses: the bits of one process with two; four with one: those of two with two."""
    fresh("gpus-whole")
    want = two_gpus()
    fresh("gpus-equal")
    with Group(2, *GPUS, "device=auto") as g:
        g.end([0, 0])
        text = g.all[0].text()
        assert "host memory and TCP between processes" in text, text[-2000:]
    same(without_ranks(result()), want)
    found = []
    for count, device in ((4, "0"), (2, "0,1")):
        fresh(f"gpus-{count}")
        with Group(count, *GPUS, f"device={device}", "allreduce=host", "sync_bn=true", "epochs=1") as g:
            g.end([0] * count)
        found.append(without_ranks(result()))
    same(found[1], found[0])


@gpu_test
def gpus_killed():
    """kill -9 of any process at a random moment: the other names it, and goes on to the same bits."""
    fresh("gpus-left-alone")
    want = two_gpus()
    for victim in (1, 0):
        fresh(f"gpus-killed-{victim}")
        text = kill_one(victim, 0.3, 5, *GPUS, "device=0", "allreduce=host")
        gone([last_line(text)], rf"rank {victim} \(host", "is gone: the connection was closed")
        with Group(2, *GPUS, "device=0", "allreduce=host", "resume=true", f"model={LAST}") as g:
            g.end([0, 0])
        same(without_ranks(result()), want)


@gpu_test
def gpus_different():
    """A CPU beside a GPU, one GPU beside two, a way that does not reach so far, a GPU that is not there: a sentence each."""
    fresh("gpus-different")
    cases = [({1: ["device=cpu"]}, [2, 2], "ranks of a process: 1 on the CPU, but ranks of a process: 1 GPU"), ({1: ["device=0,1"]}, [2, 2], "ranks of a process: 2 GPU"),
             ({0: ["allreduce=peer"], 1: ["allreduce=peer"]}, [2, 2], "allreduce=peer: GPUs of several processes"),
             ({0: ["allreduce=nccl"], 1: ["allreduce=nccl"]}, [1, 1], "rank [01].*NCCL.*try allreduce=host")]
    for more, statuses, sentence in cases:
        with Group(2, *GPUS, "device=0", "allreduce=host", more=more) as g:
            for text in g.end(statuses, 20):
                assert re.search(sentence, text), f"{text}: expected {sentence}"
    with Group(3, *GPUS, "device=auto", "peer_timeout=1", "batch=3") as g:
        g.all[2].wait(20)
        assert "GPU 2 not available" in g.all[2].text(), g.all[2].text()[-500:]


def beside_nccl(name):
    """A copy of the program that finds the library beside itself."""
    fresh(name)
    os.mkdir("bin")
    shutil.copy(yolo, "bin/yolo")
    shutil.copy(library, "bin/libnccl.so.2")
    return os.path.abspath("bin/yolo")


def nccl_equal():
    """By the library, two processes with a GPU each and two with two: the bits of the host's sums."""
    fresh("nccl-whole")
    want = two_gpus()
    program = beside_nccl("nccl-equal")
    with Group(2, *GPUS, "device=auto", program=program) as g:
        g.end([0, 0])
        for rank, p in enumerate(g.all):
            assert re.search(rf"NCCL: rank {rank} of 2 ends after [1-9]\d* sums", p.text()), p.text()[-2000:]
    same(without_ranks(result()), want)
    found = []
    for way in ("host", "nccl"):
        program = beside_nccl(f"nccl-{way}")
        with Group(2, *GPUS, "device=0,1", f"allreduce={way}", "sync_bn=true", "epochs=1", program=program) as g:
            g.end([0, 0])
            assert (way == "nccl") == ("NCCL: rank 3 of 4 ends" in g.all[1].text()), g.all[1].text()[-2000:]
        found.append(without_ranks(result()))
    same(found[1], found[0])


def nccl_killed():
    """kill -9 while the others are in the library: the communicators are aborted, the lost rank is named, and the run goes on to the same bits."""
    fresh("nccl-left-alone")
    want = two_gpus()
    for victim in (1, 0):
        program = beside_nccl(f"nccl-killed-{victim}")
        text = kill_one(victim, 0.3, 8, *GPUS, "device=0", "allreduce=nccl", program=program)
        gone([text], rf"rank {victim} \(host", "is gone: the connection was closed")
        assert f"NCCL: rank {1 - victim} of 2 aborts" in text, text[-800:]
        with Group(2, *GPUS, "device=0", "allreduce=nccl", "resume=true", f"model={LAST}", program=program) as g:
            g.end([0, 0])
        same(without_ranks(result()), want)


def run_one(function):
    start = time.monotonic()
    verdict, why = "ok", ""
    try:
        why = function() or ""
    except Exception as failure:
        verdict, why = "FAIL", f"line {failure.__traceback__.tb_next.tb_lineno if failure.__traceback__.tb_next else '?'}: {type(failure).__name__}: {str(failure)[:1500]}"
    print(f"{verdict:4} {function.__name__:16} {time.monotonic() - start:6.1f} s  {function.__doc__.splitlines()[0]}  {why}", flush=True)
    os.chdir(resume.scratch)
    return verdict


if __name__ == "__main__":
    words = sys.argv[1:]
    options = dict(word.split("=", 1) for word in words if "=" in word)
    names = [word for word in words if "=" not in word and os.sep not in word]
    paths = [word for word in words if os.sep in word and "=" not in word]
    yolo = resume.yolo = os.path.abspath(paths[0] if paths else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "yolo"))
    library = os.path.abspath(options["nccl"]) if "nccl" in options else None
    seed = int(options.get("seed", time.time()))
    chance = random.Random(seed)
    resume.scratch = tempfile.mkdtemp(prefix="yolo-processes-")
    os.chdir(resume.scratch)
    subprocess.run([yolo, "demo", "epochs=0", "pictures=34", "imgsz=64", "out=drawn"], check=True, capture_output=True, env=CLEAN)
    verdicts = [run_one(t) for t in (gpu_tests if "gpus" in options else tests) + ([nccl_equal, nccl_killed] if library else []) if not names or t.__name__ in names]
    os.chdir("/")
    if "keep" not in options:
        shutil.rmtree(resume.scratch, ignore_errors=True)
    if "FAIL" in verdicts:
        print(f"to repeat: seed={seed}")
    print(f"{verdicts.count('ok')} passed, {verdicts.count('FAIL')} failed, 0 skipped")
    sys.exit(1 if "FAIL" in verdicts or not verdicts.count("ok") else 0)
