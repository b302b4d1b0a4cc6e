"""Compares a training step with ultralytics, in fp32, on coco128's pictures: losses, heads, every parameter's gradient, the
running statistics after it; fresh weights and trained ones, all four activations, sizes n and m.

    PYTHON tests/oracle_train.py [NAME ...]      PYTHON has ultralytics; run at the top of the repository. NAME: n-silu, ...

Losses agree to 1e-4 of each, gradients to a cosine of 0.9999 and their norms to 1e-3. ReLU and LeakyReLU have a kink: an input
that rounding moves across it changes the gradient at once, so that torch itself misses these limits with mkldnn against without
(1-cosine 1e-3 in a fresh yolov8l). These two are held to them in networks whose inputs stay away from the kink ("apart": biases
of +-3 before the activation), and as they are ("kinks") to 5e-3 and 5e-2. The largest of a pooling window can change hands in
the same way: pictures are chosen where it does not.
"""
import os
import shutil
import subprocess
import sys
import tempfile

os.environ["YOLO_OFFLINE"] = "true"
os.environ["YOLO_VERBOSE"] = "false"
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__))))
import cv2
import numpy as np
import reference
import torch
import yaml
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import yaml_model_load
from ultralytics.utils.ops import xywh2xyxy

SHARED = os.path.abspath(os.environ.get("YOLO_SHARED", "../shared"))
ACTIVATIONS = {"silu": "torch.nn.SiLU()", "relu": "torch.nn.ReLU()", "leakyrelu": "torch.nn.LeakyReLU()", "mish": "torch.nn.Mish()"}
SIZE, BATCH = 320, 4
ROOT = os.getcwd()


def picture(path):
    """Resized and padded to a square as for a prediction; RGB in 0..1, labels as normalised centres and sizes."""
    image = cv2.imread(path)
    h, w = image.shape[:2]
    scale = SIZE / max(h, w)
    inner = cv2.resize(image, (round(w * scale), round(h * scale)), interpolation=cv2.INTER_LINEAR)
    top, left = (SIZE - inner.shape[0]) // 2, (SIZE - inner.shape[1]) // 2
    whole = np.full((SIZE, SIZE, 3), 114, np.uint8)
    whole[top:top + inner.shape[0], left:left + inner.shape[1]] = inner
    text = path.replace("images", "labels").rsplit(".", 1)[0] + ".txt"
    labels = np.loadtxt(text, ndmin=2, dtype=np.float32) if os.path.exists(text) else np.zeros((0, 5), np.float32)
    boxes = labels[:, 1:5] * np.float32([inner.shape[1], inner.shape[0]] * 2)
    boxes[:, :2] += np.float32([left, top])
    return whole[:, :, ::-1].astype(np.float32) / 255, labels[:, 0], boxes / SIZE


def batch_of(first):
    folder = os.path.join(SHARED, "data/coco128/images/train2017")
    names = sorted(os.listdir(folder))[first:first + BATCH]
    images, classes, boxes = zip(*(picture(os.path.join(folder, name)) for name in names))
    index = np.concatenate([np.full(len(c), i) for i, c in enumerate(classes)])
    return {"img": torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), "cls": torch.from_numpy(np.concatenate(classes)).view(-1, 1),
            "bboxes": torch.from_numpy(np.concatenate(boxes)).float(), "batch_idx": torch.from_numpy(index).float()}


def write_batch(path, batch):
    with open(path, "wb") as f:
        pixels = batch["img"].permute(0, 2, 3, 1).contiguous().numpy()
        f.write(np.array([*pixels.shape[:3], len(batch["cls"])], "<i4").tobytes() + pixels.astype("<f4").tobytes())
        boxes = xywh2xyxy(batch["bboxes"] * SIZE).numpy()
        for image, label, box in zip(batch["batch_idx"], batch["cls"], boxes):
            f.write(np.array([int(image), int(label)], "<i4").tobytes() + box.astype("<f4").tobytes())


def make(size, activation, kind, path):
    """A checkpoint with fresh weights, or with those of the trained model as far as they fit, or with inputs of the activations
    that are mostly far from 0."""
    description = dict(yaml_model_load(f"yolov8{size}.yaml"), activation=ACTIVATIONS[activation])
    description["scales"] = {size: description["scales"][size]}
    with open("described.yaml", "w") as f:
        yaml.safe_dump(description, f)
    torch.manual_seed(len(activation))
    model = YOLO("described.yaml", task="detect")
    if kind == "trained":
        model.load(shutil.copy(os.path.join(SHARED, "data/yolov8n-coco.pt"), "trained.pt"))
    for module in model.model.modules():
        if kind == "apart" and isinstance(module, torch.nn.BatchNorm2d):
            module.bias.data = 3 - 6 * (torch.rand_like(module.bias) < 0.3).float()
    model.save(path)


