"""Makes tests/fixtures/opt.ref: what ultralytics' optimizers, warm-up, schedule, accumulation, clip and average make of a
small YOLOv8 model and gradients that are drawn here as tests/test_opt.c draws them.

Per case: settings, a row a batch (norm or -1 where no step was taken, accumulate, momentum, the groups' rates), and SAMPLES
elements of each row of the parameters and of their average. Run where ultralytics is installed: python tests/make_opt.py
"""
import math
import os
import sys
from types import SimpleNamespace

import make_net
import numpy as np
import reference
import torch
from torch import nn
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import YAML
from ultralytics.utils.torch_utils import ModelEMA

SAMPLES = 3
KINDS = ["auto", "SGD", "MuSGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSProp"]
DEFAULTS = dict(optimizer="SGD", lr0=0.01, lrf=0.01, momentum=0.937, weight_decay=5e-4, warmup_epochs=2.0, warmup_momentum=0.8,
                warmup_bias_lr=0.1, cos_lr=0, epochs=10, batch=16, nbs=32, batches=5, pictures=80, count=20, frozen=0)
CASES = {
    **{kind.lower(): dict(optimizer=kind) for kind in KINDS[1:]},
    "adaptive rate": dict(optimizer="AdamW", lr0=0.002, cos_lr=1, lrf=0.1),
    "auto few": dict(optimizer="auto"),
    "auto many": dict(optimizer="auto", epochs=400, pictures=800),
    "auto cold": dict(optimizer="auto", epochs=4001, warmup_epochs=0.0),
    "frozen": dict(optimizer="SGD", frozen=3),
    "short": dict(epochs=2, nbs=64, warmup_epochs=3.0, count=10),
    "capped": dict(epochs=1, nbs=512, batch=8, batches=3, count=3),
}
FIELDS = ["lr0", "lrf", "momentum", "weight_decay", "warmup_epochs", "warmup_momentum", "warmup_bias_lr", "cos_lr", "epochs",
          "batch", "nbs", "batches", "pictures", "count", "frozen"]


def sample(state):
    """Evenly spaced elements of each row of a state dict, in the engine's order: weights of convolutions as O,H,W,I."""
    rows = [(t.float().permute(0, 2, 3, 1) if t.ndim == 4 else t.float()).reshape(-1) for t in state.values()]
    return torch.stack([t[i * t.numel() // SAMPLES] for t in rows for i in range(SAMPLES)]).numpy()


def gradient(name, parameter, batch):
    scale = 10 ** (batch % 4 - 3)  # some steps are clipped
    draw = ((2 * make_net.uniform(f"{batch} {name}", make_net.SEED, parameter.numel()) - 1) * scale).astype(np.float32)
    if parameter.ndim == 4:
        o, i, r, s = parameter.shape
        return torch.from_numpy(np.ascontiguousarray(draw.reshape(o, r, s, i).transpose(0, 3, 1, 2)))
    return torch.from_numpy(draw).reshape(parameter.shape)


def make(set, here):
    model = DetectionModel(YAML.load(os.path.join(here, "fixtures", "net_tiny.yaml")), ch=3, verbose=False)
    with torch.no_grad():
        make_net.fill(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = ".dfl" not in name and not any(f"model.{i}." in name for i in range(set.frozen))
    trainer = BaseTrainer.__new__(BaseTrainer)
    trainer.args, trainer.data = set, {"nc": 4}
    # as BaseTrainer._build_train_pipeline and _setup_scheduler
    accumulate = max(round(set.nbs / set.batch), 1)
    decay = set.weight_decay * set.batch * accumulate / set.nbs
    nominal = min(accumulate, set.batches * set.epochs)
    trainer.epochs = set.epochs
    optimizer = trainer.optimizer = trainer.build_optimizer(model, set.optimizer, set.lr0, set.momentum, decay,
                                                            math.ceil(set.pictures / max(set.batch, set.nbs)) * set.epochs)
    trainer._setup_scheduler()
    ema = ModelEMA(model)
    warmup = trainer._get_warmup_iterations(set.batches)
    trace, last, accumulate, parameters = [], -1, nominal, dict(model.named_parameters())
    trainer.scheduler.last_epoch = -1
    for ni in range(set.count):
        epoch = ni // set.batches
        if ni % set.batches == 0:
            trainer.scheduler.step()
        if warmup and ni <= warmup:  # as _do_train
            accumulate = max(1, int(np.interp(ni, [0, warmup], [1, nominal]).round()))
            for group in optimizer.param_groups:
                start = set.warmup_bias_lr if group.get("param_group") == "bias" else 0.0
                group["lr"] = float(np.interp(ni, [0, warmup], [start, group["initial_lr"] * trainer.lf(epoch)]))
                if "momentum" in group:
                    group["momentum"] = float(np.interp(ni, [0, warmup], [set.warmup_momentum, set.momentum]))
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if name.endswith("running_mean"):
                    tensor += 0.01
                if name.endswith("num_batches_tracked"):
                    tensor += 1
        for name, parameter in parameters.items():
            if parameter.requires_grad:
                draw = gradient(name, parameter, ni)
                parameter.grad = draw if parameter.grad is None else parameter.grad + draw
        norm = -1.0
        if ni - last >= accumulate:
            norm = float(nn.utils.clip_grad_norm_(model.parameters(), max_norm=10.0))
            optimizer.step()
            optimizer.zero_grad()
            ema.update(model)
            last = ni
        groups = optimizer.param_groups
        trace.append([norm, accumulate, groups[0].get("momentum", -1), *(g["lr"] for g in groups)])
    chosen = next(i for i, k in enumerate(KINDS) if k.lower() == type(optimizer).__name__.lower())
    return {"kind": np.array([KINDS.index(set.optimizer_given), chosen]), "trace": np.array(trace),
            "params": sample(model.state_dict()), "ema": sample(ema.ema.state_dict())}


def main():
    torch.set_num_threads(1)
    here = os.path.dirname(os.path.abspath(__file__))
    arrays = {}
    for name, changes in CASES.items():
        set = SimpleNamespace(**{**DEFAULTS, **changes})
        set.optimizer_given = set.optimizer  # `auto` overwrites it
        arrays[f"{name}/settings"] = np.array([getattr(set, f) for f in FIELDS], dtype=np.float64)
        for key, value in make(set, here).items():
            arrays[f"{name}/{key}"] = value
        print(name, arrays[f"{name}/trace"][-1], len(arrays[f"{name}/params"]), file=sys.stderr)
    reference.write(os.path.join(here, "fixtures", "opt.ref"), arrays)


if __name__ == "__main__":
    main()
