"""label_kill.py - `label` killed at any moment: undo brings every byte back, the same command goes on, and so does undo.

  python3 tests/label_kill.py [COMMAND] [ROUNDS] [SEED]

COMMAND is ./yolo; ROUNDS (24) is how often each kind of run is killed with SIGKILL, at moments that SEED chooses. Works in a
scratch folder. Prints a line a part, then "N passed, N failed, 0 skipped"; exit status 1 when any failed.
"""
import os, random, shlex, shutil, signal, subprocess, sys, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests"))
from cli_test import png

PICTURES = 48
MODEL = ["model=yolov8n.yaml", "imgsz=128", "threads=2", "conf=0.00001", "max_det=5"]
REPLACE = ["existing=replace", "also=coco,csv,voc", "review=true"]
MERGE = ["existing=merge", "merge_iou=0.9", "also=voc"]
SKIP = ["also=csv,voc", "review=true"]  # existing=skip is the default


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def make_tree(folder):
    """Pictures below images/, some with labels of a person below labels/, some of them beside, and files that a run replaces."""
    labels = [b"7 0.1 0.2 0.3 0.4\r\n\r\nmy own note", b"", "사람\n".encode(), b"0 0.5 0.5 0.25 0.25\n3 0.1 0.1 0.2 0.1 0.2 0.2\n", None]
    for i in range(PICTURES):
        below = ["", "가/", "나 다/a%b/"][i % 3] + f"{i:03}"
        write(f"{folder}/images/{below}.png", png(40 + i % 5 * 16, 40 + i % 3 * 16, i))
        text = labels[i % len(labels)]
        if text is not None:
            write(f"{folder}/{'images' if i % 2 else 'labels'}/{below}.txt", text)
    write(f"{folder}/labels/readme", b"kept")
    write(f"{folder}/images/classes.txt", "\ufeff개\r\n고양이\r\n".encode())
    write(f"{folder}/images/000.xml", b"<annotation>mine</annotation>")
    write(f"{folder}/images/labels.csv", b"mine")
    write(f"{folder}/images/labels.coco.json", b"{}")


def snapshot(folder):
    """Every folder and file with its bytes, but for the journals."""
    found = {}
    for base, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if f != ".yolo_undo"]
        found.update({os.path.relpath(os.path.join(base, f), folder): None for f in folders})
        found.update({os.path.relpath(os.path.join(base, n), folder): read(os.path.join(base, n)) for n in names})
    return found


def same(have, want, what):
    wrong = [name for name in sorted(set(have) | set(want)) if have.get(name, 0) != want.get(name, 0)]
    assert not wrong, f"{what}: {len(wrong)} differ: {wrong[:8]}"


