"""Compares some training steps with ultralytics, on coco128's pictures in fp32: its loss, optimizers, warm-up, schedule,
accumulation, clip and average against the engine's; losses of each batch, weights and their average in the end.

    PYTHON tests/oracle_steps.py [NAME ...]      PYTHON has ultralytics; run at the top of the repository

Losses agree to 1e-3 of each and weights to 1e-4 of their size. With large steps training is unstable: the assignment turns a
rounding into another target now and then, and from there on differences grow, in torch as here: without mkldnn, or from weights
that are a rounding away, torch misses these limits itself. A case marked unstable that misses them is therefore held to torch's
own spread: it may be no further from torch than twice the furthest of ROUNDINGS + 1 such runs. The others have no such excuse.
"""
import math
import os
import subprocess
import sys
import tempfile
import warnings
from types import SimpleNamespace

import numpy as np
import oracle_train
import reference
import torch
from oracle_train import BATCH
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils.torch_utils import ModelEMA

CASES = {  # optimizer, lr0, nbs, batches, weights, unstable; the warm-up takes seven batches; auto is AdamW with a rate that fits
    "sgd": ("SGD", 0.01, 4, 10, "trained", False),
    "auto": ("auto", 0.01, 4, 10, "trained", False),
    "adamw": ("AdamW", 0.001, 4, 10, "trained", True),
    "accumulate": ("auto", 0.01, 8, 14, "trained", False),
    "fresh": ("SGD", 0.01, 4, 10, "fresh", True),
    "musgd": ("MuSGD", 0.01, 4, 10, "trained", True),
}
ROUNDINGS = 4
WARMUP = 1.5  # epochs


def train(path, batches, optimizer, lr0, nbs, seed=0, ranks=1, spread=None):
    """Five batches an epoch, ten epochs planned. With a seed, from weights that are a rounding away. `spread` makes a model one of
    so many ranks, each of which has its own part of every batch."""
    model = YOLO(path).model.float().train()
    model.args = get_cfg()
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = ".dfl" not in name
        if seed:
            parameter.data *= 1 + 6e-8 * torch.randn_like(parameter).sign()
    trainer = BaseTrainer.__new__(BaseTrainer)
    trainer.args = SimpleNamespace(**{**vars(get_cfg()), "lr0": lr0, "warmup_epochs": WARMUP, "nbs": nbs, "optimizer": optimizer})
    trainer.data, trainer.epochs = {"nc": model.model[-1].nc}, 10
    nominal = max(round(nbs / BATCH), 1)  # from here on as BaseTrainer._build_train_pipeline and _do_train
    trainer.optimizer = trainer.build_optimizer(model, optimizer, lr0, trainer.args.momentum,
                                                trainer.args.weight_decay * BATCH * nominal / nbs, math.ceil(5 * BATCH / max(BATCH, nbs)) * 10)
    trainer._setup_scheduler()
    trainer.scheduler.last_epoch, ema, last, losses = -1, ModelEMA(model), -1, []
    end = trainer._get_warmup_iterations(5)
    forward = spread(model) if spread else model
    for ni, batch in enumerate(batches):
        if ni % 5 == 0:
            trainer.scheduler.step()
        accumulate = nominal
        if ni <= end:
            accumulate = max(1, int(np.interp(ni, [0, end], [1, nominal]).round()))
            for x in trainer.optimizer.param_groups:
                start = trainer.args.warmup_bias_lr if x.get("param_group") == "bias" else 0.0
                x["lr"] = float(np.interp(ni, [0, end], [start, x["initial_lr"] * trainer.lf(ni // 5)]))
                if "momentum" in x:
                    x["momentum"] = float(np.interp(ni, [0, end], [trainer.args.warmup_momentum, trainer.args.momentum]))
        loss, items = forward(batch)
        (loss.sum() * ranks).backward()
        losses.append([float(x) for x in (items.values() if isinstance(items, dict) else items)])
        if ni - last >= accumulate:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=10.0)
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()
            ema.update(model)
            last = ni
    return {"losses": np.array(losses), **{f"after.{n}": t.numpy() for n, t in model.state_dict().items()},
            **{f"average.{n}": t.numpy() for n, t in ema.ema.state_dict().items()}}


def apart(have, want):
    """Largest difference of a loss by its size; of all weights, and of their average, by theirs."""
    numbers = [float(np.abs(have["losses"] / want["losses"] - 1).max())]
    for prefix in ("after.", "average."):
        rows = [(np.linalg.norm(have[n].astype(np.float64) - t), np.linalg.norm(t.astype(np.float64)))
                for n, t in want.items() if n.startswith(prefix) and not n.endswith("num_batches_tracked")]
        numbers.append(float(np.sqrt(sum(d * d for d, _ in rows) / sum(s * s for _, s in rows))))
    return np.array(numbers)


def spread(path, batches, optimizer, lr0, nbs, want):
    """How far torch is from itself at most."""
    torch.backends.mkldnn.enabled = False
    furthest = apart(train(path, batches, optimizer, lr0, nbs), want)
    torch.backends.mkldnn.enabled = True
    for seed in range(1, ROUNDINGS + 1):
        furthest = np.maximum(furthest, apart(train(path, batches, optimizer, lr0, nbs, seed), want))
    return furthest


def compare(name, optimizer, lr0, nbs, count, weights, unstable):
    path = f"{name}.pt"
    oracle_train.make("n", "silu", weights, path)
    batches = [oracle_train.batch_of(BATCH * (i % 5)) for i in range(count)]
    for i, batch in enumerate(batches):
        oracle_train.write_batch(f"{i}.bin", batch)
    done = subprocess.run(["./tool_train", "steps", path, "out.ref", optimizer, str(lr0), str(WARMUP), str(nbs), *(f"{i}.bin" for i in range(count))],
                          capture_output=True, text=True)
    if done.returncode:
        print(f"{name:<12} {done.stderr.strip()}")
        return False
    want = train(path, batches, optimizer, lr0, nbs)
    found, text = apart(reference.read("out.ref"), want), ""
    good = bool((found <= [1e-3, 1e-4, 1e-4]).all())
    if unstable and not good:
        torch_itself = spread(path, batches, optimizer, lr0, nbs, want)
        good = bool((found <= 2 * torch_itself).all())
        text = "; torch from itself: {:.1e}, {:.1e}, {:.1e}".format(*torch_itself)
    print("{:<12} {} batches: losses {:.1e}  weights {:.1e}  average {:.1e}".format(name, count, *found) + text + ("" if good else "  FAILED"), flush=True)
    return good


def run(cases, compare):
    """Compares the cases, or those whose names begin as the arguments say, in a folder that has the engine's tool; the exit status."""
    warnings.simplefilter("ignore")
    failed, compiler, root = 0, os.environ.get("CC", "cc"), os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([compiler, "-std=c11", "-O3", "-ffp-contract=off", "-w", "-DYOLO_NO_CUDA", "tests/tool_train.c", "-o", f"{folder}/tool_train",
                        "-lm", "-lpthread", "-ldl"], check=True)
        os.chdir(folder)
        for name, case in cases.items():
            if not sys.argv[1:] or any(name.startswith(w) for w in sys.argv[1:]):
                failed += not compare(name, *case)
        os.chdir(root)
    print(f"{failed} failed" if failed else "all within the limits")
    return 1 if failed else 0


def main():
    torch.set_num_threads(1)  # two would add in an order of their own
    return run(CASES, compare)


if __name__ == "__main__":
    sys.exit(main())
