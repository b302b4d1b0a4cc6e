"""Compares some training steps of several ranks with torch's DistributedDataParallel (gloo) around ultralytics' model and loss, on
coco128's pictures in fp32: losses of each batch (mean of the ranks), weights and their average of rank 0 in the end.

    PYTHON tests/oracle_ddp.py [NAME ...]      PYTHON has ultralytics; run at the top of the repository

Each torch process has the part of every batch that the engine's rank of the same number has, multiplies its loss with the number
of ranks, as ultralytics' trainer does, and DDP takes the mean of the gradients. Losses agree to 1e-3 of each and weights to 1e-4
of their size, running statistics, which are rank 0's, included.
"""
import socket
import subprocess
import sys
import warnings

import numpy as np
import oracle_steps
import oracle_train
import reference
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from oracle_train import BATCH

# Ranks, optimizer, lr0, nbs, batches; the warm-up takes seven batches. SGD with the usual rate is unstable with batch norms over two
# pictures: differences of 1e-6 in the first batches have grown to 1e-1 in the tenth.
CASES = {
    "sgd": (2, "SGD", 0.001, 4, 10),
    "auto": (2, "auto", 0.01, 4, 10),
    "accumulate": (2, "auto", 0.01, 8, 14),
    "four": (4, "auto", 0.01, 4, 10),
}


def part_of(batch, rank, ranks):
    """Pictures that follow each other; DDP's ranks have as many each."""
    each = BATCH // ranks
    mine = (batch["batch_idx"] >= rank * each) & (batch["batch_idx"] < (rank + 1) * each)
    return {"img": batch["img"][rank * each:(rank + 1) * each], "cls": batch["cls"][mine], "bboxes": batch["bboxes"][mine],
            "batch_idx": batch["batch_idx"][mine] - rank * each}


def work(rank, ranks, port, path, batches, optimizer, lr0, nbs, out):
    """A process of torch's."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    result = oracle_steps.train(path, [part_of(b, rank, ranks) for b in batches], optimizer, lr0, nbs, ranks=ranks,
                                spread=lambda m: torch.nn.parallel.DistributedDataParallel(m, broadcast_buffers=False, find_unused_parameters=True))
    losses = torch.from_numpy(result["losses"])
    dist.all_reduce(losses)
    if not rank:
        np.savez(out, **{**result, "losses": (losses / ranks).numpy()})
    dist.destroy_process_group()


def compare(name, ranks, optimizer, lr0, nbs, count):
    path = f"{name}.pt"
    oracle_train.make("n", "silu", "trained", path)
    batches = [oracle_train.batch_of(BATCH * (i % 5)) for i in range(count)]
    for i, batch in enumerate(batches):
        oracle_train.write_batch(f"{i}.bin", batch)
    done = subprocess.run(["./tool_train", "ranks", path, "out.ref", str(ranks), optimizer, str(lr0), str(oracle_steps.WARMUP), str(nbs),
                           *(f"{i}.bin" for i in range(count))], capture_output=True, text=True)
    if done.returncode:
        print(f"{name:<12} {done.stderr.strip()}")
        return False
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (ranks, port, path, batches, optimizer, lr0, nbs, "want.npz"), nprocs=ranks)
    found = oracle_steps.apart(reference.read("out.ref"), dict(np.load("want.npz")))
    good = bool((found <= [1e-3, 1e-4, 1e-4]).all())
    print("{:<12} {} ranks, {} batches: losses {:.1e}  weights {:.1e}  average {:.1e}".format(name, ranks, count, *found) + ("" if good else "  FAILED"), flush=True)
    return good


if __name__ == "__main__":
    sys.exit(oracle_steps.run(CASES, compare))
