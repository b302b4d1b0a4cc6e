#!/usr/bin/env python3
"""The page of `yolo ui`, used as a person uses it: a real executable, a real Chromium, driven by Playwright.

usage: page_test.py EXECUTABLE [--page ui.html] [--until NAME]
    --page   serve this file instead of the page in the executable: to try a change without building
    --until  the name of the last test to run

Needs Debian's chromium and the package playwright (PyPI). Pictures of each state, in both languages, go to build/page.
The tests follow each other as a person's day does: each begins where the last one ended, so the first failure ends it. Any error on the console, and any
request to another machine, fails all of it."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

from ui_test import children

try:
    from playwright.sync_api import expect, sync_playwright
except ImportError:
    print("playwright is not installed")
    sys.exit(77)

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
SHOTS = os.path.join(ROOT, "build", "page")
LIMIT = 150000
CHROMIUM = "/usr/bin/chromium"
POLICY = ("default-src 'none'; img-src 'self' data: blob:; connect-src 'self'; style-src 'unsafe-inline'; script-src 'nonce-test'; "
          "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


class Day:
    """A server with its folder, a browser with its page, and what went wrong."""

    def __init__(self, playwright, executable, page_file):
        self.folder = tempfile.mkdtemp(prefix="yolo-page-")
        self.executable = shutil.copy(os.path.abspath(executable), self.folder)
        self.page_file = page_file
        self.faults, self.hosts = [], set()
        self.make_pictures()
        self.server = subprocess.Popen([self.executable, "ui", "browser=false"], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.address = self.server.stdout.readline().strip()
        self.token = self.address.rpartition("=")[2]
        self.base = self.address.partition("/?")[0]
        self.browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        self.page = self.new_page("en-US")

    def make_pictures(self):
        """Drawn, labelled pictures in a folder with a Korean name, and new ones without labels."""
        subprocess.run([self.executable, "demo", "out=demo", "pictures=32", "epochs=0"], cwd=self.folder, check=True, capture_output=True)
        self.labelled, self.new = os.path.join(self.folder, "도형 사진"), os.path.join(self.folder, "새 사진")
        shutil.move(os.path.join(self.folder, "demo", "drawn"), self.labelled)
        shutil.copy(os.path.join(self.folder, "demo", "set", "classes.txt"), self.labelled)
        held_out = os.path.join(self.folder, "demo", "held-out")
        os.mkdir(self.new)
        for name in os.listdir(held_out):
            if name.endswith(".jpg"):
                shutil.copy(os.path.join(held_out, name), self.new)
        shutil.copy(os.path.join(ROOT, "weights", "shapes.pt"), self.folder)

    def new_page(self, locale, **more):
        context = self.browser.new_context(viewport={"width": 1280, "height": 900}, locale=locale, **more)
        context.set_default_timeout(20000)
        page = context.new_page()
        page.on("console", lambda message: message.type in ("error", "warning") and self.faults.append("console: " + message.text))
        page.on("pageerror", lambda error: self.faults.append("script: " + str(error)))
        page.on("request", lambda request: self.hosts.add(re.sub(r"^(\w+://[^/]*).*", r"\1", request.url[:200])))
        if self.page_file:
            page.route(re.compile(r"^http://127\.0\.0\.1:\d+/(\?.*)?$"), self.serve_file)
        return page

    def serve_file(self, route):
        with open(self.page_file, encoding="utf-8") as file:
            route.fulfill(status=200, content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": POLICY}, body=file.read().replace("@NONCE@", "test"))

    def api(self, path, put=None):
        body = None if put is None else json.dumps(put).encode()
        request = urllib.request.Request(self.base + "/api/" + path, body, {"X-Yolo-Token": self.token}, method="PUT" if body else "GET")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def shot(self, name, page=None, languages=("en", "ko")):
        """A picture of the state in each language; the page is in English again afterwards."""
        page = page or self.page
        os.makedirs(SHOTS, exist_ok=True)
        for language in languages:
            if page.evaluate("language()") != language:
                page.evaluate("chooseLanguage(%s)" % json.dumps(language))
                page.wait_for_timeout(300)
            page.screenshot(path=os.path.join(SHOTS, f"{name}-{language}.png"))
        if page.evaluate("language()") != "en":
            page.evaluate("chooseLanguage('en')")
            page.wait_for_timeout(150)

    def wait(self, what, condition, seconds=60):
        """Waits for something outside of the page."""
        end = time.monotonic() + seconds
        while not (result := condition()):
            assert time.monotonic() < end, f"waited {seconds} s for {what}"
            time.sleep(0.1)
        return result

    def wait_for_job(self, verb, state="done"):
        return self.wait(f"{verb} to be {state}", lambda: next((job for job in self.api("jobs")[::-1] if job["verb"] == verb and job["state"] == state), None), 120)

    def close(self):
        self.browser.close()
        self.server.terminate()  # it has ended by itself where all tests were run
        self.server.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)


def wait_in(page, expression, seconds=20):
    """Waits until an expression of the page's script is true. (Playwright's own way needs eval, which the page's policy forbids.)"""
    end = time.monotonic() + seconds
    while not page.evaluate(f"!!({expression})"):
        assert time.monotonic() < end, f"waited {seconds} s for {expression}"
        page.wait_for_timeout(50)


