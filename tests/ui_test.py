"""ui_test.py - the server of the page (yolo ui): what it answers, what it refuses, and that nothing takes it down.

  python3 tests/ui_test.py "COMMAND" [--long] [NAME ...]

COMMAND is ./yolo or "wine /path/yolo.exe". Python's standard library only. Works in a scratch folder with a Korean name. Prints a
line a test, then "N passed, N failed, N skipped"; exit status 1 when any failed. --long: the attacks that take a minute as well.
"""
import errno, glob, http.client, json, os, re, shlex, shutil, signal, socket, struct, subprocess, sys, tempfile, threading, time, urllib.parse, zlib

from cli_test import KOREAN, ROOT, Skip, pictures, png, read, tree, write

MODEL = {"model": "yolov8n.yaml", "imgsz": "64", "threads": "1"}
tests = []


def test(function):
    tests.append(function)
    return function


def long_test(function):
    function.long = True
    return test(function)


def inner(path):
    """The absolute path as the program has it."""
    return "Z:" + os.path.abspath(path) if wine else os.path.abspath(path)


class Server:
    """A running `yolo ui`, and the requests of a page that knows its token."""

    def __init__(self, *arguments, **more):
        self.process = subprocess.Popen(command + ["ui", "browser=false", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
        address = self.process.stdout.readline().decode().strip()
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=([0-9a-f]{32})", address)
        assert found, address + self.process.stderr.read().decode()
        self.port, self.token = int(found.group(1)), found.group(2)

    def ask(self, method, path, /, body=None, status=200, token=None, headers=None, **query):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        if query:
            path += "?" + urllib.parse.urlencode(query)
        data = json.dumps(body, ensure_ascii=False).encode() if body is not None else None
        connection.request(method, path, data, {**({} if token == "" else {"X-Yolo-Token": token or self.token}), **(headers or {})})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        self.headers = dict(answer.getheaders())
        assert answer.status == status, f"{method} {path}: {answer.status}, expected {status}: {content[:500]}"
        if self.headers.get("Content-Type") != "application/json":
            return content
        value = json.loads(content)
        assert (status >= 400) == (isinstance(value, dict) and set(value) == {"error"}), content[:500]
        return value["error"] if status >= 400 else value

    def get(self, path, /, status=200, **query):
        return self.ask("GET", path, status=status, **query)

    def raw(self, data, seconds=5):
        """Sends bytes, and reads all that comes until the connection is closed."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as s:
            try:
                s.sendall(data)
            except OSError:
                pass
            out = b""
            try:
                while part := s.recv(65536):
                    out += part
            except OSError:
                pass
            return out

    def head(self, **more):
        fields = {"Host": f"127.0.0.1:{self.port}", "X-Yolo-Token": self.token, **more}
        return "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None).encode()

    def start(self, verb, status=200, **options):
        answer = self.ask("POST", "/api/jobs", {"verb": verb, "options": options}, status)
        return answer["id"] if status == 200 else answer

    def job(self, number):
        return next(job for job in self.get("/api/jobs") if job["id"] == number)

    def wait(self, number, seconds=120):
        until = time.time() + seconds
        while (job := self.job(number))["state"] == "running":
            assert time.time() < until, job
            time.sleep(0.05)
        return job

    def log(self, number, start=-1):
        return self.get("/api/jobs/log", id=number, **{"from": start})

    def stop(self):
        """Ctrl-C, and the exit status."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, (out + err).decode()

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


def alive(status=200):
    assert isinstance(server.get("/api/jobs", status), list)


def children(process):
    """Processes that it has begun; they are listed with its threads, which come and go."""
    found = []
    for path in glob.glob(f"/proc/{process}/task/*/children"):
        try:
            with open(path) as file:
                found += map(int, file.read().split())
        except OSError:
            pass
    return found


def status_of(answer):
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


# ---- what is asked


def joined(parts):
    """Runs of texts as one each."""
    run = []
    for part in parts + [None]:
        if part is not None:
            run.append(part)
        elif run:
            yield "".join(run)
            run = []


def text_macros(source):
    return dict(re.findall(r'#define (\w+) "([^"\n]*)"', source))


def said(source):
    """The format of each error and warning of a program in C: literals that follow one another are one, of `a ? "x" : "y"` each is one."""
    macros = text_macros(source)
    token = re.compile(r'"((?:[^"\\]|\\.)*)"|(/\*.*?\*/)|(\w+)|(.)', re.S)
    for call in re.finditer(r"\b(err_set|log_write)\(", source):
        depth, at, arguments, words = 1, call.end(), [[]], set()
        while depth:
            found = token.match(source, at)
            at = found.end()
            text, _, word, mark = found.groups()
            if mark == "," and depth == 1:
                arguments.append([])
            elif text is not None or word in macros:
                arguments[-1].append(text if text is not None else macros[word])
            elif word or mark in "?:":
                arguments[-1].append(None)
                words.add(word)
            depth += (mark == "(") - (mark == ")")
        if call[1] == "err_set" or "YOLO_LOG_WARNING" in words:
            yield from joined(arguments[2])


@test
def korean():
    """All that the program says as an error or a warning is there in Korean, with what stands in it; and nothing that it does not say."""
    conversion = r"%[-+ #.*0-9]*(?:ll|z)?[a-zA-Z]"
    table = dict(server.get("/api/messages"))
    with open(os.path.join(ROOT, "yolo.c"), encoding="utf-8") as file:
        source = re.sub(r"ui_korean\[\]\[2\] = \{.*?\n\};", "", file.read(), flags=re.S)
    formats = {json.loads(f'"{text}"') for text in said(source)}
    missing = sorted(text for text in formats if re.search(r"[A-Za-z]{2}", re.sub(conversion, "", text)) and text not in table)
    assert not missing and len(formats) > 250, f"{len(missing)} without Korean: {missing[:20]}"
    macros = text_macros(source)
    whole = re.sub(r'(?<!\\)"\s*"', "", re.sub(r'"\s*(\w+)\s*"', lambda m: macros.get(m[1], m[0]), source))
    system = {os.strerror(number) for number in errno.errorcode}
    for text, korean in table.items():
        places, count = [int(n) for n in re.findall(r"\{(\d)\}", korean)], len(re.findall(conversion, text.replace("%%", "")))
        assert (re.search("[가-힣]", korean) or text.startswith("yolo")) and all(n < count for n in places), (text, korean)
        assert count - len(set(places)) <= 2, f"what stands in it is lost: {text}: {korean}"
        longest = json.dumps(max(re.split(conversion, text), key=len), ensure_ascii=False)[1:-1]
        verb = re.fullmatch("%s: cannot ([a-z ]+): %s", text)  # err_os puts it in
        assert longest in whole or text in system or verb and f'"{verb[1]}"' in source, f"the program does not say: {text}"


@test
def about():
    about = server.get("/api/about")
    assert about["cores"] >= 1 and about["memory"] >= about["free_memory"] > 0 and re.fullmatch(r"\d+\.\d+\.\d+", about["version"]), about
    assert about["devices"][0]["id"] == "auto" and about["devices"][-1]["id"] == "cpu"
    assert os.path.samefile(about["folder"].replace("Z:", ""), home) if not wine else about["folder"], about["folder"]
    for verb, names in (("train", ["data", "model", "epochs", "batch", "imgsz", "lr0", "device"]), ("label", ["model", "source", "conf", "iou", "existing", "out"]), ("prepare", ["source", "val"])):
        rows = {row["name"]: row for row in about["verbs"][verb]}
        assert all(name in rows and rows[name]["help"] for name in names) and "progress" not in rows, rows.keys()
    imgsz = next(row for row in about["verbs"]["train"] if row["name"] == "imgsz")
    assert (imgsz["kind"], imgsz["default"], imgsz["low"], imgsz["high"]) == ("whole", "640", 32, 8192), imgsz


@test
def page():
    if not os.path.exists(os.path.join(ROOT, "ui.html")):
        assert "without its page" in server.get("/", 501)
        return
    nonces = set()
    for token in (server.token, ""): # there is nothing in it
        content = server.ask("GET", "/", token=token).decode()
        assert server.token not in content
        policy = server.headers["Content-Security-Policy"]
        nonce = re.search(r"script-src 'nonce-([0-9a-f]{32})'", policy).group(1)
        nonces.add(nonce)
        assert f'nonce="{nonce}"' in content and "@NONCE@" not in content and "default-src 'none'" in policy
        assert content.replace(nonce, "@NONCE@") == read(os.path.join(ROOT, "ui.html")).decode()
    assert len(nonces) == 2 and server.headers["X-Frame-Options"] == "DENY" and server.headers["Cache-Control"] == "no-store"
    assert status_of(server.raw(f"GET /?token={server.token} HTTP/1.0\r\nHost: localhost:{server.port}\r\n\r\n".encode())) == 200


@test
def settings():
    path = server.get("/api/about")["settings_path"]
    assert server.get("/api/settings") == {}
    kept = {"언어": "ko", "train": {"epochs": "3", "lr0": 0.001, "deep": [1, [2, {"x": None}], True, "a\"b\\c\n"]}}
    server.ask("PUT", "/api/settings", kept)
    assert server.get("/api/settings") == kept
    assert json.loads(read(path.replace("\\", "/").replace("Z:", ""))) == kept and os.path.basename(path) == "config.json" and os.path.exists(os.path.join(home, "config.json"))
    for broken in (b"[1]", b"{", b"\xff", b'{"a":1}{'):
        assert status_of(server.raw(b"PUT /api/settings HTTP/1.0\r\n" + server.head(**{"Content-Length": len(broken)}) + b"\r\n" + broken)) == 400
    server.ask("PUT", "/api/settings", {"a": "x" * 40000}, 400)
    deep = {}
    for _ in range(60):
        deep = {"a": deep}
    server.ask("PUT", "/api/settings", deep)
    server.ask("PUT", "/api/settings", {})
    assert server.get("/api/settings") == {}


@test
def settings_of_a_program_that_cannot_write():
    if wine or os.getuid() == 0 and not shutil.which("setpriv"):
        raise Skip("needs another user's rights")
    write("bin/x", "")
    shutil.copy(program, "bin/yolo")
    os.chmod("bin", 0o555)
    os.chmod(".", 0o777)
    before = list(command)
    command[:] = (["setpriv", "--reuid=65534", "--clear-groups"] if os.getuid() == 0 else []) + [os.path.abspath("bin/yolo")]
    os.chmod(scratch, 0o755)
    try:
        other = Server()
        about = other.get("/api/about")
        assert about["settings_read_only"] and not about["settings_path"].startswith(os.path.abspath("bin")), about["settings_path"]
        assert other.get("/api/settings") == {} and sorted(os.listdir("bin")) == ["x", "yolo"]
        other.close()
    finally:
        command[:] = before
        os.chmod("bin", 0o755)


@test
def folders():
    pictures(KOREAN, ["a.png", "b.PNG", "하나/c.jpg"])
    write(f"{KOREAN}/best.pt", "x")
    write(f"{KOREAN}/data.yaml", "x")
    write(f"{KOREAN}/classes.txt", "x")
    write(f"{KOREAN}/other.exe", "x")
    write(f"{KOREAN}/.hidden/a.png", "x")
    roots = server.get("/api/folder")["roots"]
    assert [r["label"] for r in roots][:2] == ["home", "current"] and any(r["label"] == "drive" for r in roots), roots
    found = server.get("/api/folder", path=inner(KOREAN))
    assert [f["name"] for f in found["folders"]] == ["하나"] and found["pictures"] == 2
    assert {f["name"]: f["kind"] for f in found["files"]} == {"a.png": "picture", "b.PNG": "picture", "best.pt": "model", "data.yaml": "yaml", "classes.txt": "text"}
    assert next(f for f in found["files"] if f["name"] == "best.pt")["size"] == 1
    up = server.get("/api/folder", path=found["parent"])
    assert KOREAN in [f["name"] for f in up["folders"]]
    server.get("/api/folder", 404, path=inner("none"))
    server.get("/api/folder", 404, path=inner(f"{KOREAN}/best.pt"))
    server.get("/api/folder", 400, path="relative")


@test
def picture():
    pictures("p", ["a.png"])
    write("p/large.png", png(700, 300, 5))
    write("p/not.txt", "secret")
    write("p/damaged.jpg", b"\xff\xd8\xff\xe0 nothing")
    write("secret.png", png(20, 20, 1))
    root = inner("p")
    assert server.get("/api/picture", root=root, name="a.png") == read("p/a.png") and server.headers["Content-Type"] == "image/png"
    small = server.get("/api/picture", root=root, name="large.png", side=128)
    assert small[:3] == b"\xff\xd8\xff" and len(small) < 30000
    at = small.index(b"\xff\xc0")
    assert int.from_bytes(small[at + 7:at + 9], "big") == 128 and int.from_bytes(small[at + 5:at + 7], "big") == 54
    assert server.ask("GET", f"/api/picture?{urllib.parse.urlencode({'root': root, 'name': 'a.png', 'token': server.token})}", token="") == read("p/a.png")
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    large = read("p/large.png")
    write("p/turned.png", large[:33] + struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif)) + large[33:])
    turned = server.get("/api/picture", root=root, name="turned.png")
    at = turned.index(b"\xff\xc0")
    assert turned[:3] == b"\xff\xd8\xff" and struct.unpack(">HH", turned[at + 5:at + 9]) == (700, 300)
    server.get("/api/picture", 400, root=root, name="not.txt")
    server.get("/api/picture", 400, root=root, name="damaged.jpg", side=64)
    server.get("/api/picture", 404, root=root, name="none.png")
    server.get("/api/picture", 400, root=root, name="a.png", side="9999999")
    server.get("/api/picture", 400, root=root)
    for name in ("../secret.png", "..%2fsecret.png", "x/../../secret.png", "/etc/hostname.png", inner("secret.png"), "./a.png", "", "a.png/", "..\\secret.png", "p//a.png"):
        answer = server.raw(f"GET /api/picture?root={urllib.parse.quote(root)}&name={urllib.parse.quote(name)} HTTP/1.0\r\n".encode() + server.head() + b"\r\n")
        assert status_of(answer) in (400, 403, 404), (name, answer[:200])
    if not wine:
        os.symlink(os.path.abspath("secret.png"), "p/link.png")
        os.symlink(os.path.abspath("."), "p/up")
        os.symlink("a.png", "p/inside.png")
        assert "leads out" in server.get("/api/picture", 403, root=root, name="link.png")
        server.get("/api/picture", 403, root=root, name="up/secret.png")
        assert server.get("/api/picture", root=root, name="inside.png") == read("p/a.png")


