"""Compares the trainer's validation with that of ultralytics 8.4.190 in training mode on the same files.

    PYTHON tests/oracle_check.py [--shared ../shared] [--tool FILE] [--pictures 128] [--imgsz 320,640]

PYTHON is the one of the reference installation (shared/reference); without --tool, tests/tool_check.c is built.
ultralytics sorts pictures of equal shape in an order that is numpy's choice; here it is made to keep theirs, so that the
batches are the same. What must hold then: the three losses within 1e-4 relative; P, R, mAP50 and mAP50-95 of all within
0.0005; the curves of all classes within 0.02 each and 0.0005 in the mean; fitness equal to four decimals; the cells of
the confusion matrix the same but for one object in a hundred; the pictures of the first batches the same.
Prints a line a check; exit status 1 when any failed, 77 when the oracle or the data is not there.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile

from checks import begin, check, end

os.environ["YOLO_OFFLINE"] = "true"
HERE = os.path.dirname(os.path.abspath(__file__))


def their_look(checkpoint, data, folder, imgsz, batch):
    """The trainer as it stands before its first epoch, and what its validator says of those weights."""
    import numpy as np
    import torch
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.models.yolo.detect.val import DetectionValidator

    sheets = []

    class Validator(DetectionValidator):
        def update_metrics(self, preds, batch):
            if len(sheets) < 3:
                shown = batch["img"][:16]
                targets = sum(int((batch["batch_idx"] == i).sum()) for i in range(len(shown)))
                mean = float((shown.double() * 255).mean())
                sheets.append([len(shown), shown.shape[3], shown.shape[2], targets, sum(len(p["cls"]) for p in preds[:16]), mean])
            for i, pred in enumerate(preds):  # a second matrix, of what a person would look at
                seen.process_batch(pred, self._prepare_batch(i, batch), conf=0.25)
            super().update_metrics(preds, batch)

        def init_metrics(self, model):
            super().init_metrics(model)
            seen.__init__(names=model.names)

        def plot_val_samples(self, *_):
            pass

        plot_predictions = plot_val_samples

    class Trainer(DetectionTrainer):
        def get_validator(self):
            from copy import copy
            return Validator(self.test_loader, save_dir=self.save_dir, args=copy(self.args))

        def plot_training_labels(self):
            pass

    from ultralytics.utils.metrics import ConfusionMatrix
    seen = ConfusionMatrix(names={})
    trainer = Trainer(overrides=dict(model=checkpoint, data=data, imgsz=imgsz, batch=batch, epochs=1, device="cpu", workers=0,
                                     project=folder, plots=True, verbose=False, val=True))
    trainer._setup_train()
    trainer.epoch, trainer.loss = 0, torch.zeros(())
    trainer.loss_items = {k: torch.zeros(()) for k in ("box_loss", "cls_loss", "dfl_loss")}
    metrics, fitness = trainer.validate()
    box = trainer.validator.metrics.box
    curves = np.stack([box.p_curve, box.r_curve, box.f1_curve, box.prec_values], 1)
    matrix = trainer.validator.confusion_matrix.matrix
    losses = [float(trainer.validator.loss[k]) / len(trainer.test_loader) for k in ("box_loss", "cls_loss", "dfl_loss")]
    return dict(metrics=metrics, fitness=fitness, losses=losses, curves=curves, matrix=matrix, seen=seen.matrix, sheets=np.array(sheets),
                results=box.mean_results(), classes=box.ap_class_index)


def compare(name, ours, theirs):
    import numpy as np
    for label, mine, other in zip(("box", "cls", "dfl"), ours["losses"], theirs["losses"]):
        check(f"{name} {label} loss", abs(mine / other - 1) <= 1e-4, f"{mine:.6f} against {other:.6f}")
    check(f"{name} fitness", abs(ours["losses"][3] - theirs["fitness"]) <= 1e-4, f"{ours['losses'][3]:.5f} against {theirs['fitness']:.5f}")
    for label, mine, other in zip(("P", "R", "mAP50", "mAP50-95"), ours["table"][0, 3:], theirs["results"]):
        check(f"{name} {label}", abs(mine - other) <= 5e-4, f"{mine:.5f} against {other:.5f}")
    check(f"{name} classes", list(ours["table"][1:, 0].astype(int)) == list(theirs["classes"]), f"{len(theirs['classes'])} of them")
    for k, label in enumerate(("precision", "recall", "F1", "precision-recall")):
        each = np.abs(ours["curves"][:, k] - theirs["curves"][:, k])
        mean = np.abs(ours["curves"][:, k].mean(0) - theirs["curves"][:, k].mean(0))
        check(f"{name} {label} curve", mean.max() <= 0.02 and each.mean() <= 5e-4, f"of all classes within {mean.max():.5f}, mean difference of each {each.mean():.6f}")
    apart, total = np.abs(ours["matrix"] - theirs["seen"]).sum(), theirs["seen"].sum()
    check(f"{name} confusion matrix", apart <= 0.01 * total, f"{apart:.0f} of {total:.0f} in other cells (ultralytics' own, of every box it keeps, holds {theirs['matrix'].sum():.0f})")
    sheets = theirs["sheets"]
    check(f"{name} sheets", np.array_equal(ours["sheets"][: len(sheets), :4], sheets[:, :4]), f"{sheets[:, :4].astype(int).tolist()}")
    check(f"{name} pixels", np.abs(ours["sheets"][: len(sheets), 5] - sheets[:, 5]).max() <= 0.02, f"means {np.round(ours['sheets'][: len(sheets), 5], 3).tolist()}")


def run(options, tool, checkpoint, folder):
    import numpy as np

    import oracle_val
    import reference
    import ultralytics
    from ultralytics.data import base

    ultralytics.utils.LOGGER.setLevel("ERROR")

    class Sorted(np.ndarray):  # ar.argsort() in set_rectangle, as a stable sort
        def argsort(self, *arguments, **options):
            return np.asarray(self).argsort(*arguments, **{**options, "kind": "stable"})

    rectangle = base.BaseDataset.set_rectangle

    def stable(self):
        array = np.array
        base.np = type("numpy", (), {"__getattr__": lambda _, name: getattr(np, name),
                                     "array": lambda _, *a, **k: array(*a, **k).view(Sorted)})()
        try:
            rectangle(self)
        finally:
            base.np = np

    base.BaseDataset.set_rectangle = stable
    oracle_val.make_data(options.shared, os.path.join(folder, "coco128"), options.pictures)
    copy, data, dump = (os.path.join(folder, x) for x in ("n.pt", "data.yaml", "look.ref"))
    shutil.copy(checkpoint, copy)
    oracle_val.write_yaml(data, os.path.join(folder, "coco128"), ultralytics.YOLO(copy).names)
    for imgsz in map(int, options.imgsz.split(",")):
        batch = 16
        bits = []
        for threads in ("0", "1"):
            subprocess.run([tool, copy, data, str(imgsz), str(2 * batch), dump, threads], check=True)
            bits.append(open(dump, "rb").read())
        check(f"{imgsz} whatever the threads", bits[0] == bits[1], "the same bits")
        compare(str(imgsz), reference.read(dump), their_look(copy, data, folder, imgsz, batch))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tool")
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument("--imgsz", default="320")
    options, checkpoint = begin(parser, 1)
    tool = options.tool or os.path.join(HERE, "..", "build", "tool_check")
    if not options.tool:
        os.makedirs(os.path.dirname(tool), exist_ok=True)
        subprocess.run([os.environ.get("CC", "cc"), "-std=c11", "-O2", "-w", "-DYOLO_NO_CUDA", os.path.join(HERE, "tool_check.c"),
                        "-o", tool, "-lm", "-lpthread", "-ldl"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        run(options, tool, checkpoint, os.path.realpath(folder))
    end()


if __name__ == "__main__":
    main()