def yolo(*arguments, status=0):
    done = subprocess.run(command + ["label", *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=300)
    text = (done.stdout + done.stderr).decode()
    assert done.returncode == status, f"label {' '.join(arguments)}: status {done.returncode}\n{text}"
    return text


def killed(seconds, *arguments):
    """Starts and kills after so long; was it still running?"""
    process = subprocess.Popen(command + ["label", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return running


def runs(tree):
    folder = f"{tree}/images/.yolo_undo"
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def nothing_lost(tree, before):
    """Every file of before is in the tree or in a run's folder, whole."""
    kept = set()
    for run in runs(tree):
        kept |= set(v for v in snapshot(f"{tree}/images/.yolo_undo/{run}").values() if v is not None)
    now = snapshot(tree)
    for name, data in before.items():
        assert data is None or now.get(name) == data or data in kept, f"{name} is lost"


def undo_all(tree):
    while runs(tree):
        left = len(runs(tree))
        done = subprocess.run(command + ["label", f"source={tree}/images", "undo=last"], stdin=subprocess.DEVNULL, capture_output=True, timeout=300)
        text = (done.stdout + done.stderr).decode()
        assert len(runs(tree)) < left and (not done.returncode or "no run at all" in text), text  # none: killed before it had begun


def duration(tree, options):
    start = time.time()
    yolo(*MODEL, f"source={tree}/images", *options)
    return time.time() - start


def kill_then_undo(tree, options):
    before = snapshot(tree)
    length = duration(tree, options)
    made = set(snapshot(tree)) - set(before)
    undo_all(tree)
    same(snapshot(tree), before, "undo of a whole run")
    stopped = 0
    for i in range(rounds):
        stopped += killed(chance.uniform(0, length * 1.1), *MODEL, f"source={tree}/images", *options)
        nothing_lost(tree, before)
        undo_all(tree)
        same(snapshot(tree), before, f"round {i}")
        assert not os.path.exists(f"{tree}/images/.yolo_undo")
    assert stopped >= rounds // 2, f"only {stopped} of {rounds} runs were still going"
    return f"{stopped} of {rounds} killed while they ran, {length:.1f} s each, {len(made)} files and folders made"


def kill_then_continue(tree, options):
    before = snapshot(tree)
    length = duration(tree, options)
    finished = {k: v for k, v in snapshot(tree).items() if not k.endswith("review.csv")}
    undo_all(tree)
    continued = i = 0
    while i < rounds // 3 or (not continued and i < 2 * rounds):  # where all were killed too early or too late, more
        i += 1
        for _ in range(chance.randint(1, 3)):
            killed(chance.uniform(length / 4, length), *MODEL, f"source={tree}/images", *options)
            nothing_lost(tree, before)
        names = runs(tree)
        text = yolo(*MODEL, f"source={tree}/images", *options)
        continued += "done before" in text
        # A run that went on with one that had nothing left to change is forgotten.
        assert len(runs(tree)) <= 3 and (runs(tree)[:len(names)] == names or runs(tree) == names[:-1]), (names, runs(tree))
        same({k: v for k, v in snapshot(tree).items() if not k.endswith("review.csv")}, finished, f"round {i}: what the continued run made")
        undo_all(tree)
        same(snapshot(tree), before, f"round {i}")
    assert continued, "no run was continued"
    return f"{continued} of {i} went on with what was done"


def kill_undo(tree, options):
    before = snapshot(tree)
    yolo(*MODEL, f"source={tree}/images", *options)
    start = time.time()
    undo_all(tree)
    length = time.time() - start
    stopped = 0
    for i in range(rounds):
        if not runs(tree):
            yolo(*MODEL, f"source={tree}/images", *options)
        stopped += killed(chance.uniform(0, length), f"source={tree}/images", "undo=last")
        nothing_lost(tree, before)
        if i % 3 == 2 or not runs(tree):  # else the next round's is killed as well
            undo_all(tree)
            same(snapshot(tree), before, f"round {i}")
    undo_all(tree)
    same(snapshot(tree), before, "the end")
    assert stopped >= rounds // 3, f"only {stopped} of {rounds} were still going"
    return f"{stopped} of {rounds} killed while they ran, {length:.2f} s each"


def drop_labels(tree):
    """Most pictures have no label, and some folders for labels are not there: a run that skips has something to make."""
    for base, _, names in os.walk(tree):
        for name in names:
            if name.endswith(".txt") and name[0] != "c" and int(name[:3]) % 4:
                os.remove(os.path.join(base, name))
    shutil.rmtree(f"{tree}/labels/가", ignore_errors=True)


def parts():
    for name, options in (("replace", REPLACE), ("merge", MERGE), ("skip", SKIP)):
        yield f"kill {name}, undo", kill_then_undo, options
        yield f"kill {name}, go on", kill_then_continue, options
        if options != MERGE:
            yield f"kill undo of {name}, undo", kill_undo, options


if __name__ == "__main__":
    command = [os.path.abspath(w) if os.path.exists(w) and os.sep in w else w for w in shlex.split(sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "yolo"))]
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 24
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(1 << 30)
    chance = random.Random(seed)
    print(f"seed {seed}")
    failed = count = 0
    with tempfile.TemporaryDirectory(prefix="yolo-kill-") as scratch:
        os.chdir(scratch)
        make_tree("사진 모음")
        for name, part, options in parts():
            shutil.rmtree("tree", ignore_errors=True)
            shutil.copytree("사진 모음", "tree")
            if options == SKIP:
                drop_labels("tree")
            start, count = time.time(), count + 1
            try:
                verdict, said = "ok", part("tree", options)
            except AssertionError as failure:
                verdict, said, failed = "FAIL", str(failure), failed + 1
            print(f"{verdict:4} {name:24} {time.time() - start:6.1f} s  {said}", flush=True)
        os.chdir("/")
    print(f"{count - failed} passed, {failed} failed, 0 skipped")
    sys.exit(1 if failed else 0)