# ---- the page as it is delivered


def test_page_file(day):
    with open(day.page_file or os.path.join(ROOT, "ui.html"), encoding="utf-8") as file:
        page = file.read()
    assert len(page.encode()) <= LIMIT, f"the page has {len(page.encode())} bytes, more than {LIMIT}"
    links = set(re.findall(r"\b(?:src|href|url|@import)\s*[=(]\s*[\"']?(https?:[^\"')\s]+)", page))
    assert not links, f"the page loads {links}"


def test_texts(day):
    """Each text is there in both languages, and each text that is asked for is there."""
    with open(day.page_file or os.path.join(ROOT, "ui.html"), encoding="utf-8") as file:
        page = file.read()
    table = page[page.index("const TEXTS = readTable(`"):page.index("const OPTIONS =")]
    rows = {row.split(" | ")[0]: row.split(" | ")[1:] for row in table.split("\n")[1:] if " | " in row}
    for key, row in rows.items():
        assert len(row) == 2, f"{key} has not two texts"
        english, korean = row
        assert english and korean, f"{key} has a language without a text"
        assert set(re.findall(r"\{\d\}", english)) == set(re.findall(r"\{\d\}", korean)), f"{key} differs in what is put in"
    asked = set(re.findall(r'(?:say|button|tool|meterOf|data-text=|data-label=)\(?"([a-z][\w.]*[a-z])"', page))
    assert asked <= set(rows), f"no text for {sorted(asked - set(rows))}"
    beginnings = tuple(re.findall(r'"([a-z.]+\.)" \+ ', page))
    idle = {key for key in rows if not key.startswith(beginnings) and page.count(f'"{key}"') < 1}
    assert not idle, f"nothing says {sorted(idle)}"


