"""Makes fixtures/eval_nms.ref and fixtures/eval_ap.ref from ultralytics 8.4.190 (see shared/reference): raw heads of small
maps with the boxes its decoding and suppression leave, and matching and precision-recall cases with its numbers.

    PYTHON tests/make_eval.py          PYTHON is the one of the reference installation
"""
import os

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


class Matcher(BaseValidator):
    """Only what match_predictions needs."""

    def __init__(self):
        self.iouv = torch.linspace(0.5, 0.95, 10)


def random_boxes(rng, count, near=None):
    """Corners; `near` some of the given ones, on a coarse grid, so that overlaps tie."""
    xy = rng.integers(0, 60, (count, 2))
    wh = rng.integers(8, 40, (count, 2))
    boxes = np.concatenate((xy, xy + wh), 1).astype(np.float32)
    if near is not None and len(near):
        pick = rng.integers(0, len(near), count)
        boxes = np.where(rng.random((count, 1)) < 0.8, near[pick] + rng.integers(-2, 3, (count, 4)), boxes).astype(np.float32)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    return boxes


def ap_cases(rng):
    """Per case: pictures one after the other (counts), their targets and predictions, which of them match, the table,
    each 27th point of the curves, the confusion matrix at its defaults (confidence 0.25, overlap 0.45)."""
    cases = [  # pictures, targets a picture, predictions a picture, classes, coarse confidences (ties)
        (3, 6, 12, 3, False),
        (6, 8, 30, 4, True),
        (2, 0, 9, 3, False),  # no targets
        (2, 7, 0, 3, False),  # no predictions
        (8, 3, 25, 9, True),  # classes without targets, classes without predictions
        (1, 1, 1, 1, False),
        (30, 5, 20, 2, False),
    ]
    argsort, matcher = np.argsort, Matcher()
    np.argsort = lambda x, *a, **k: argsort(x, kind="stable")  # which of two equal confidences comes first is numpy's choice
    arrays = {"count": np.array([len(cases)], np.int32), "levels": matcher.iouv.numpy()}
    for i, (pictures, most_targets, most_predictions, classes, coarse) in enumerate(cases):
        det_metrics = metrics.DetMetrics({c: str(c) for c in range(classes)})
        confusion = metrics.ConfusionMatrix({c: str(c) for c in range(classes)})
        counts, targets, predictions, matched = [], [], [], []
        for picture in range(pictures):
            t = rng.integers(most_targets > 0, most_targets + 1) if picture else most_targets
            n = rng.integers(0, most_predictions + 1) if picture else most_predictions
            truth, truth_class = random_boxes(rng, t), rng.integers(0, max(1, classes - 2), t)
            boxes, box_class = random_boxes(rng, n, truth), rng.integers(0, classes, n)
            conf = np.sort(rng.random(n))[::-1].astype(np.float32)
            conf = np.round(conf, 1).astype(np.float32) if coarse else conf
            if t and n:
                overlap = metrics.box_iou(torch.from_numpy(truth), torch.from_numpy(boxes))
                tp = matcher.match_predictions(torch.from_numpy(box_class), torch.from_numpy(truth_class), overlap).numpy()
            else:
                tp = np.zeros((n, 10), bool)
            det_metrics.update_stats({"tp": tp, "conf": conf, "pred_cls": box_class.astype(np.float32), "im_name": str(picture),
                                      "target_cls": truth_class.astype(np.float32), "target_img": np.unique(truth_class).astype(np.float32)})
            confusion.process_batch({"bboxes": torch.from_numpy(boxes), "conf": torch.from_numpy(conf), "cls": torch.from_numpy(box_class)},
                                    {"bboxes": torch.from_numpy(truth), "cls": torch.from_numpy(truth_class)})
            counts.append((t, n))
            targets.append(np.concatenate((truth, truth_class[:, None]), 1))
            predictions.append(np.concatenate((boxes, conf[:, None], box_class[:, None]), 1))
            matched.append(tp @ (1 << np.arange(10)))
        det_metrics.process()
        box = det_metrics.box
        table = [(-1, pictures, det_metrics.nt_per_class.sum(), *det_metrics.mean_results())]
        table += [(c, det_metrics.nt_per_image[c], det_metrics.nt_per_class[c], *box.class_result(k)) for k, c in enumerate(box.ap_class_index)]
        arrays[f"{i}.classes"] = np.array([classes], np.int32)
        arrays[f"{i}.counts"] = np.array(counts, np.int32)
        arrays[f"{i}.targets"] = np.concatenate(targets).reshape(-1, 5)
        arrays[f"{i}.predictions"] = np.concatenate(predictions).reshape(-1, 6)
        arrays[f"{i}.matched"] = np.concatenate(matched).astype(np.int32)
        arrays[f"{i}.table"] = np.array(table)
        arrays[f"{i}.curves"] = np.stack([x.reshape(-1, 1000)[: len(table) - 1, ::27] for x in (box.p_curve, box.r_curve, box.f1_curve, box.prec_values)], 1)
        arrays[f"{i}.matrix"] = confusion.matrix.astype(np.int32)
    np.argsort = argsort
    return arrays


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = os.path.join(HERE, "fixtures")
    os.makedirs(folder, exist_ok=True)
    reference.write(os.path.join(folder, "eval_nms.ref"), nms_cases(np.random.default_rng(1)))
    reference.write(os.path.join(folder, "eval_ap.ref"), ap_cases(np.random.default_rng(2)))
    for name in sorted(os.listdir(folder)):
        if name.startswith("eval"):
            print(name, os.path.getsize(os.path.join(folder, name)), "bytes")
