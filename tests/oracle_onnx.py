"""Checks exported ONNX files with onnx, onnxruntime and ultralytics.

    PYTHON tests/oracle_onnx.py [--shared ../shared] [--tool FILE] [--pictures 64] [--only NAME ...]

PYTHON is the one of the reference installation (shared/reference); without --tool, tests/tool_onnx.c is built.
Cases: the trained model of the shared data and untrained ones (other sizes, classes, activations, a fourth level, random batch norms);
squares, rectangles, batches, dynamic sizes; halves; every opset; with and without suppression. What must hold:
onnx.checker's full check passes; onnxruntime's boxes equal ours within 1e-3 of a cell, and torch's in double precision on photographs within
1e-3 of a pixel; scores within 2e-4; with suppression the boxes are ours, on photographs those that `label` writes; ultralytics' own export
has the same boxes within 1e-3 of a pixel; its `val` and `predict` take the file, mAP within 0.003 of ours; the same command gives the same
bytes.
Prints a line a check; exit status 1 when any failed, 77 when the oracle or the data is not there.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from types import SimpleNamespace

from checks import check, end

os.environ["YOLO_OFFLINE"] = "true"
os.environ["YOLO_AUTOINSTALL"] = "false"
os.environ["YOLO_VERBOSE"] = "false"
HERE = os.path.dirname(os.path.abspath(__file__))


class Bench:
    """A folder, the tool, and what is compared in it."""

    def __init__(self, tool, folder):
        self.tool, self.folder = tool, folder

    def path(self, name):
        return os.path.join(self.folder, name)

    def yolo(self, *arguments, status=0):
        done = subprocess.run([self.tool, "yolo", *arguments], capture_output=True, text=True, encoding="utf-8", cwd=self.folder)
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def export(self, model, *arguments):
        """The path of the file, which has passed onnx's check, and its session."""
        import onnx

        out = self.path("out.onnx")
        self.yolo("export", f"model={model}", f"out={out}", *arguments)
        proto = onnx.load(out)
        onnx.checker.check_model(proto, full_check=True)
        assert len(proto.graph.output) == 1 and not os.path.exists(out + ".partial")
        return out, session_of(out)

    def write_input(self, x):
        import numpy as np

        with open(self.path("input"), "wb") as f:
            np.array([x.shape[0], x.shape[2], x.shape[3]], "<i4").tofile(f)
            np.ascontiguousarray(x.transpose(0, 2, 3, 1), "<f4").tofile(f)

    def ours(self, model, x, classes, conf=0.25, iou=0.7, max_det=300, agnostic=0):
        """output0 without suppression, and of each picture the boxes that are kept."""
        import numpy as np

        self.write_input(x)
        subprocess.run([self.tool, "run", model, self.path("input"), self.path("output"), *map(str, (conf, iou, max_det, agnostic))], check=True)
        with open(self.path("output"), "rb") as f:
            words = f.read()
        anchors = len(strides_of(model, x))
        at, raw, kept = 0, [], []
        for _ in range(x.shape[0]):
            raw.append(np.frombuffer(words, "<f4", anchors * (4 + classes), at).reshape(anchors, 4 + classes).T)
            at += 4 * anchors * (4 + classes)
            count = int(np.frombuffer(words, "<i4", 1, at)[0])
            kept.append(np.frombuffer(words, "<f4", 6 * count, at + 4).reshape(count, 6))
            at += 4 + 24 * count
        assert at == len(words), (at, len(words))
        return np.stack(raw), kept


