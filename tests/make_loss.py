"""Makes tests/fixtures/loss.ref: assignment, losses and gradients of ultralytics on a few cases of tests/oracle_loss.py, with
heads that tests/test_loss.c draws again. Run where ultralytics is installed: python tests/make_loss.py"""
import os

import make_net
import numpy as np
import oracle_loss
import reference
import torch

CASES = [(0, False), (2, False), (3, True), (8, False), (12, True), (14, True)]


def main():
    torch.set_num_threads(1)
    arrays = {}
    for index, small in CASES:
        case = oracle_loss.make(index, small)
        case.n, name = min(case.n, 2), f"{index}"
        case.targets = case.targets[case.targets[:, 0] < case.n]
        for level, head in enumerate(case.heads):
            draw = make_net.uniform(f"{index} {level}", make_net.SEED, case.n * head[0].size) * 8 - 4
            case.heads[level] = draw.astype(np.float32).reshape(case.n, *head.shape[1:])
        found = oracle_loss.reference(case)
        counts = [int((case.targets[:, 0] == i).sum()) for i in range(case.n)]
        arrays[f"{name}/shape"] = np.array([case.n, case.nc, case.h, case.w])
        arrays[f"{name}/first"] = np.cumsum([0] + counts)
        arrays[f"{name}/boxes"] = np.concatenate([found.boxes[i][:c] for i, c in enumerate(counts)])
        arrays[f"{name}/losses"] = np.array(found.losses)
        picture, anchor = np.nonzero(found.target >= 0)
        arrays[f"{name}/assigned"] = np.stack([picture, anchor, found.target[picture, anchor]], 1)
        arrays[f"{name}/score"] = found.score[picture, anchor]
        flat = np.concatenate([g.reshape(case.n, -1, 64 + case.nc) for g in found.gradients], 1)
        weighted = flat.astype(np.float64) @ (1.0 + np.arange(64 + case.nc) % 7)  # of each anchor's logits
        arrays[f"{name}/gradient"] = np.append(weighted[picture, anchor], weighted.sum())
        print(case.kind, case.n, case.nc, case.h, case.w, len(case.targets), int((found.target >= 0).sum()), found.losses)
    reference.write(os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures", "loss.ref"), arrays)


if __name__ == "__main__":
    main()