def test_opens(day):
    day.page.goto(day.address)
    expect(day.page.get_by_role("tab", name="Training")).to_have_attribute("aria-selected", "true")
    expect(day.page.locator("#start-training")).to_be_visible()
    assert "token" not in day.page.url, "the token stays in the address bar"
    paints = []
    for _ in range(5):
        paints.append(day.page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        day.page.reload()
        expect(day.page.locator("#start-training")).to_be_visible()
    print(f"       first paint after {min(paints):.0f} to {max(paints):.0f} ms")
    assert min(paints) < 300, "the first paint takes longer than 300 ms, five times in a row"
    day.shot("1-open")


def test_says_messages(day):
    """What the program says is Korean where it is known, and stays as it is where not."""
    said = day.page.evaluate("""() => { state.settings.language = "ko"; const said = ["a b/c: no such folder, expected one with pictures", "a: cannot open: No such file or directory",
        "epochs=x: expected a whole number", "8 pictures: 7 labelled, 1 empty, 0 skipped, 0 damaged; 0.1 s, 80 img/s", "something else",
        "warning: val has 23 of 128 pictures: 18.0 % (20 % asked; each picture is drawn by itself, so that none ever moves)",
        "rank 1 of 2: a: damaged picture data: no SOI"].map(message => sayMessage(message)); state.settings.language = "en"; return said; }""")
    assert said == ["폴더가 없습니다. 이미지가 있는 폴더를 지정하세요: a b/c", "열 수 없습니다: a (파일이나 폴더가 없음)", "epochs=x: 올바른 값이 아닙니다 (정수)",
                    "이미지 8장: 라벨 7, 박스 없음 1, 건너뜀 0, 손상 0; 0.1 s, 80 img/s", "something else",
                    "경고: 검증 이미지 128장 중 23장: 18.0 % (요청 20 %; 이미지마다 따로 뽑으므로 다음 실행에서도 옮겨지지 않습니다)",
                    "랭크 1 (전체 2개): a: 이미지 데이터가 손상되었습니다: no SOI"], said


def check_options(day, table):
    """Every option of these verbs has a Korean name and help, and a field in a form that is there."""
    missing = day.page.evaluate(f"""() => Object.entries({table}).flatMap(([verb, hidden]) => state.about.verbs[verb].filter(option => !hidden.includes(option.name) &&
        !(optionText(verb, option.name)[2] && document.querySelector("[id^='" + idOf(verb, option.name) + "']"))).map(option => verb + "." + option.name))""")
    assert not missing, f"without a text or a field: {missing}"


def test_says_all_options(day):
    check_options(day, "{prepare: [], train: TRAIN_HIDDEN}")


# ---- training


def test_picks_a_korean_folder(day):
    page = day.page
    page.get_by_label("Browse for Folder of pictures").click()
    page.get_by_role("button", name=re.compile("Working folder")).click()
    expect(page.get_by_role("button", name="도형 사진")).to_be_visible()
    day.shot("2-picker", languages=("en",))
    page.get_by_role("button", name="도형 사진").click()
    expect(page.get_by_text("32 pictures")).to_be_visible()
    page.get_by_role("button", name="Choose", exact=True).click()
    expect(page.locator("#field-prepare-source")).to_have_value(day.labelled)
    expect(page.locator("#field-prepare-out")).to_have_value(day.labelled + "-prepared")


def test_prepares(day):
    day.page.click("#start-training")
    expect(day.page.locator(".toast.bad")).to_have_text(re.compile("Prepare the data first"))
    day.page.locator(".toast.bad button").click()
    day.page.click("#prepare")
    day.wait_for_job("prepare")
    expect(day.page.locator("#prepared")).to_contain_text("data.yaml")
    assert os.path.exists(os.path.join(day.labelled + "-prepared", "data.yaml"))
    day.shot("3-prepared")


def test_refuses_wrong_numbers(day):
    page = day.page
    page.fill("#field-train-epochs", "many")
    expect(page.locator("#field-train-epochs-wrong")).to_have_text(re.compile("whole number"))
    page.click("#start-training")
    expect(page.locator(".toast.bad")).to_be_visible()
    assert not any(job["verb"] == "train" for job in day.api("jobs"))
    page.locator(".toast.bad button").click()


def test_trains_two_epochs(day):
    page = day.page
    page.fill("#field-train-epochs", "2")
    page.fill("#field-train-imgsz", "64")
    page.fill("#field-train-batch", "8")
    page.click("#start-training")
    expect(page.locator("#panel-train .chip")).to_have_text("done", timeout=90000)
    expect(page.locator("#panel-train .chart polyline")).to_have_count(8)
    expect(page.locator("#panel-train .plots button")).not_to_have_count(0)
    expect(page.locator("#panel-train pre.log")).to_contain_text("Results saved")
    day.shot("4-trained")
    page.get_by_role("button", name="results.png").click()
    expect(page.locator("dialog img")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)


def test_stops_and_resumes(day):
    page = day.page
    page.fill("#field-train-epochs", "300")
    page.click("#start-training")
    expect(page.locator("#panel-train .chip")).to_have_text("running")
    expect(page.locator("#panel-train .chart polyline").first).to_be_visible(timeout=60000)
    day.shot("5-training")
    before = page.locator("#panel-train pre.log").inner_text()
    page.wait_for_timeout(700)  # settings are written once they rest
    page.reload()
    expect(page.locator("#panel-train .chip")).to_have_text("running")
    expect(page.locator("#panel-train .chart polyline").first).to_be_visible()
    expect(page.locator("#field-train-epochs")).to_have_value("300")
    assert page.locator("#panel-train pre.log").inner_text().startswith(before[:2000]), "the log is another one after the reload"
    page.locator("#panel-train").get_by_role("button", name="Stop", exact=True).click()
    page.locator("dialog").get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#panel-train .chip")).to_have_text("stopped", timeout=60000)
    day.shot("6-stopped")
    run = next(run for run in day.api("runs?project=runs/detect") if run["folder"] == day.wait_for_job("train", "stopped")["folder"])
    done = len(run["rows"])
    page.get_by_role("button", name="Resume", exact=True).click()
    page.fill("#resume-epochs", str(done + 2))
    page.locator("dialog").get_by_role("button", name="Resume", exact=True).click()
    expect(page.locator("#panel-train .chip")).to_have_text("done", timeout=60000)
    run = next(r for r in day.api("runs?project=runs/detect") if r["folder"] == run["folder"])
    assert len(run["rows"]) == done + 2, f"{len(run['rows'])} epochs after {done} + 2"


def test_compares_runs(day):
    page = day.page
    page.get_by_role("tab", name="Runs").click()
    expect(page.locator("#panel-runs tbody input[type=checkbox]")).to_have_count(2)
    page.select_option("#metric", "train/box_loss")
    expect(page.locator("#panel-runs .chart").first.locator("polyline")).to_have_count(2)
    day.shot("7-runs")


# ---- labelling


def test_offers_the_result(day):
    page = day.page
    page.get_by_role("tab", name="Auto-Labeling").click()
    check_options(day, "{label: LABEL_HIDDEN}")
    assert page.input_value("#field-label-model").endswith("best.pt")
    page.fill("#field-label-model", os.path.join(day.folder, "shapes.pt"))
    page.fill("#field-label-source", day.new)
    page.fill("#field-label-imgsz", "160")


def visible_boxes(page):
    return page.evaluate("[...document.querySelectorAll('.previews rect')].filter(rect => rect.style.display !== 'none').length")


def test_preview_follows_the_slider(day):
    page = day.page
    page.click("#preview")
    expect(page.locator(".previews figure")).to_have_count(8, timeout=60000)
    expect(page.locator("#preview")).to_be_enabled(timeout=60000)
    before = visible_boxes(page)
    took = page.evaluate("""() => { const slider = byId("field-label-conf-slider"), start = performance.now();
        slider.value = 0.8; slider.dispatchEvent(new Event("input", {bubbles: true})); return performance.now() - start; }""")
    after = visible_boxes(page)
    assert 0 < after < before, f"{before} boxes at 0.25, {after} at 0.8"
    assert took < 50, f"the slider took {took:.0f} ms"
    assert page.input_value("#field-label-conf") == "0.8"
    page.locator("#field-label-conf-slider").focus()
    page.keyboard.press("Home")
    assert visible_boxes(page) > before, "the keyboard does not move the slider"
    page.fill("#field-label-conf", "0.25")
    assert visible_boxes(page) == before
    day.shot("8-preview")


def test_thresholds_of_classes(day):
    """A class with a threshold of its own leaves the others as they are, and the program is told by name."""
    page = day.page
    page.get_by_text("Thresholds by class").click()
    before = visible_boxes(page)
    page.get_by_label("star", exact=True).last.fill("0.95")
    assert 0 < visible_boxes(page) < before
    assert page.evaluate("valueOf('label', 'class_conf')") == "star:0.95"
    day.shot("8-thresholds", languages=("ko",))
    page.get_by_label("star", exact=True).last.fill("")
    assert visible_boxes(page) == before and page.evaluate("valueOf('label', 'class_conf')") == ""
    page.get_by_text("Thresholds by class").click()


def test_labels(day):
    page = day.page
    page.select_option("#field-label-existing", "replace")
    page.click("#start-labelling")
    expect(page.locator("#panel-label .chip").first).to_have_text("done", timeout=60000)
    expect(page.get_by_text(re.compile("8 pictures: 8 labelled"))).not_to_have_count(0)
    assert len([name for name in os.listdir(day.new) if re.fullmatch(r"\d+\.txt", name)]) == 8
    day.shot("9-labelled")


# ---- review


def label_file(day, name):
    with open(os.path.join(day.new, os.path.splitext(name)[0] + ".txt"), encoding="utf-8") as file:
        return [[float(x) for x in line.split()] for line in file]


def on_picture(page, x, y):
    """A place of the picture, in shares of its sides, on the screen."""
    corner = page.locator(".stage canvas").bounding_box()
    view = page.evaluate("({...review.editor.view, width: review.editor.width, height: review.editor.height})")
    return corner["x"] + view["x"] + x * view["width"] * view["scale"], corner["y"] + view["y"] + y * view["height"] * view["scale"]


def drag(page, start, end):
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    page.mouse.move(*end)
    page.mouse.up()


def settled(page):
    wait_in(page, "review.item && !review.editor.dirty")
    page.wait_for_timeout(100)


def test_review_opens(day):
    page = day.page
    page.locator("#panel-label").get_by_role("button", name="Review these").click()
    wait_in(page, "review.item")
    expect(page.locator(".thumbs .item img").first).to_be_visible()
    day.shot("10-review")
    wait_in(page, "review.item")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Accept all")
    day.shot("11-keys", languages=("en",))
    page.keyboard.press("Escape")


def test_corrects_a_box(day):
    """Moves a box with the mouse, draws one, deletes one, and finds all of it in the file."""
    page = day.page
    wait_in(page, "review.item && review.editor.boxes.length")
    page.locator(".stage canvas").focus()
    name, boxes = page.evaluate("[review.item.name, review.editor.boxes]")
    before = label_file(day, name)
    page.locator(".boxes li").first.click()
    box = boxes[0]
    middle = ((box["left"] + box["right"]) / 2, (box["top"] + box["bottom"]) / 2)
    dx = 0.05 if box["right"] < 0.9 else -0.05
    drag(page, on_picture(page, *middle), on_picture(page, middle[0] + dx, middle[1]))
    expect(page.locator("#panel-review .chip")).to_have_text("not saved")
    page.keyboard.press("Control+s")
    expect(page.locator("#panel-review .chip")).to_have_text("checked by a person")
    after = label_file(day, name)
    assert abs(after[0][1] - before[0][1] - dx) < 0.01 and after[1:] == before[1:], f"{before[0]} became {after[0]}"
    page.keyboard.press("w")
    drag(page, on_picture(page, 0.02, 0.02), on_picture(page, 0.2, 0.3))
    page.keyboard.press("3")
    page.keyboard.press("Control+s")
    settled(page)
    drawn = label_file(day, name)[-1]
    assert len(label_file(day, name)) == len(before) + 1 and drawn[0] == 2 and abs(drawn[3] - 0.18) < 0.01, f"drawn: {drawn}"
    page.keyboard.press("Delete")
    page.keyboard.press("Control+s")
    settled(page)
    assert len(label_file(day, name)) == len(before)
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+s")
    settled(page)
    assert label_file(day, name)[-1] == drawn, "undo does not bring the box back"
    day.corrected = name
    day.shot("12-corrected", languages=("en",))


def test_resizes_and_draws_by_keyboard(day):
    page = day.page
    page.keyboard.press("d")
    wait_in(page, f"review.item && review.item.name !== {json.dumps(day.corrected)}")
    page.locator(".stage canvas").focus()
    count = page.evaluate("review.editor.boxes.length")
    page.keyboard.press("w")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Alt+Shift+ArrowDown")
    assert page.evaluate("review.editor.boxes.length") == count + 1
    width, height, w, h = page.evaluate("(b => [review.editor.width, review.editor.height, b.right - b.left, b.bottom - b.top])(review.editor.boxes.at(-1))")
    assert abs(w - 0.25) < 1e-6 and abs(h - 0.25 - 10 / height) < 1e-6
    corner = page.evaluate("(b => [b.right, b.bottom])(review.editor.boxes.at(-1))")
    drag(page, on_picture(page, *corner), on_picture(page, corner[0] - 0.1, corner[1] - 0.1))
    assert abs(page.evaluate("(b => b.right)(review.editor.boxes.at(-1))") - corner[0] + 0.1) < 0.02
    page.keyboard.press("Tab")
    page.keyboard.press("Control+d")
    page.keyboard.press("a")
    wait_in(page, f"review.item.name === {json.dumps(day.corrected)}")
    assert page.evaluate("review.editor.boxes.length") == len(label_file(day, day.corrected)), "leaving a picture did not keep its boxes"
    page.keyboard.press(" ")
    wait_in(page, f"review.item.name !== {json.dumps(day.corrected)}")
    for key in ("+", "+", "0", "h", "h"):
        page.keyboard.press(key)


def test_korean_keyboard(day):
    """With a Korean input method the letters' keys give syllables: the keys work all the same."""
    day.page.evaluate("goTo(0)")
    wait_in(day.page, "review.item === itemAt(review.list, 0)")
    day.page.evaluate("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'ㅇ', code: 'KeyD', bubbles: true}))")
    wait_in(day.page, "review.list.index === 1")


def test_undoes_the_run(day):
    page = day.page
    page.get_by_role("tab", name="Auto-Labeling").click()
    page.locator("#panel-label tbody button").first.click()
    page.locator("dialog").get_by_role("button", name="Undo", exact=True).click()
    page.locator("dialog").wait_for(state="detached")
    day.wait("the labels to go", lambda: len([name for name in os.listdir(day.new) if re.fullmatch(r"\d+\.txt", name)]) < 8)
    day.wait("the undo to end", lambda: all(job["state"] != "running" for job in day.api("jobs")))
    left = [name for name in os.listdir(day.new) if re.fullmatch(r"\d+\.txt", name)]
    assert os.path.splitext(day.corrected)[0] + ".txt" in left and len(left) < 8, f"left after undo: {left}"
    day.shot("13-undone", languages=("en",))


def test_keeps_all_over_a_reload(day):
    page = day.page
    page.get_by_role("tab", name="Review").click()
    wait_in(page, "review.item")
    page.wait_for_timeout(700)
    name = page.evaluate("review.item.name")
    page.reload()
    wait_in(page, "review.item")
    assert page.evaluate("review.item.name") == name
    assert page.input_value("#review-root") == day.new


# ---- many pictures, many GPUs, small windows


def test_ten_thousand_pictures(day):
    """The list of the review with 10,000 pictures: what is not in view is not asked for, scrolling and the next picture stay fluid."""
    day.page.evaluate("writeSettings()")  # now, not in a moment: it would replace this page's
    page, many, settings = day.new_page("en-US"), os.path.join(day.folder, "many"), day.api("settings")
    os.mkdir(many)
    picture = os.path.join(day.new, "00032.jpg")
    for i in range(10000):
        os.link(picture, os.path.join(many, f"p{i:05}.jpg"))
    asked = {"pictures": 0, "thumbnails": 0}

    def count(request):
        asked["pictures"] += int(re.search(r"count=(\d+)", request.url)[1]) if "/api/pictures?" in request.url else 0
        asked["thumbnails"] += "side=168" in request.url

    page.on("request", count)
    day.api("settings", {"tab": "review", "review": {"root": many, "out": "", "order": "unsure", "name": ""}})
    page.goto(day.address)
    wait_in(page, "review.item")
    page.wait_for_timeout(300)
    assert asked["pictures"] <= 200 and asked["thumbnails"] <= 30, f"asked ahead of need: {asked}"
    slow = page.evaluate("""async () => {
        const list = document.querySelector(".thumbs"), times = [];
        let last = performance.now();
        for (let i = 0; i < 120; i++) {
            list.scrollTop = i * 7700;
            await new Promise(requestAnimationFrame);
            times.push(performance.now() - last);
            last = performance.now();
        }
        return times.sort((a, b) => a - b)[110];
    }""")
    print(f"       a frame of scrolling takes {slow:.0f} ms at most, of 9 in 10")
    assert page.locator(".thumbs .item").count() < 40
    page.wait_for_timeout(500)
    assert asked["pictures"] <= 600 and asked["thumbnails"] <= 90, f"asked for what was scrolled over: {asked}"
    expect(page.locator(".thumbs .item b").filter(has_text="p099")).not_to_have_count(0)
    day.shot("14-ten-thousand", page, languages=("en",))
    wait_in(page, "review.item")
    times = page.evaluate("""async () => {
        const times = [];
        for (let i = 0; i < 20; i++) {
            const before = review.item, start = performance.now();
            document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "d", code: "KeyD", bubbles: true}));
            while (review.item === before) await new Promise(requestAnimationFrame);
            await new Promise(requestAnimationFrame);
            times.push(performance.now() - start);
        }
        return times.sort((a, b) => a - b);
    }""")
    print(f"       from the key D to the next picture {times[10]:.0f} ms, {times[18]:.0f} at most of 9 in 10")
    assert times[10] < 300, f"the next picture takes {times[10]:.0f} ms"
    page.context.close()
    day.api("settings", settings)


def test_four_gpus(day):
    page = day.new_page("ko-KR")
    about = day.api("about")
    about["devices"] = [{"id": "auto", "label": "Auto (All 4 GPUs)"}, {"id": "0,1,2,3", "label": "4 GPUs (0,1,2,3)"}, {"id": "0,1", "label": "2 GPUs (0,1)"}] + [
        {"id": str(i), "label": f"GPU {i}: Some GPU 24GB", "memory": 24 << 30, "free": (23 - i) << 30} for i in range(4)] + [{"id": "cpu", "label": "CPU", "memory": 64 << 30, "free": 50 << 30}]
    about["settings_read_only"] = True
    about["plan"] = True
    page.route("**/api/about", lambda route: route.fulfill(json=about))
    page.route("**/api/plan", lambda route: route.fulfill(json={"fit": {"batch": 40, "imgsz": 640, "memory": 24 << 30}, "advice": "", "reason": ""}))
    page.route("**/api/settings", lambda route: route.fulfill(json={"values": {"train": {"device": "0,2,3", "data": "a/data.yaml"}}}))
    page.goto(day.address)
    expect(page.locator("#field-train-device option")).to_have_text([re.compile("자동"), re.compile("4 GPUs"), re.compile("2 GPUs"), re.compile("GPU 0"), re.compile("GPU 1"), re.compile("GPU 2"), re.compile("GPU 3"), re.compile("CPU"), re.compile("직접 입력")])
    assert page.input_value("#field-train-device") == "other"
    expect(page.get_by_text("24 GB 메모리에서 배치 40까지")).to_be_visible()
    expect(page.locator("#foot")).to_contain_text("쓸 수 없어")
    page.locator("#field-train-device").scroll_into_view_if_needed()
    page.screenshot(path=os.path.join(SHOTS, "15-four-gpus-ko.png"))
    page.context.close()


NAMELESS = """() => [...document.querySelectorAll("button, input, select, canvas, [role=listbox], [role=log], progress")].filter(node => {
    if (!node.checkVisibility()) return false;
    const label = node.getAttribute("aria-label") || node.textContent.trim() || (node.labels && [...node.labels].map(one => one.textContent).join("").trim());
    return !(node.tagName === "SELECT" ? node.getAttribute("aria-label") || node.labels.length : label);
}).map(node => node.outerHTML.slice(0, 120))"""

FAINT = """() => {
    const channel = x => (x /= 255) <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const parts = text => text.match(/[\\d.]+/g).map(Number);
    const behind = node => { for (; node; node = node.parentElement) { const c = parts(getComputedStyle(node).backgroundColor); if (c.length < 4 || c[3] === 1) return c; } return parts(getComputedStyle(document.body).backgroundColor); };
    return [...document.querySelectorAll("body *")].filter(node => node.checkVisibility() && !node.closest(":disabled, .for-readers, .skip") && [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim())).map(node => {
        const a = light(parts(getComputedStyle(node).color)), b = light(behind(node)), ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        return [ratio, node.textContent.trim().slice(0, 40)];
    }).filter(([ratio]) => ratio < 4.5);
}"""


def test_readable(day):
    """Names for a screen reader, contrast in light and dark, nothing cut off at 200 %, in a narrow or a low window."""
    for scheme in ("light", "dark"):
        page = day.new_page("ko-KR", color_scheme=scheme)
        page.goto(day.address)
        expect(page.locator("#foot")).to_contain_text("yolo")
        page.evaluate("chooseLanguage('ko')")
        for tab in ("train", "label", "review", "runs"):
            page.click("#tab-" + tab)
            page.wait_for_timeout(250)
            assert not (nameless := page.evaluate(NAMELESS)), f"{tab}: without a name: {nameless}"
            assert not (faint := page.evaluate(FAINT)), f"{tab}, {scheme}: faint: {faint}"
            if scheme == "dark":
                page.screenshot(path=os.path.join(SHOTS, f"16-dark-{tab}-ko.png"))
        page.evaluate("chooseLanguage('en')")
        page.wait_for_timeout(700)
        page.context.close()
    for percent, width, height in ((125, 1024, 640), (200, 640, 450), (100, 720, 900)):
        page = day.new_page("ko-KR", device_scale_factor=percent / 100)
        page.set_viewport_size({"width": width, "height": height})
        page.goto(day.address)
        for tab in ("train", "label", "review", "runs"):
            page.click("#tab-" + tab)
            page.wait_for_timeout(200)
            over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert over <= 0, f"{tab} at {percent} % in {width} x {height} is {over} pixels too wide"
            page.screenshot(path=os.path.join(SHOTS, f"17-{width}x{height}-{tab}.png"))
        page.context.close()


FOCUSABLE = """panel => [...panel.querySelectorAll("button, input, select, summary, [tabindex='0']")].filter(node => node.checkVisibility() && !node.disabled && (node.type !== "radio" || node.checked))"""


def test_by_keyboard_alone(day):
    """Arrows change the tab; in each, Tab reaches all that can be used, one after the other, and shows where it is."""
    page = day.new_page("en-US")
    page.goto(day.address)
    page.locator("[role=tab][aria-selected=true]").focus()
    page.keyboard.press("Home")
    for tab in ("train", "label", "review", "runs"):
        expect(page.locator("#tab-" + tab)).to_be_focused()
        page.wait_for_timeout(400)
        page.evaluate(f"wanted = new Set(({FOCUSABLE})(byId('panel-{tab}')))".replace("wanted =", "window.wanted ="))
        for _ in range(page.evaluate("wanted.size") + 30):
            page.keyboard.press("Tab")
            if tab == "review" and page.evaluate("document.activeElement.matches('canvas')"):
                page.evaluate("chooseBox(review.editor, review.editor.boxes.length - 1)")  # else Tab would go through all boxes
            seen = page.evaluate("""() => { const node = document.activeElement, style = getComputedStyle(node); wanted.delete(node);
                return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 || node === document.body || node.outerHTML.slice(0, 120); }""")
            assert seen is True, f"{tab}: the focus is not seen on {seen}"
            if not page.evaluate("wanted.size"):
                break
        missed = page.evaluate("[...wanted].map(node => node.outerHTML.slice(0, 120))")
        assert not missed, f"{tab}: Tab does not reach {missed}"
        page.locator("#tab-" + tab).focus()
        page.keyboard.press("ArrowRight")
    page.context.close()


def test_exports(day):
    page = day.page
    page.click("#tab-runs")
    page.locator("#panel-runs").get_by_role("button", name="Export as ONNX").first.click()
    job = day.wait("the export to end", lambda: next((job for job in day.api("jobs") if job["verb"] == "export" and job["state"] != "running"), None))
    assert job["state"] == "done", f"export: {job['error']}"
    expect(page.locator("#panel-runs").get_by_text("Export", exact=True)).to_be_visible()


def test_server_goes(day):
    """The page says so when the program is gone without a word."""
    faults, page = list(day.faults), day.new_page("en-US")
    other = subprocess.Popen([day.executable, "ui", "browser=false"], cwd=day.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        page.goto(other.stdout.readline().strip())
        expect(page.locator("#foot")).to_contain_text("yolo")
        page.wait_for_timeout(300)
    finally:
        other.kill()
        other.wait()
    expect(page.locator("#lost")).to_contain_text("No connection", timeout=20000)
    day.shot("18-lost", page, languages=("en",))
    page.context.close()
    day.faults = faults


def test_ends(day):
    """The button that ends the program asks, leaves a training alone when it is cancelled, and else waits for it; nothing stays."""
    page = day.page
    page.click("#tab-train")
    page.fill("#field-train-epochs", "500")
    page.click("#start-training")
    job = day.wait_for_job("train", "running")
    day.wait("its weights", lambda: os.path.exists(os.path.join(day.api("jobs")[-1]["folder"], "weights", "last.pt")))
    page.locator("#end").click()
    expect(page.get_by_role("dialog")).to_contain_text("Still running: Training")
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    page.evaluate("chooseLanguage('ko')")
    page.locator("#end").click()
    page.screenshot(path=os.path.join(SHOTS, "19-end-ko.png"))
    page.keyboard.press("Escape")
    page.evaluate("chooseLanguage('en')")
    assert day.wait_for_job("train", "running")["id"] == job["id"]
    folder, running = day.api("jobs")[-1]["folder"], children(day.server.pid)
    assert running
    page.locator("#end").click()
    page.screenshot(path=os.path.join(SHOTS, "19-end-en.png"))
    page.get_by_role("button", name="Stop it and end").click()
    expect(page.get_by_role("heading", name="The program has ended")).to_be_visible(timeout=30000)
    page.screenshot(path=os.path.join(SHOTS, "20-ended-en.png"))
    assert day.server.wait(30) == 0
    assert not [pid for pid in running if os.path.exists(f"/proc/{pid}")], "a process is left"
    assert os.path.exists(os.path.join(folder, "weights", "last.pt"))
    page.wait_for_timeout(1000)  # nothing is asked any more: any fault would be seen


TESTS = [value for name, value in list(globals().items()) if name.startswith("test_")]


def main():
    parser = argparse.ArgumentParser(description="drives the page of `yolo ui` in Chromium")
    parser.add_argument("executable")
    parser.add_argument("--page")
    parser.add_argument("--until", help="the last test to run")
    arguments = parser.parse_args()
    if not os.path.exists(CHROMIUM):
        print(f"{CHROMIUM} is not installed")
        return 77
    passed = failed = 0
    expect.set_options(timeout=20000)  # other programs may have the cores
    with sync_playwright() as playwright:
        day = Day(playwright, arguments.executable, arguments.page)
        try:
            for test in TESTS:
                start, faults = time.monotonic(), len(day.faults)
                try:
                    test(day)
                    assert len(day.faults) <= faults, "; ".join(day.faults[faults:])
                    passed += 1
                    print(f"ok     {test.__name__[5:]} ({time.monotonic() - start:.1f} s)", flush=True)
                except Exception as error:
                    failed += 1
                    print(f"FAILED {test.__name__[5:]}: {str(error)[:300]}", flush=True)
                    for i, page in enumerate(page for context in day.browser.contexts for page in context.pages):
                        page.screenshot(path=os.path.join(SHOTS, f"failed-{test.__name__[5:]}-{i}.png"))
                    break
                if test.__name__[5:] == arguments.until:
                    break
            strangers = {host for host in day.hosts if not host.startswith(("http://127.0.0.1:", "data:", "blob:"))}
            if strangers:
                failed += 1
                print(f"FAILED requests went to {strangers}")
        finally:
            day.close()
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
