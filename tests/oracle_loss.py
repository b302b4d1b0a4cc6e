"""Compares the training loss with ultralytics: assignment target by target, losses and gradients, on random cases.

    PYTHON tests/oracle_loss.py [CASES]      PYTHON has ultralytics; run at the top of the repository; 200 cases
"""
import os
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace

os.environ["YOLO_OFFLINE"] = "true"
import numpy as np
import torch
from ultralytics.utils.loss import v8DetectionLoss

KINDS = ["mixed", "crowded", "tiny", "overlapping", "outside", "empty", "one class", "large", "corner", "twins"]
FLAGS = "-std=c11 -O3 -ffp-contract=off -w -DYOLO_NO_CUDA".split()


def boxes_of(kind, rng, count, w, h):
    """Normalised xywh."""
    if kind == "tiny":
        side = rng.uniform(0.2, 7, (count, 2)) / [w, h]
    elif kind == "large":
        side = rng.uniform(0.3, 1.0, (count, 2))
    else:
        side = np.exp(rng.uniform(np.log(0.01), np.log(0.8), (count, 2)))
    centre = rng.uniform(0, 1, (count, 2))
    if kind == "overlapping":
        centre = rng.uniform(0.2, 0.8, (max(1, count // 8), 2))[rng.integers(0, max(1, count // 8), count)] + rng.normal(0, 0.01, (count, 2))
    if kind == "outside":
        centre = rng.uniform(-0.4, 1.4, (count, 2))
    if kind == "corner":  # the first anchors, where candidates that align by nothing are
        centre, side = rng.uniform(0, 0.1, (count, 2)), rng.uniform(0.005, 0.15, (count, 2))
    boxes = np.concatenate([centre, side], 1)
    if kind == "twins" and count:
        boxes = boxes[rng.integers(0, (count + 1) // 2, count)]
    if kind not in ("outside",) and count:  # as after letterbox and clip
        low, high = np.clip(boxes[:, :2] - boxes[:, 2:] / 2, 0, 1), np.clip(boxes[:, :2] + boxes[:, 2:] / 2, 0, 1)
        boxes = np.concatenate([(low + high) / 2, high - low], 1)
    return boxes.astype(np.float32)


def make(index, small):
    rng = np.random.default_rng(1000 + index)
    kind = KINDS[index * 7 // 5 % len(KINDS)]
    n, nc = int(rng.integers(1, 4)), int(1 if kind == "one class" else rng.choice([1, 3, 20, 80]))
    low, high = (1, 6) if small else (6, 16)
    h, w = (int(32 * rng.integers(low, high)) for _ in range(2))
    strides = [8, 16, 32]
    counts = [0 if kind == "empty" or rng.random() < 0.1 else int(rng.integers(40, 120)) if kind == "crowded" else int(rng.integers(1, 25))
              for _ in range(n)]
    if kind == "empty" and rng.random() < 0.5:
        counts[-1] = 5
    targets = [np.concatenate([np.full((c, 1), i), rng.integers(0, nc, (c, 1)), boxes_of(kind, rng, c, w, h)], 1) for i, c in enumerate(counts)]
    targets = np.concatenate(targets).astype(np.float32)
    spread, sure = rng.choice([0.1, 1.0, 3.0]), rng.random() < 0.7
    heads = []
    for s in strides:
        head = rng.normal(0, spread, (n, h // s, w // s, 64 + nc)).astype(np.float32)
        head[..., 64:] -= rng.choice([0, 4, 30])  # 30: scores so low that metrics vanish
        if sure:  # a trained network: distances towards some target
            grid = (np.stack(np.meshgrid(np.arange(w // s), np.arange(h // s)), -1) + 0.5) * s
            for i in range(n):
                mine = targets[targets[:, 0] == i]
                if not len(mine):
                    continue
                pick = mine[rng.integers(0, len(mine), grid.shape[:2])][..., 2:] * [w, h, w, h]
                ltrb = np.concatenate([grid - pick[..., :2] + pick[..., 2:] / 2, pick[..., :2] + pick[..., 2:] / 2 - grid], -1) / s
                bins = -np.abs(np.arange(16) - np.clip(ltrb, 0, 14.9)[..., None]) * rng.uniform(0.5, 3)
                head[i, ..., :64] += bins.reshape(*grid.shape[:2], 64).astype(np.float32)
        heads.append(head)
    return SimpleNamespace(kind=kind, n=n, nc=nc, h=h, w=w, strides=strides, targets=targets, heads=heads)


def reference(case):
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.zeros(1))
    model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)
    model.model = [SimpleNamespace(stride=torch.tensor(case.strides, dtype=torch.float32), nc=case.nc, reg_max=16)]
    criterion = v8DetectionLoss(model)
    seen = {}
    forward, preprocess = criterion.assigner.forward, criterion.preprocess

    def assign(scores, boxes, points, labels, gt, mask, **more):
        out = forward(scores, boxes, points, labels, gt, mask, **more)
        seen.update(score=out[2].sum(-1), target=torch.where(out[3].bool(), out[4].long(), -1))
        return out

    def prepare(*a, **k):
        seen["boxes"] = preprocess(*a, **k)
        return seen["boxes"]

    criterion.assigner.forward, criterion.preprocess = assign, prepare
    feats = [torch.from_numpy(x.transpose(0, 3, 1, 2)).requires_grad_() for x in case.heads]
    flat = torch.cat([f.reshape(case.n, 64 + case.nc, -1) for f in feats], 2)
    t = torch.from_numpy(case.targets)
    start = time.perf_counter()
    loss, items = criterion({"boxes": flat[:, :64], "scores": flat[:, 64:], "feats": feats},
                            {"batch_idx": t[:, 0], "cls": t[:, 1], "bboxes": t[:, 2:]})
    loss.sum().backward()
    return SimpleNamespace(seconds=time.perf_counter() - start, losses=[float(items[k]) for k in ("box_loss", "cls_loss", "dfl_loss")],
                           target=seen["target"].numpy(), score=seen["score"].numpy(), boxes=seen["boxes"].numpy(),
                           gradients=[f.grad.permute(0, 2, 3, 1).numpy() for f in feats])


def pack(case, ref):
    counts = [int((case.targets[:, 0] == i).sum()) for i in range(case.n)]
    words = [np.array([case.n, case.nc, 3], "<i4")]
    words += [np.array([s, x.shape[1], x.shape[2]], "<i4") for s, x in zip(case.strides, case.heads)]
    words += [x.astype("<f4").reshape(-1) for x in case.heads] + [np.cumsum([0] + counts).astype("<i4")]
    for i, c in enumerate(counts):
        for row in ref.boxes[i][:c]:
            words += [row[:1].astype("<i4"), row[1:5].astype("<f4")]
    return b"".join(x.tobytes() for x in words)


def unpack(data, at, case):
    take = lambda kind, count: np.frombuffer(data, kind, count, at)
    anchors = sum(x.shape[1] * x.shape[2] for x in case.heads)
    found = SimpleNamespace(numbers=take("<f8", 4))
    at += 32
    found.target = take("<i4", case.n * anchors).reshape(case.n, anchors)
    at += 4 * found.target.size
    found.score = take("<f4", case.n * anchors).reshape(case.n, anchors)
    at += 4 * found.score.size
    found.gradients = []
    for x in case.heads:
        found.gradients.append(take("<f4", x.size).reshape(x.shape))
        at += 4 * x.size
    found.again = take("<f8", 3)
    return found, at + 24


def compare(indices, folder):
    cases = [make(i, i % 5 == 4) for i in indices]  # torch breaks ties in another way below 640 anchors
    references = [reference(c) for c in cases]
    with open(f"{folder}/in", "wb") as f:
        f.write(np.array([len(cases)], "<i4").tobytes() + b"".join(pack(c, r) for c, r in zip(cases, references)))
    subprocess.run([f"{folder}/tool", f"{folder}/in", f"{folder}/out"], check=True)
    data, at, unequal, worst_loss, worst_gradient, targets, ours, theirs = open(f"{folder}/out", "rb").read(), 0, 0, 0, 0, 0, 0, 0
    for index, case, ref in zip(indices, cases, references):
        found, at = unpack(data, at, case)
        apart = int((found.target != ref.target).sum())
        loss = max(abs(a - b) / max(abs(b), 1e-3) for a, b in zip(found.numbers[:3], ref.losses))
        size = max(float(np.abs(g).max()) for g in ref.gradients)
        gradient = max(float(np.abs(a - b).max()) for a, b in zip(found.gradients, ref.gradients)) / size
        again = np.abs(found.again - found.numbers[:3]).max()
        targets += len(case.targets)
        ours, theirs = ours + found.numbers[3], theirs + ref.seconds
        worst_loss, worst_gradient = max(worst_loss, loss), max(worst_gradient, gradient)
        unequal += apart > 0
        if apart or not loss <= 1e-4 or not gradient <= 1e-4 or again != 0:
            print(f"  case {index} ({case.kind}, {case.w}x{case.h}, {case.nc} classes, {len(case.targets)} targets): {apart} anchors differ, "
                  f"of these {int(((found.target != ref.target) & ((found.score > 0) | (ref.score > 0))).sum())} with a score; "
                  f"losses {loss:.1e}, gradients {gradient:.1e}, without gradients {again:.1e}")
    print(f"{len(cases)} cases, {targets} targets: {unequal} with another assignment; losses within "
          f"{worst_loss:.1e}, gradients within {worst_gradient:.1e} of the largest; {ours:.2f} s against {theirs:.2f} s")
    return unequal == 0 and worst_loss <= 1e-4 and worst_gradient <= 1e-4


def main():
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["cc", *FLAGS, "tests/tool_loss.c", "-o", f"{folder}/tool", "-lm", "-lpthread", "-ldl"], check=True)
        good = all([compare(range(i, min(i + 20, count)), folder) for i in range(0, count, 20)])
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