@test
def pictures_and_labels():
    pictures("set/images/하나", ["a.png", "b.png", "c.png"])
    os.makedirs("set/labels")
    write("set/labels/하나/b.txt", "1 0.5 0.5 0.25 0.25\n0 0.1 0.1 0.05 0.05\n")
    write("set/data.yaml", "train: images\nval: images\nnames: [cat, 개]\n")
    root = inner("set/images")
    found = server.get("/api/pictures", root=root, **{"from": 0, "count": 2})
    assert found["total"] == 3 and [i["name"] for i in found["items"]] == ["하나/a.png", "하나/b.png"]
    assert [i["boxes"] for i in found["items"]] == [None, 2] and found["items"][0]["width"] == 48
    assert [i["name"] for i in server.get("/api/pictures", root=root, **{"from": 2, "count": 9})["items"]] == ["하나/c.png"]
    write("set/labels/하나/c.txt", "0 0.1 0.1 0.3 0.1 0.3 0.5\n0 2 2 2 2\n")
    labels = server.get("/api/labels", root=root, name="하나/c.png")
    assert (labels["polygons"], labels["bad_lines"], len(labels["boxes"])) == (1, 1, 1) and abs(labels["boxes"][0]["h"] - 0.4) < 1e-6, labels
    os.remove("set/labels/하나/c.txt")
    labels = server.get("/api/labels", root=root, name="하나/b.png")
    assert labels["classes"] == ["cat", "개"] and (labels["width"], labels["height"]) == (56, 56) and not labels["person"] and labels["labelled"]
    assert labels["boxes"] == [{"class": 1, "x": 0.5, "y": 0.5, "w": 0.25, "h": 0.25}, {"class": 0, "x": 0.1, "y": 0.1, "w": 0.05, "h": 0.05}]
    server.ask("PUT", "/api/labels", {"boxes": [{"class": 0, "x": 0.25, "y": 1e-7, "w": 0.5, "h": 1}]}, root=root, name="하나/a.png")
    assert read("set/labels/하나/a.txt") == b"0 0.250000 0.000000 0.500000 1.000000\n" and read("set/labels/하나/.yolo_person") == b"a.txt\n"
    server.ask("PUT", "/api/labels", {"boxes": []}, root=root, name="하나/b.png")
    server.ask("PUT", "/api/labels", {"boxes": []}, root=root, name="하나/b.png")
    assert read("set/labels/하나/b.txt") == b"" and read("set/labels/하나/.yolo_person") == b"a.txt\nb.txt\n"
    assert [i.get("person") for i in server.get("/api/pictures", root=root, **{"from": 1, "count": 2})["items"]] == [True, False]
    before = tree("set")
    for body in ({}, {"boxes": 1}, {"boxes": [1]}, {"boxes": [{"class": 0}]}, {"boxes": [{"class": -1, "x": 0, "y": 0, "w": 0, "h": 0}]},
                 {"boxes": [{"class": 0.5, "x": 0, "y": 0, "w": 0, "h": 0}]}, {"boxes": [{"class": 0, "x": 1.5, "y": 0, "w": 0, "h": 0}]},
                 {"boxes": [{"class": 0, "x": "nan", "y": 0, "w": 0, "h": 0}]}):
        server.ask("PUT", "/api/labels", body, 400, root=root, name="하나/c.png")
    server.ask("PUT", "/api/labels", {"boxes": []}, 400, root=root, name="../data.yaml")
    server.ask("PUT", "/api/labels", {"boxes": []}, 404, root=root, name="하나/none.png")
    assert tree("set") == before
    pictures("beside", ["x.png"])
    server.ask("PUT", "/api/labels", {"boxes": []}, root=inner("beside"), name="x.png")
    assert tree("beside") == [".yolo_person", "x.png", "x.txt"]
    os.makedirs("out")
    server.ask("PUT", "/api/labels", {"boxes": []}, root=root, out=inner("out"), name="하나/c.png")
    assert tree("out") == ["하나/.yolo_person", "하나/c.txt"]


