"""Makes fixtures/eval_nms.ref and fixtures/eval_ap.ref from ultralytics 8.4.190 (see shared/reference): raw heads of small
maps with the boxes its decoding and suppression leave, and matching and precision-recall cases with its numbers.

    PYTHON tests/make_eval.py          PYTHON is the one of the reference installation
"""
import os
import sys

os.environ["YOLO_OFFLINE"] = "true"
import numpy as np
import torch
import torchvision  # noqa: F401 (suppression takes torchvision's kernel once it is imported)

import reference
from ultralytics.engine.validator import BaseValidator
from ultralytics.nn.modules.block import DFL
from ultralytics.utils import metrics, nms, tal

HERE = os.path.dirname(os.path.abspath(__file__))
BINS = 16


def random_heads(rng, nc, maps, spread, shift, batch=2):
    """Logits (N,H,W,C) a level; boxes wide enough to overlap, classes around `shift`."""
    heads = []
    for h, w in maps:
        box = rng.normal(0, 2, (batch, h, w, 4 * BINS))
        cls = rng.normal(shift, spread, (batch, h, w, nc))
        heads.append(np.concatenate((box, cls), -1).astype(np.float32))
    return heads


def decode(heads, nc, strides):
    """(N, 4 + nc, A), as the model's head gives it in eval mode."""
    feats = [torch.from_numpy(h).permute(0, 3, 1, 2).contiguous() for h in heads]
    flat = torch.cat([f.flatten(2) for f in feats], 2)
    anchors, stride = (a.transpose(0, 1) for a in tal.make_anchors(feats, torch.tensor(strides).float(), 0.5))
    box = tal.dist2bbox(DFL(BINS)(flat[:, : 4 * BINS]), anchors.unsqueeze(0), xywh=True, dim=1) * stride
    return torch.cat((box, flat[:, 4 * BINS :].sigmoid()), 1)


def nms_cases(rng):
    maps = [(4, 6), (2, 3), (1, 2)]
    cases = [  # nc, spread, shift, conf, iou, max_det, agnostic, multi_label, classes
        (1, 2.0, 0.0, 0.25, 0.7, 300, False, True, []),
        (3, 2.0, -1.0, 0.001, 0.7, 300, False, True, []),
        (3, 2.0, -1.0, 0.25, 0.45, 300, False, False, []),
        (3, 2.0, 1.0, 0.25, 0.3, 300, True, True, []),
        (3, 2.0, 0.0, 0.1, 0.5, 7, False, True, []),
        (3, 2.0, 0.0, 0.1, 0.5, 300, False, False, [0, 2]),
        (80, 1.5, -4.0, 0.001, 0.7, 300, False, True, []),
        (80, 1.5, -2.0, 0.25, 0.7, 300, True, False, []),
        (3, 1.0, -9.0, 0.9, 0.7, 300, False, True, []),
    ]
    arrays = {"count": np.array([len(cases)], np.int32)}
    for i, (nc, spread, shift, conf, iou, max_det, agnostic, multi, classes) in enumerate(cases):
        heads = random_heads(rng, nc, maps, spread, shift, 2 if i == 1 else 1)
        if i == 1:  # ties: the same anchor twice, and two classes alike
            heads[0][:, 1, 2] = heads[0][:, 1, 1]
            heads[0][:, 2, :, 4 * BINS + 1] = heads[0][:, 2, :, 4 * BINS]
        if i == 2:  # scores that saturate
            heads[1][:, :, :, 4 * BINS :] = np.abs(heads[1][:, :, :, 4 * BINS :]) + 20
        y = decode(heads, nc, [8, 16, 32])
        out = nms.non_max_suppression(y.clone(), conf, iou, classes or None, agnostic, multi, max_det=max_det)
        for level, head in enumerate(heads):
            arrays[f"{i}.head{level}"] = head
        if i == 1:
            arrays["raw"] = y.numpy()
        arrays[f"{i}.ints"] = np.array([nc, max_det, agnostic, multi], np.int32)
        arrays[f"{i}.floats"] = np.array([conf, iou], np.float32)
        arrays[f"{i}.classes"] = np.array(classes, np.int32)
        for image, boxes in enumerate(out):
            arrays[f"{i}.out{image}"] = boxes.numpy().reshape(-1, 6)
    return arrays


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = os.path.join(HERE, "fixtures")
    os.makedirs(folder, exist_ok=True)
    reference.write(os.path.join(folder, "eval_nms.ref"), nms_cases(np.random.default_rng(1)))
    for name in sorted(os.listdir(folder)):
        if name.startswith("eval"):
            print(name, os.path.getsize(os.path.join(folder, name)), "bytes")