def strides_of(model, x):
    """Of each anchor."""
    import numpy as np

    levels = (4, 8, 16, 32) if "p2" in model else (8, 16, 32)
    return np.repeat(levels, [(x.shape[2] // s) * (x.shape[3] // s) for s in levels])


def session_of(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def noise(n, h, w, seed):
    """Smooth pictures in 0..1."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    x = sum(torch.nn.functional.interpolate(torch.rand(n, 3, h // k, w // k, generator=generator), (h, w), mode="bilinear") for k in (1, 4, 16, 32))
    return ((x - x.min()) / (x.max() - x.min())).numpy()


def photograph(bench, path, side=640):
    import numpy as np

    text = subprocess.run([bench.tool, "input", path, str(side), bench.path("photo")], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    words = np.fromfile(bench.path("photo"), "<f4")
    n, h, w = words[:3].view("<i4")
    return words[3:].reshape(n, h, w, 3).transpose(0, 3, 1, 2).copy(), [float(t) for t in text]


def make_model(path, name, classes=80, activation=None, seed=1):
    """A checkpoint as ultralytics saves it, with batch norms that are not the identity and heads that find something."""
    import torch
    import yaml
    from ultralytics import YOLO
    from ultralytics.nn.modules.conv import Conv

    torch.manual_seed(seed)
    if activation:
        Conv.default_act = activation
    try:
        if classes != 80:
            import ultralytics

            root = os.path.join(os.path.dirname(ultralytics.__file__), "cfg", "models", "v8")
            description = yaml.safe_load(open(os.path.join(root, "yolov8-p2.yaml" if "p2" in name else "yolov8.yaml")))
            description["nc"] = classes
            file = os.path.join(os.path.dirname(path), name)
            with open(file, "w") as f:
                yaml.safe_dump(description, f)
            name = file
        yolo = YOLO(name, task="detect")
        if activation:
            yolo.model.yaml["activation"] = f"torch.nn.{activation}"
    finally:
        Conv.default_act = torch.nn.SiLU()
    model = yolo.model.train()
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
        model(torch.from_numpy(noise(2, 320, 320, 5)))
        for norm in norms:
            norm.momentum = 0.03
        for branch in model.model[-1].cv2:
            branch[-1].bias.normal_(0, 2)
        for branch in model.model[-1].cv3:
            branch[-1].bias.normal_(-6, 1)
    model.eval()
    yolo.save(path)
    return path


def compare_raw(name, theirs, ours, strides, above=0.0, pixels=None):
    """output0 of all anchors, or those with a score above `above`. Boxes within 1e-3 of a cell, the unit in which the network finds them,
    or within so many pixels: an untrained head's flat distributions turn the last bit of a logit into hundredths of a pixel."""
    import numpy as np

    if theirs.shape != ours.shape:
        return check(name, False, f"shape {theirs.shape} against {ours.shape}")
    looked = ours[:, 4:].max(1) > above
    apart = np.abs(theirs[:, :4] - ours[:, :4]).max(1) * looked
    off = np.abs(theirs[:, 4:] - ours[:, 4:]).max()
    good = off <= 2e-4 and ((apart <= pixels).all() if pixels else (apart <= 1e-3 * strides).all())
    check(name, good and looked.any(), f"{int(looked.sum())} anchors, boxes within {apart.max():.2g} pixels, {(apart / strides).max():.2g} cells, scores within {off:.2g}")


def compare_kept(name, theirs, ours, max_det, pixels=0.03):
    """(N,max_det,6) against a list of boxes a picture: by falling score, zeros behind them, of 1,000 boxes at most 5 without a partner of
    its class (an overlap at the threshold may fall to either side), the others within so many pixels."""
    import numpy as np

    good, worst, count, lonely = theirs.shape == (len(ours), max_det, 6), 0.0, 0, 0
    for have, want in zip(theirs, ours):
        n = int((have[:, 4] > 0).sum())
        good &= bool((have[n:] == 0).all() and (np.diff(have[:, 4]) <= 0).all())
        count += max(n, len(want))
        if not n or not len(want):
            lonely += max(n, len(want))
            continue
        apart = np.abs(have[:n, None] - want[None])
        apart = np.where((apart[..., 5] == 0) & (apart[..., 4] <= 1e-4), apart[..., :4].max(2), np.inf)
        nearest = apart.min(1)
        lonely += max(int((apart.min(0) > pixels).sum()), int((nearest > pixels).sum()))
        worst = max(worst, nearest[nearest <= pixels].max(initial=0))
    check(name, good and lonely <= 0.005 * count, f"{count} boxes in {len(ours)} pictures, {lonely} without a partner, others within {worst:.2g} pixels")


def exact(model, x):
    """Torch's output0 in doubles."""
    import torch
    from ultralytics import YOLO

    with torch.no_grad():
        return YOLO(model).model.double().eval()(torch.from_numpy(x).double())[0].numpy()


def graphs(bench, model, label, classes):
    """Shapes, batches and dynamic sizes of one model."""
    for arguments, x in ("imgsz=640,448", noise(1, 640, 448, 1)), ("imgsz=192 batch=3", noise(3, 192, 192, 2)):
        _, session = bench.export(model, *arguments.split())
        compare_raw(f"{label} {arguments}", session.run(None, {"images": x})[0], bench.ours(model, x, classes)[0], strides_of(model, x))
    _, session = bench.export(model, "dynamic=true")
    for n, h, w in (1, 64, 96), (3, 192, 128), (2, 32, 32):
        x = noise(n, h, w, h)
        have = session.run(None, {"images": x})[0]
        compare_raw(f"{label} dynamic {n}x{h}x{w}", have, bench.ours(model, x, classes)[0], strides_of(model, x))
        compare_raw(f"{label} dynamic {n}x{h}x{w}, torch in doubles", have, exact(model, x), strides_of(model, x))


def suppression(bench, model, label, classes, cases):
    """Crowds, fewer anchors than max_det, nothing found, few boxes, all classes alike."""
    x = noise(2, 160, 224, 3)
    for conf, iou, most, agnostic in cases:
        _, kept = bench.ours(model, x, classes, conf, iou, most, agnostic)
        options = ["nms=true", f"conf={conf}", f"iou={iou}", f"max_det={most}", f"agnostic_nms={bool(agnostic)}"]
        for shape in ["imgsz=160,224", "batch=2"], ["dynamic=true"]:
            _, session = bench.export(model, *options, *shape)
            compare_kept(f"{label} nms conf={conf} iou={iou} max_det={most} agnostic={agnostic} {shape[-1]}", session.run(None, {"images": x})[0], kept, most)


def opsets(bench, model, label, classes):
    x = noise(2, 96, 64, 4)
    raw, kept = bench.ours(model, x, classes, 0.001)
    for opset in range(17, 23):
        for options in ["imgsz=96,64", "batch=2"], ["dynamic=true"]:
            _, session = bench.export(model, f"opset={opset}", *options)
            compare_raw(f"{label} opset {opset} {options[0]}", session.run(None, {"images": x})[0], raw, strides_of(model, x))
        _, session = bench.export(model, f"opset={opset}", "dynamic=true", "nms=true", "conf=0.001")
        compare_kept(f"{label} opset {opset} nms", session.run(None, {"images": x})[0], kept, 300)


def halves(bench, model, pictures):
    import numpy as np
    from oracle_val import overlap

    full, _ = bench.export(model)
    size = os.path.getsize(full)
    path, session = bench.export(model, "dynamic=true", "half=true", "nms=true")
    check("half: size", os.path.getsize(path) < 0.52 * size, f"{os.path.getsize(path)} of {size} bytes")
    check("half: input and output", [session.get_inputs()[0].type, session.get_outputs()[0].type] == ["tensor(float)"] * 2, "float")
    found = same = 0
    for picture in pictures[:6]:
        x, _ = photograph(bench, picture)
        kept = bench.ours(model, x, 80)[1][0]
        have = session.run(None, {"images": x})[0][0]
        for box in kept[kept[:, 4] > 0.28]:
            found += 1
            same += any(h[5] == box[5] and abs(h[4] - box[4]) < 0.02 and overlap(h, box) > 0.95 for h in have if h[4] > 0)
    check("half: boxes of photographs", same == found > 10, f"{same} of {found} found again: class, confidence within 0.02, IoU above 0.95")


def photographs(bench, model, pictures):
    """The whole way: `label`'s files against onnxruntime's boxes, brought back to the picture."""
    import numpy as np

    _, plain = bench.export(model, "dynamic=true")
    _, session = bench.export(model, "dynamic=true", "nms=true")
    folder, worst, boxes, same = bench.path("labels"), 0.0, 0, True
    os.makedirs(bench.path("photos"), exist_ok=True)
    for picture in pictures:
        shutil.copy(picture, bench.path("photos"))
    bench.yolo("label", f"model={model}", "source=photos", f"out={folder}", "save_conf=true", "device=cpu")
    for picture in pictures:
        x, (gain_x, gain_y, left, top) = photograph(bench, picture)
        raw, _ = bench.ours(model, x, 80)
        name, out = f"photograph {os.path.basename(picture)}", plain.run(None, {"images": x})[0]
        compare_raw(name, out, raw, strides_of(model, x))
        compare_raw(f"{name}, torch in doubles", out, exact(model, x), strides_of(model, x), 0.001, 1e-3)
        rows = [r for r in session.run(None, {"images": x})[0][0] if r[4] > 0]
        with open(os.path.join(folder, os.path.splitext(os.path.basename(picture))[0] + ".txt")) as f:
            want = np.array([[float(w) for w in line.split()] for line in f]).reshape(-1, 6)
        import cv2

        h, w = cv2.imread(picture).shape[:2]
        have = []
        for x1, y1, x2, y2, score, class_id in rows:
            x1, x2 = (min(max((v - left) / gain_x, 0), w) for v in (x1, x2))
            y1, y2 = (min(max((v - top) / gain_y, 0), h) for v in (y1, y2))
            have.append([class_id, (x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h, score])
        have = np.array(have).reshape(-1, 6)
        same &= have.shape == want.shape and bool((have[:, 0] == want[:, 0]).all())
        if have.shape == want.shape and len(have):
            worst = max(worst, np.abs(have - want).max())
        boxes += len(want)
    check("photographs: the boxes of label", same and worst <= 5e-6, f"{boxes} boxes of {len(pictures)} pictures, within {worst:.2g} of the picture")


def theirs(bench, model, pictures):
    """Ultralytics' own exports of the same checkpoint."""
    from ultralytics import YOLO

    for options, x in ({}, photograph(bench, pictures[0])[0]), ({"nms": True}, photograph(bench, pictures[0])[0]), ({"dynamic": True}, photograph(bench, pictures[0], 320)[0]):
        h, w = x.shape[2:]
        path = YOLO(model).export(format="onnx", imgsz=(h, w), opset=17, simplify=False, verbose=False, **options)
        want = session_of(path).run(None, {"images": x})[0]
        arguments = [f"{key}={value}" for key, value in options.items()]
        _, session = bench.export(model, f"imgsz={h},{w}", *arguments)
        have = session.run(None, {"images": x})[0]
        name = "ultralytics' export " + " ".join(arguments)
        if "nms" in options:
            compare_kept(name, have, [want[0][want[0][:, 4] > 0]], 300, 1e-3)
        else:
            compare_raw(name, have, want, strides_of(model, x), 0.25, 1e-3)
        os.remove(path)


def metadata(bench, model, names):
    import onnx
    from ultralytics.nn.backends.base import BaseBackend

    for arguments in [], ["dynamic=true", "nms=true", "batch=4"]:
        path, _ = bench.export(model, "imgsz=320,288", *arguments)
        plain = BaseBackend.read_metadata(path)
        assert plain == {p.key: p.value for p in onnx.load(path).metadata_props}
        holder = SimpleNamespace(dynamic=False)
        BaseBackend.apply_metadata(holder, dict(plain))
        facts = (holder.stride, holder.task, holder.batch, holder.imgsz, holder.channels, holder.dynamic, holder.end2end)
        want = (32, "detect", 4 if arguments else 1, [320, 288], 3, bool(arguments), bool(arguments))
        check(f"metadata {arguments}", facts == want and holder.names == names, f"{facts}, {len(holder.names)} names")
        check("metadata says whose it is", "ltralytics" not in str(plain.get("author")) and plain["version"].startswith("yolo "), plain["description"])


def accepted(bench, model, shared, count):
    """Ultralytics' val and predict with our files."""
    import oracle_val
    from ultralytics import YOLO

    pictures = oracle_val.make_data(shared, bench.path("coco128"), count)
    data = bench.path("data.yaml")
    oracle_val.write_yaml(data, bench.path("coco128"), YOLO(model).names)

    def our_val(*arguments):
        for line in bench.yolo("val", f"model={model}", f"data={data}", "verbose=false", "save_json=p.json", "device=cpu", *arguments).splitlines():
            if line.split()[:1] == ["all"]:
                return [float(w) for w in line.split()[-2:]]

    # Pictures one by one: what shares a larger batch's rectangle is left to numpy's unstable sort, see oracle_val.py.
    for arguments, ours in (["dynamic=true"], ["batch=1"]), ([], ["rect=false", "batch=1"]):
        path, _ = bench.export(model, *arguments)
        box = YOLO(path, task="detect").val(data=data, device="cpu", plots=False, verbose=False, project=bench.folder, workers=0, batch=1).box
        want = our_val(*ours)
        check(f"ultralytics' val {arguments}", abs(box.map50 - want[0]) <= 0.003 and abs(box.map - want[1]) <= 0.003,
              f"mAP50 {box.map50:.4f} and ours {want[0]:.4f}, mAP50-95 {box.map:.4f} and {want[1]:.4f}")
    path, _ = bench.export(model, "nms=true")
    yolo, found, same = YOLO(path, task="detect"), 0, 0
    for picture in pictures[:6]:
        mine = yolo.predict(picture, device="cpu", verbose=False, conf=0.25)[0].boxes.data.numpy()
        want = YOLO(model).predict(picture, device="cpu", verbose=False, conf=0.25, rect=False)[0].boxes.data.numpy()
        found += len(want)
        same += sum(any(abs(a - b).max() < 0.5 for b in mine) for a in want)
    check("ultralytics' predict with nms=true", same >= 0.97 * found > 0, f"{same} of {found} boxes as from the checkpoint")


def repeated(bench, model):
    contents = []
    for i in range(2):
        bench.yolo("export", f"model={model}", f"out=again{i}.onnx", "simplify=true")
        contents.append(open(bench.path(f"again{i}.onnx"), "rb").read())
    check("the same bytes again", contents[0] == contents[1], f"{len(contents[0])} bytes")


def names_of_all_kinds(bench):
    """Class names that Python has to quote."""
    from ultralytics import YOLO
    from ultralytics.nn.backends.base import BaseBackend

    names = ["it's", 'say "hi"', "back\\slash", "tab\tline\n", "\ud55c\uae00 \U0001f600", "", "{1: 2}"]
    yolo = YOLO("yolov8n.yaml", task="detect")
    yolo.model.names = dict(enumerate(names + [str(i) for i in range(80 - len(names))]))
    yolo.save(bench.path("named.pt"))
    path, _ = bench.export(bench.path("named.pt"), "imgsz=32")
    holder = SimpleNamespace(dynamic=False)
    BaseBackend.apply_metadata(holder, BaseBackend.read_metadata(path))
    check("class names of all kinds", holder.names == yolo.model.names, str(list(holder.names.values())[:7]))


def run(bench, options, trained):
    import torch
    from ultralytics import YOLO

    model = bench.path("n.pt")
    shutil.copy(trained, model)
    folder = os.path.join(options.shared, "data", "coco128", "images", "train2017")
    pictures = [os.path.join(folder, name) for name in sorted(os.listdir(folder))[:6]]
    small = make_model(bench.path("s.pt"), "yolov8s.yaml")
    odd = [(make_model(bench.path("relu.pt"), "yolov8n.yaml", 1, torch.nn.ReLU(), 2), "ReLU, 1 class", 1),
           (make_model(bench.path("leaky.pt"), "yolov8n.yaml", 7, torch.nn.LeakyReLU(0.1), 3), "LeakyReLU, 7 classes", 7),
           (make_model(bench.path("mish-p2.pt"), "yolov8n-p2.yaml", 131, torch.nn.Mish(), 4), "Mish, 4 levels, 131 classes", 131)]
    cases = [(0.001, 0.5, 300, 1), (0.9999, 0.7, 5, 0), (0.001, 0.7, 300, 0), (0.01, 0.45, 20, 0), (0.001, 0.7, 2000, 0)]
    steps = {
        "repeated": lambda: repeated(bench, model),
        "metadata": lambda: metadata(bench, model, YOLO(model).names),
        "names": lambda: names_of_all_kinds(bench),
        "graphs": lambda: [graphs(bench, m, label, classes) for m, label, classes in [(small, "yolov8s", 80), *odd]],
        "suppression": lambda: [suppression(bench, *odd[0], cases[:1]), suppression(bench, *odd[1], cases), suppression(bench, *odd[2], cases[3:])],
        "opsets": lambda: opsets(bench, odd[2][0], odd[2][1], 131),
        "photographs": lambda: photographs(bench, model, pictures),
        "halves": lambda: halves(bench, model, pictures),
        "theirs": lambda: theirs(bench, model, pictures),
        "accepted": lambda: accepted(bench, model, options.shared, options.pictures),
    }
    for name, step in steps.items():
        if not options.only or name in options.only:
            step()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", default=os.path.join(HERE, "..", "..", "shared"))
    parser.add_argument("--tool")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--only", nargs="*")
    options = parser.parse_args()
    trained = os.path.join(options.shared, "data", "yolov8n-coco.pt")
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import torch
        import ultralytics  # noqa: F401
    except ImportError as missing:
        print(f"this Python lacks {missing.name}")
        sys.exit(77)
    if not os.path.exists(trained):
        print(f"no {trained}")
        sys.exit(77)
    tool = os.path.abspath(options.tool or os.path.join(HERE, "..", "build", "tool_onnx"))
    if not options.tool:
        os.makedirs(os.path.dirname(tool), exist_ok=True)
        subprocess.run([os.environ.get("CC", "cc"), "-std=c11", "-O2", "-ffp-contract=off", "-w", "-DYOLO_NO_CUDA",
                        os.path.join(HERE, "tool_onnx.c"), "-o", tool, "-lm", "-lpthread", "-ldl"], check=True)
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        run(Bench(tool, os.path.realpath(folder)), options, trained)
    end()


if __name__ == "__main__":
    main()