@test
def labels_through_links():
    if wine:
        raise Skip("no links under wine")
    pictures("set/images/sub", ["a.png"])
    os.makedirs("elsewhere")
    os.makedirs("set/labels")
    os.symlink(os.path.abspath("elsewhere"), "set/labels/sub")
    assert "leads out" in server.ask("PUT", "/api/labels", {"boxes": []}, 403, root=inner("set/images"), name="sub/a.png")
    assert tree("elsewhere") == []


@test
def unsure_first():
    pictures("p", ["a.png", "b.png", "c,d.png"])
    folder = inner("p")
    write("p/review.csv", "\ufeffunsure,reasons,picture,label,boxes,lowest_confidence,below_threshold,differences\n"
          f'0.9000,"low, and ""odd""","{folder}/c,d.png",x,1,,,0\n0.5000,low confidence,{folder}/a.png,x,1,,,0\n0.1,r,{inner("other.png")},x,1,,,0\n')
    found = server.get("/api/pictures", root=folder, order="unsure")
    assert [(i["name"], i["unsure"], i["reason"]) for i in found["items"]] == [("c,d.png", 0.9, 'low, and "odd"'), ("a.png", 0.5, "low confidence")] and found["total"] == 2
    assert found["review"] and server.get("/api/pictures", root=folder)["total"] == 3
    other = server.get("/api/pictures", root=inner("."), order="unsure")
    assert not other["review"] and other["total"] == 3 and "unsure" not in other["items"][0], other
    server.get("/api/pictures", 404, root=inner("none"), order="unsure")