def step(path, batch):
    """What ultralytics makes of the batch."""
    model = YOLO(path).model.float().train()
    model.args = get_cfg()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = ".dfl" not in name
    heads = []
    hook = model.model[-1].register_forward_pre_hook(lambda m, a: heads.extend(torch.cat((m.cv2[i](f), m.cv3[i](f)), 1).detach() for i, f in enumerate(a[0])))
    statistics = {name: t.clone() for name, t in model.state_dict().items()}
    model(batch["img"])
    hook.remove()
    model.load_state_dict(statistics)  # the heads' statistics went by twice
    loss, items = model.loss(batch)
    loss.sum().backward()
    items = list(items.values()) if isinstance(items, dict) else items
    return {"loss": np.array([float(x) for x in items]), "heads": [h.permute(0, 2, 3, 1).numpy() for h in heads],
            "gradients": {n: p.grad.numpy().astype(np.float64) for n, p in model.named_parameters() if p.grad is not None},
            "after": {n: t.numpy().astype(np.float64) for n, t in model.state_dict().items()}}


def distance(a, b):
    """Cosine's and norm's distance from agreement."""
    x, y = np.linalg.norm(a), np.linalg.norm(b)
    if x == 0 or y == 0:
        return (0, 0) if x == y else (1, 1)
    return 1 - float((a * b).sum() / (x * y)), abs(x / y - 1)


def compare(name, size, activation, kind, first):
    path = f"{name}.pt"
    make(size, activation, kind, path)
    batch = batch_of(first)
    write_batch("batch.bin", batch)
    done = subprocess.run(["./tool_train", "step", path, "batch.bin", "out.ref", "2"], capture_output=True, text=True)
    if done.returncode:
        print(f"{name:<22} {done.stderr.strip()}")
        return False
    have, want = reference.read("out.ref"), step(path, batch)
    losses = np.abs(have["loss"] / want["loss"] - 1).max()
    heads = max(float(np.abs(have[f"head.{i}"] - h).max() / np.abs(h).max()) for i, h in enumerate(want["heads"]))
    measured = {n: distance(have[f"gradient.{n}"].astype(np.float64), g) for n, g in want["gradients"].items()}
    limits = (5e-3, 5e-2) if kind == "kinks" else (1e-4, 1e-3)
    complaints = [f"{n}: 1-cosine {c:.2g}, norm {s:.2g}" for n, (c, s) in measured.items() if not (c <= limits[0] and s <= limits[1])]
    statistics = 0.0
    for n, t in want["after"].items():
        if n.endswith("num_batches_tracked"):
            complaints += [] if have[f"after.{n}"] == t else [f"{n}: {have[f'after.{n}']}, not {t}"]
        elif "running" in n:
            statistics = max(statistics, float(np.abs(have[f"after.{n}"] - t).max() / np.abs(t).max()))
    complaints += [f"gradient of {n}" for n in have if n.startswith("gradient.") and np.any(have[n]) and n[9:] not in want["gradients"]]
    good = losses <= 1e-4 and statistics <= 1e-4 and not complaints and len(measured) > 100
    print(f"{name:<20} losses {losses:.1e}  heads {heads:.1e}  {len(measured)} gradients: 1-cosine {max(c for c, _ in measured.values()):.1e}  "
          f"norm {max(s for _, s in measured.values()):.1e}  statistics {statistics:.1e}{'' if good else '  FAILED'}", flush=True)
    for text in complaints[:12]:
        print("    " + text)
    return good


def main():
    cases = {}
    for activation in ACTIVATIONS:
        smooth = activation in ("silu", "mish")
        for kind in ("fresh", "trained") if smooth else ("apart", "kinks"):
            cases[f"n-{activation}-{kind}"] = ("n", activation, kind, 2 * len(cases))
        cases[f"m-{activation}"] = ("m", activation, "fresh" if smooth else "apart", 40 + 2 * len(cases))
    wanted = sys.argv[1:]
    failed = 0
    compiler = os.environ.get("CC", "cc")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([compiler, "-std=c11", "-O3", "-ffp-contract=off", "-w", "-DYOLO_NO_CUDA", "tests/tool_train.c", "-o", f"{folder}/tool_train", "-lm", "-lpthread", "-ldl"], check=True)
        os.chdir(folder)
        for name, case in cases.items():
            if not wanted or any(name.startswith(w) for w in wanted):
                failed += not compare(name, *case)
        os.chdir(ROOT)
    print(f"{failed} failed" if failed else "all within the limits")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