@test
def many_pictures():
    data = png(16, 16, 1)
    os.makedirs("many")
    for i in range(1000):
        write(f"many/{i:05}.png", data)
    start = time.time()
    for first in range(0, 1000, 200):
        found = server.get("/api/pictures", root=inner("many"), **{"from": first, "count": 20})
        assert found["total"] == 1000 and found["items"][0]["name"] == f"{first:05}.png"
    assert time.time() - start < 20, time.time() - start


@test
def runs():
    write("runs/t/results.csv", "                  epoch,      train/box_loss,   metrics/mAP50(B)\n  1, 2.5, 0.125\n 2,1.5,nan\n")
    write("runs/t/args.yaml", "task: detect\nepochs: 3\nlr0: 0.01\nclasses: null\n")
    write("runs/t/results.png", b"x")
    write("runs/t/weights/best.pt", b"x")
    write("runs/empty/x", "")
    found = server.get("/api/runs", project=inner("runs"))
    assert len(found) == 1 and found[0]["name"] == "t" and found[0]["columns"] == ["epoch", "train/box_loss", "metrics/mAP50(B)"], found
    assert found[0]["rows"] == [[1, 2.5, 0.125], [2, 1.5, None]] and found[0]["pictures"] == ["results.png"] and found[0]["weights"] == ["best.pt"]
    assert found[0]["args"] == {"task": "detect", "epochs": 3, "lr0": 0.01, "classes": None}
    assert server.get("/api/runs", project=inner("none")) == []
    write("runs/u/results.csv", "epoch\n1\n")
    assert len(server.get("/api/runs", project=inner("runs"))) == 2 and [r["name"] for r in server.get("/api/runs", project=inner("runs"), folder="u")] == ["u"]


# ---- jobs


@test
def job_to_its_end():
    pictures("in", ["a.png", "b.png"])
    number = server.start("label", **MODEL, source=inner("in"), conf="0.9")
    job = server.wait(number)
    assert (job["state"], job["percent"], job["error"], job["folder"]) == ("done", 100, "", inner("in")) and job["verb"] == "label", job
    assert job["options"]["conf"] == "0.9" and job["seconds"] > 0 and abs(job["started"] - time.time()) < 100
    assert {"in/a.txt", "in/b.txt"} <= set("in/" + name for name in tree("in"))
    log = server.log(number)
    assert "2 pictures" in log["text"] and "Progress:" not in log["text"] and log["from"] == 0 and log["next"] == len(log["text"].encode())
    assert server.log(number, log["next"])["text"] == "" and server.log(number, 5)["text"] == log["text"][5:]


@test
def labels_of_a_person_stay():
    pictures("in", ["a.png", "b.png", "sub/c.png"])
    root = inner("in")
    for name in ("a.png", "sub/c.png"):
        server.ask("PUT", "/api/labels", {"boxes": [{"class": 7, "x": 0.5, "y": 0.5, "w": 0.5, "h": 0.5}]}, root=root, name=name)
    write("in/b.txt", "7 0.5 0.5 0.5 0.5\n")
    mine = read("in/a.txt")
    for existing in ("replace", "merge"):
        number = server.start("label", **MODEL, source=root, conf="0.9", existing=existing)
        assert server.wait(number)["state"] == "done" and "2 labels that a person made" in server.log(number)["text"], server.log(number)
        assert read("in/a.txt") == read("in/sub/c.txt") == mine
    assert read("in/b.txt") == b""
    run = server.get("/api/undo", root=root)
    assert len(run) == 1 and all(r["files"] == 2 and abs(r["when"] - time.time()) < 100 for r in run), run
    for r in sorted(run, key=lambda r: r["run"], reverse=True):
        job = server.wait(server.ask("POST", "/api/undo", {"root": root, "run": r["run"]})["id"])
        assert job["state"] == "done" and job["options"] == {"source": root, "undo": r["run"]}, job
    assert read("in/b.txt") == b"7 0.5 0.5 0.5 0.5\n" and server.get("/api/undo", root=root) == []
    server.ask("POST", "/api/undo", {"root": root}, 400)
    assert server.get("/api/undo", root=root, out=inner("not made yet")) == []


@test
def job_without_progress():
    job = server.wait(server.start("export", model="yolov8n.yaml", imgsz="64", out=inner("n.onnx")))
    assert job["state"] == "done" and os.path.getsize("n.onnx") > 1 << 20, job


@test
def job_that_fails():
    job = server.wait(server.start("label", model="none.pt", source=inner(".")))
    assert job["state"] == "failed" and "none.pt" in job["error"], job
    server.get("/api/jobs/log", 404, id=99999)
    server.get("/api/jobs/log", 400, id="x")
    server.ask("POST", "/api/jobs/stop", status=404, id=99999)


@test
def jobs_that_are_refused():
    count = len(server.get("/api/jobs"))
    for verb, options, word in (("ui", {}, "ui"), ("bench", {}, "bench"), ("rm", {}, "rm"), ("", {}, ""), ("label", {"conf": "2"}, "conf=2"), ("label", {"x": "1"}, "unknown option"),
                                ("label", {"--help": ""}, "unknown"), ("train", {"epochs": "many"}, "epochs"), ("label", {"existing": "eat"}, "existing")):
        assert word in server.start(verb, 400, **options), (verb, options)
    for body in ({"verb": "label", "options": []}, {"verb": "label", "options": {"verbose": True}}, {"verb": 3}, {"verb": "label", "options": {"model": "a\0b"}},
                 {"verb": "label", "options": {str(i): "1" for i in range(200)}}):
        server.ask("POST", "/api/jobs", body, 400)
    assert len(server.get("/api/jobs")) == count


def small_set(epochs=1):
    """A prepared data set, and the options of a training on it."""
    pictures("source", [f"{i}.png" for i in range(12)])
    for i in range(12):
        write(f"source/{i}.txt", "0 0.5 0.5 0.5 0.5\n")
    write("source/classes.txt", "thing\n")
    job = server.wait(server.start("prepare", source=inner("source"), out=inner("set"), val="25"))
    assert job["state"] == "done" and job["folder"] == inner("set"), job
    return {**MODEL, "data": inner("set/data.yaml"), "epochs": str(epochs), "batch": "4", "project": inner("runs"), "plots": "false", "workers": "0"}


@test
def training_with_events_stopped_and_resumed():
    options = small_set(epochs=500)
    events = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    events.sendall(f"GET /api/events?token={server.token} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
    number = server.start("train", **options)
    seen, states = b"", []
    while True:
        part = events.recv(65536)
        assert part, seen[-500:]
        seen += part
        while (end := seen.find(b"\n\n")) >= 0:
            event, seen = seen[:end], seen[end + 2:]
            if event.startswith(b"event: jobs\ndata: "):
                states.append(next((j for j in json.loads(event[18:]) if j["id"] == number), None))
        if states and states[-1] and states[-1]["folder"] and states[-1]["seconds"] > 2:
            break
    events.close()
    assert states[-1]["state"] == "running" and states[-1]["folder"].replace("\\", "/") == inner("runs/train"), states[-1]
    while not os.path.exists("runs/train/weights/last.pt"):
        time.sleep(0.1)
    server.ask("POST", "/api/jobs/stop", id=number)
    job = server.wait(number)
    assert job["state"] == "stopped" and job["stopping"] and not job["error"], job
    assert "are saved; to go on" in server.log(number)["text"]
    done = len(read("runs/train/results.csv").splitlines()) - 1
    run = server.get("/api/runs", project=inner("runs"))[0]
    assert len(run["rows"]) == done and run["weights"] and run["args"]["imgsz"] == 64
    job = server.wait(server.start("train", resume="true", model=inner("runs/train/weights/last.pt"), epochs=str(done + 1), threads="1"))
    assert job["state"] == "done" and job["folder"].replace("\\", "/").endswith("runs/train"), job
    assert len(read("runs/train/results.csv").splitlines()) - 1 == done + 1


@test
def killed_job():
    if wine:
        raise Skip("no signals under wine")
    number = server.start("train", **small_set(epochs=500))
    while not server.job(number)["folder"]:
        time.sleep(0.05)
    running = children(server.process.pid)
    assert running
    os.kill(running[-1], signal.SIGKILL)
    job = server.wait(number)
    assert job["state"] == "failed" and "signal 9" in job["error"], job
    number = server.start("train", **{**small_set(epochs=500), "name": "other"})
    while not server.job(number)["folder"]:
        time.sleep(0.05)
    server.ask("POST", "/api/jobs/stop", id=number, now="true")
    assert server.wait(number)["state"] == "stopped"
    alive()


@test
def too_many_jobs():
    options = small_set(epochs=500)
    numbers = [server.start("train", **options, name=f"n{i}", device="cpu") for i in range(8)]
    assert "8 are running" in server.start("train", 409, **options)
    for number in numbers:
        server.ask("POST", "/api/jobs/stop", id=number, now="true")
    assert all(server.wait(number)["state"] == "stopped" for number in numbers)


@test
def preview():
    pictures("in", [f"{i}.png" for i in range(5)])
    number = server.ask("POST", "/api/preview", {"model": "yolov8n.yaml", "root": inner("in"), "count": 3, "imgsz": 64})["id"]
    while (found := server.get("/api/preview", id=number))["state"] == "running":
        time.sleep(0.05)
    assert found["state"] == "done" and [p["name"] for p in found["pictures"]] == ["0.png", "1.png", "2.png"], found
    assert found["pictures"][0]["width"] == 48 and isinstance(found["pictures"][0]["boxes"], list)
    assert len(found["classes"]) == 80 and all(isinstance(name, str) for name in found["classes"])
    assert number not in [job["id"] for job in server.get("/api/jobs")] and tree("in") == [f"{i}.png" for i in range(5)]
    request = {"model": "yolov8n.yaml", "root": inner("in"), "imgsz": 64}
    numbers = [number] + [server.ask("POST", "/api/preview", request)["id"] for _ in range(12)] # more than may run: a new one ends those before it
    while server.get("/api/preview", id=numbers[-1])["state"] == "running":
        time.sleep(0.05)
    server.get("/api/preview", 404, id=number)
    server.ask("POST", "/api/preview", {"model": "yolov8n.yaml", "root": inner("in"), "iou": 7}, 400)
    server.get("/api/preview", 404, id=number + 1000)


@test
def plan():
    options = small_set()
    plan = server.ask("POST", "/api/plan", {**options, "imgsz": 64})
    assert plan["fit"]["batch"] > 8 and plan["fit"]["imgsz"] == 64 and plan["fit"]["memory"] > 1e8 and plan["advice"].endswith(f"up to {plan['fit']['batch']}"), plan
    plan = server.ask("POST", "/api/plan", {**options, "data": inner("none.yaml")})
    assert plan["fit"] is None and plan["advice"] == "" and "none.yaml" in plan["reason"], plan
    server.ask("POST", "/api/plan", {"epochs": "x"}, 400)
    assert not os.path.exists("runs") and server.get("/api/about")["plan"]


def start_and_save(options):
    """A training that has saved its state for the first time; its number."""
    number = server.start("train", **options)
    while not os.path.exists("runs/train/weights/last.pt"):
        time.sleep(0.1)
    return number


@test
def ctrl_c_saves_what_runs():
    if wine:
        raise Skip("no signals under wine")
    global server
    options, other, before = small_set(epochs=500), Server(), server
    server = other
    try:
        number = start_and_save(options)
        status, said = server.stop()
        assert status == 0 and "saved its state" in said, (status, said)
        done = len(read("runs/train/results.csv").splitlines()) - 1
    finally:
        server.close()
        server = before
    job = server.wait(server.start("train", resume="true", model=inner("runs/train/weights/last.pt"), epochs=str(done + 1), threads="1"))
    assert job["state"] == "done", (number, job)


def ends(other, running=()):
    """The program has ended by itself: its status is 0, and neither its port nor a process of it is left."""
    assert other.process.wait(30) == 0
    with socket.socket() as s:
        assert s.connect_ex(("127.0.0.1", other.port))
    for pid in running:
        assert not os.path.exists(f"/proc/{pid}")


@test
def ends_at_once_where_nothing_runs():
    global server
    other, before = Server(), server
    server = other
    try:
        events = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        events.sendall(f"GET /api/events?token={server.token} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
        server.ask("POST", "/api/end", status=403, token="0" * 32)
        server.ask("GET", "/api/end", status=405)
        alive()
        assert server.ask("POST", "/api/end") == {}
        said = b""
        while part := events.recv(65536):
            said += part
        assert said.endswith(b"event: end\ndata: {}\n\n"), said[-200:]
        events.close()
        ends(other)
    finally:
        server.close()
        server = before


@test
def ends_with_what_runs_only_when_told():
    """A running training keeps the program, unless it may be stopped: then its state is saved first."""
    global server
    options, other, before = small_set(epochs=500), Server(), server
    server = other
    try:
        number = start_and_save(options)
        running = [] if wine else children(server.process.pid)
        assert "1 still running" in server.ask("POST", "/api/end", status=409)
        assert server.job(number)["state"] == "running" and not server.job(number)["stopping"]
        assert server.ask("POST", "/api/end", stop="true") == {}
        ends(other, running)
        done = len(read("runs/train/results.csv").splitlines()) - 1
    finally:
        server.close()
        server = before
    job = server.wait(server.start("train", resume="true", model=inner("runs/train/weights/last.pt"), epochs=str(done + 1), threads="1"))
    assert job["state"] == "done", (number, job)


@test
def training_outlives_a_killed_server():
    if wine:
        raise Skip("no signals under wine")
    global server
    options, other, before = small_set(epochs=4), Server(), server
    server = other
    try:
        server.start("train", **options)
        while not os.path.exists("runs/train/args.yaml"):
            time.sleep(0.05)
    finally:
        server.close()
        server = before
    until = time.time() + 60
    while not os.path.exists("runs/train/results.csv") or len(read("runs/train/results.csv").splitlines()) < 5:
        assert time.time() < until
        time.sleep(0.1)


# ---- attacks


@test
def foreign_requests():
    path = "/api/jobs"
    for token in ("", "0" * 32, server.token[:-1], server.token + "0", server.token.upper() if server.token.upper() != server.token else "x"):
        assert "key of the page" in server.ask("GET", path, status=403, token=token)
        server.ask("POST", path, {"verb": "label", "options": {}}, 403, token=token)
        server.ask("GET", f"/api/jobs?token={token}", status=403, token="")
    for host in ("example.com", f"example.com:{server.port}", "127.0.0.1", f"127.0.0.1:{server.port + 1}", f"127.0.0.1.example.com:{server.port}", f"[::1]:{server.port}", ""):
        server.ask("GET", path, status=400 if host == "x" else 421, headers={"Host": host})
    for origin in ("http://example.com", "null", f"https://127.0.0.1:{server.port}", f"http://127.0.0.1:{server.port}.example.com", f"http://127.0.0.1:{server.port + 1}"):
        server.ask("GET", path, status=403, headers={"Origin": origin})
    server.ask("GET", path, headers={"Origin": f"http://127.0.0.1:{server.port}", "Sec-Fetch-Site": "same-origin"})
    server.ask("GET", path, status=403, headers={"Sec-Fetch-Site": "cross-site"})
    server.ask("GET", path, status=403, headers={"Sec-Fetch-Site": "same-site"})
    server.get("/none", 404)
    server.get("/api/jobs/../jobs", 404)
    server.ask("PUT", "/", {}, 405)
    with socket.socket() as other: # nothing of another address
        address = next((info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET) if not info[4][0].startswith("127.")), None)
        if address:
            other.settimeout(2)
            assert other.connect_ex((address, server.port)) != 0


@test
def broken_requests():
    head = server.head()
    for data, status in (
        (b"GET / HTTP/1.1\r\n\r\n", 400), (b"\r\n\r\n", 400), (b"GET /\r\n\r\n", 400), (b"GET / HTTP/2.0\r\n" + head + b"\r\n", 505), (b"BREW / HTTP/1.1\r\n" + head + b"\r\n", 405),
        (b"GET /%zz HTTP/1.1\r\n" + head + b"\r\n", 400), (b"GET /%00 HTTP/1.1\r\n" + head + b"\r\n", 400), (b"GET /a\0b HTTP/1.1\r\n" + head + b"\r\n", 400),
        (b"GET /%ff HTTP/1.1\r\n" + head + b"\r\n", 400), (b"GET /#x HTTP/1.1\r\n" + head + b"\r\n", 400), (b"GET http://127.0.0.1/ HTTP/1.1\r\n" + head + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + head + b"Host: 127.0.0.1\r\n\r\n", 400), (b"GET / HTTP/1.1\r\n" + head + b"no colon\r\n\r\n", 400), (b"GET / HTTP/1.1\r\n" + head + b"a b: c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + head + b" folded: x\r\n\r\n", 400), (b"GET / HTTP/1.1\r\n" + head + b"X: a\x01b\r\n\r\n", 400),
        (b"POST /api/jobs HTTP/1.1\r\n" + head + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501), (b"POST /api/jobs HTTP/1.1\r\n" + head + b"Content-Length: -1\r\n\r\n", 400),
        (b"POST /api/jobs HTTP/1.1\r\n" + head + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400), (b"POST /api/jobs HTTP/1.1\r\n" + head + b"Content-Length: 0x10\r\n\r\n", 400),
        (b"POST /api/jobs HTTP/1.1\r\n" + head + b"Content-Length: 99999999999999999999\r\n\r\n", 400), (b"GET /?" + b"&".join(b"a=b" for _ in range(40)) + b" HTTP/1.1\r\n" + head + b"\r\n", 400),
        (b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n" + head + b"\r\n", 431), (b"GET / HTTP/1.1\r\n" + head + b"X: " + b"b" * 20000 + b"\r\n\r\n", 431), (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n", 400),
    ):
        answer = server.raw(data)
        assert status_of(answer) == status, (data[:80], answer[:200], status)
    alive()


@test
def pipelined_requests():
    one = b"GET /api/jobs HTTP/1.1\r\n" + server.head() + b"\r\n"
    last = b"GET /none HTTP/1.1\r\n" + server.head(Connection="close") + b"\r\n"
    put = b"PUT /api/settings HTTP/1.1\r\n" + server.head(**{"Content-Length": 2}) + b"\r\n{}"
    answer = server.raw(one * 30 + put + one + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 32 and answer.count(b"HTTP/1.1 404") == 1, answer[-300:]
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as s: # a byte at a time
        for byte in one[:-1]:
            s.sendall(bytes([byte]))
        time.sleep(0.05)
        s.sendall(one[-1:])
        assert s.recv(100).startswith(b"HTTP/1.1 200 OK")


@test
def large_body():
    size = 100 << 20
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as s:
        s.sendall(b"PUT /api/settings HTTP/1.1\r\n" + server.head(**{"Content-Length": size}) + b"\r\n")
        sent, part = 0, b" " * (1 << 20)
        try:
            while sent < size:
                s.sendall(part)
                sent += len(part)
        except OSError:
            pass
        try:
            answer = s.recv(1000)
        except OSError:
            answer = b""
    assert not answer or status_of(answer) == 413, answer
    assert sent < size or answer
    assert status_of(server.raw(b"PUT /api/settings HTTP/1.1\r\n" + server.head(**{"Content-Length": size}) + b"\r\n")) == 413
    body = b'{"a":"' + b"x" * ((1 << 20) - 8) + b'"}'
    assert status_of(server.raw(b"PUT /api/settings HTTP/1.0\r\n" + server.head(**{"Content-Length": len(body)}) + b"\r\n" + body)) == 400
    alive()


def connections(count):
    for i in range(count):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as s:
            if i % 4 == 0:
                s.sendall(b"GET /api/jobs HTTP/1.1\r\n" + server.head(Connection="close") + b"\r\n")
                answer = s.recv(100)
                assert status_of(answer) in (200, 503), answer
            elif i % 4 == 1:
                s.sendall(b"GET /api/")
            elif i % 4 == 2:
                s.sendall(b"\0" * 10 + b"\n\n")
    until = time.time() + 20
    while True:
        try:
            return alive()
        except (AssertionError, OSError):
            assert time.time() < until
            time.sleep(0.2)


@test
def connections_one_after_the_other():
    connections(500)


@long_test
def ten_thousand_connections():
    connections(10000)


@long_test
def half_open_connections():
    """More than there is room for: who comes too late is told so, and those that say nothing do not hold the others up for ever."""
    held = []
    try:
        for i in range(80):
            s = socket.create_connection(("127.0.0.1", server.port), timeout=20)
            if i != 1: # which says nothing at all
                s.sendall(b"GET /api/jobs HTTP/1.1\r\nHost: 1")
            held.append(s)
        answers = []
        for s in held[64:]:
            try:
                answers.append(status_of(s.recv(200)))
            except OSError:
                answers.append(0)
        assert set(answers) <= {503, 0} and 503 in answers, answers
        start = time.time()
        assert status_of(held[0].recv(200)) == 408 and 5 < time.time() - start < 15
        assert held[1].recv(200) == b"" and time.time() - start < 15
    finally:
        for s in held:
            s.close()
    until = time.time() + 5
    while True:
        try:
            return alive()
        except (AssertionError, OSError):
            assert time.time() < until
            time.sleep(0.1)


@long_test
def slow_reader():
    """Who takes nothing of an answer is let go."""
    write("p/large.png", png(3000, 3000, 3) + b"\0" * (30 << 20))
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.connect(("127.0.0.1", server.port))
    s.sendall(b"GET /api/picture?root=" + urllib.parse.quote(inner("p")).encode() + b"&name=large.png HTTP/1.1\r\n" + server.head() + b"\r\n")
    time.sleep(14)
    s.settimeout(5)
    taken = 0
    try:
        while part := s.recv(1 << 20):
            taken += len(part)
    except OSError:
        pass
    s.close()
    assert taken < 30 << 20
    alive()


@test
def training_goes_on_under_attack():
    number = server.start("train", **small_set(epochs=500))
    while not server.job(number)["folder"]:
        time.sleep(0.05)
    connections(100)
    threads = [threading.Thread(target=server.raw, args=(os.urandom(5000) + b"\n\n", 3)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.job(number)["state"] == "running"
    server.ask("POST", "/api/jobs/stop", id=number, now="true")
    server.wait(number)


# ---- at rest


@test
def rests():
    if sys.platform != "linux" or wine:
        raise Skip("read from /proc")
    fresh = Server()
    fresh.get("/api/about")
    fresh.get("/api/jobs")
    events = socket.create_connection(("127.0.0.1", fresh.port))
    events.sendall(f"GET /api/events?token={fresh.token} HTTP/1.1\r\nHost: 127.0.0.1:{fresh.port}\r\n\r\n".encode())

    def cpu():
        words = read(f"/proc/{fresh.process.pid}/stat").decode().rsplit(")", 1)[1].split()
        return int(words[11]) + int(words[12])

    time.sleep(0.5)
    before = cpu()
    time.sleep(3)
    assert cpu() - before <= 1, cpu() - before
    memory = {}
    for which in (fresh, server):
        memory[which.port] = int(re.search(r"VmRSS:\s+(\d+) kB", read(f"/proc/{which.process.pid}/status").decode()).group(1))
    events.close()
    handles = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    status, _ = fresh.stop()
    fresh.close()
    assert status == 0 and all(kilobytes < 20 << 10 for kilobytes in memory.values()), memory
    assert handles < 20, handles
    print(f"     at rest: {memory[fresh.port]} kB, after all tests before this {memory[server.port]} kB, {handles} handles")


@test
def wrong_start():
    done = subprocess.run(command + ["ui", f"port={server.port}", "browser=false"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    assert done.returncode == 1 and b"cannot listen at 127.0.0.1" in done.stderr and b"port=0" in done.stderr, done.stderr
    done = subprocess.run(command + ["ui", "port=99999"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    assert done.returncode == 2, done.stderr


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
        trace = failure.__traceback__
        while trace.tb_next and trace.tb_next.tb_frame.f_code.co_filename == __file__ and trace.tb_next.tb_frame.f_code.co_name == function.__name__:
            trace = trace.tb_next
        verdict, why = "FAIL", f" line {trace.tb_lineno}" + "".join("\n    " + line for line in f"{type(failure).__name__}: {failure}".splitlines()[:30])
    os.chdir(scratch)
    shutil.rmtree(folder, ignore_errors=True)
    print(f"{verdict:4} {function.__name__:42} {time.time() - start:6.2f} s {why}", flush=True)
    return verdict


if __name__ == "__main__":
    arguments = [word for word in sys.argv[1:] if word != "--long"]
    command = [os.path.abspath(w) if os.path.exists(w) and os.sep in w else w for w in shlex.split(arguments[0] if arguments else os.path.join(ROOT, "yolo"))]
    wine = "wine" in os.path.basename(command[0])
    scratch = tempfile.mkdtemp(prefix="yolo-page-")
    home = os.path.join(scratch, KOREAN)
    os.makedirs(home)
    program = command[-1] = shutil.copy(command[-1], os.path.join(home, "yolo")) # its config.json lies beside it: not beside the one that was built
    server = Server(cwd=home)
    wanted = [t for t in tests if ("--long" in sys.argv or not hasattr(t, "long")) and (not arguments[1:] or any(t.__name__.startswith(n) for n in arguments[1:]))]
    verdicts = [run_one(t) for t in wanted]
    if not wine:
        status, said = server.stop()
        verdicts.append("FAIL" if status else "ok")
        print(f"{verdicts[-1]:4} ends when asked to, with status {status}: {said.strip()}")
    server.close()
    os.chdir("/")
    shutil.rmtree(scratch, ignore_errors=True)
    print(f"{verdicts.count('ok')} passed, {verdicts.count('FAIL')} failed, {verdicts.count('skip')} skipped")
    sys.exit(1 if "FAIL" in verdicts or not verdicts.count("ok") else 0)
