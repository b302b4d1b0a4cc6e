"""Compares the training batches of yolo.c with ultralytics' own data set and transforms.

    PYTHON tests/oracle_aug.py [SEED]       PYTHON has ultralytics and cv2; run at the top of the repository

Pictures: ../shared/data/coco128. Without augmentation whole batches are compared, in square and rectangles. With it, every
random number that yolo.c drew is fed to ultralytics' transforms in the place of theirs, and what comes out is compared; then
the numbers themselves: each against ultralytics' own draws by Kolmogorov and Smirnov's test.
"""
import ctypes
import os
import random
import shutil
import subprocess
import sys
import tempfile

os.environ["YOLO_OFFLINE"] = "true"
import numpy as np

SHIM = r"""
#define YOLO_NO_MAIN
#define YOLO_NO_CUDA
#include "yolo.c"
typedef struct oracle { data_list list; dl_loader *dl; thr_pool *pool; } oracle;
static char oracle_message[1000];
const char *oracle_error(void) { return oracle_message; }
/* hyper: the aug_settings in their order */
void *oracle_open(const char *folder, int classes, int imgsz, int batch, int workers, int rect, int augment, double fraction,
                  unsigned long long cache, unsigned long long seed, const double *hyper, int shuffle) {
    oracle *o = mem_array(1, sizeof *o);
    yolo_error error = {0};
    dl_options options = {.imgsz = imgsz, .batch = batch, .stride = 32, .workers = workers, .rect = rect, .augment = augment,
                          .fraction = fraction, .cache_bytes = cache, .seed = seed, .shuffle = shuffle};
    memcpy(&options.augmentation, hyper, sizeof options.augmentation);
    if (data_collect(folder, &o->list, &error) != YOLO_OK || dl_create(&o->dl, &o->list, classes, &options, &error) != YOLO_OK) {
        snprintf(oracle_message, sizeof oracle_message, "%s", error.message);
        return NULL;
    }
    return o;
}
void oracle_close(oracle *o) { dl_destroy(o->dl); data_list_free(&o->list); mem_free(o); }
int oracle_start(oracle *o, int epoch, int mosaic) { return dl_start(o->dl, epoch, mosaic); }
int oracle_count(oracle *o) { return (int)o->dl->pictures; }
const char *oracle_path(oracle *o, int i) { return o->dl->items[i].path; }
int oracle_order(oracle *o, int i) { return (int)o->dl->order[i]; }
dl_batch *oracle_next(oracle *o) {
    dl_batch *batch;
    yolo_error error = {0};
    if (dl_next(o->dl, &batch, &error) != YOLO_OK) { fprintf(stderr, "%s\n", error.message); exit(1); }
    return batch;
}
static void oracle_pack(const aug_draw *d, double *out) {
    for (int i = 0; i < 3; i++) {
        const aug_view_draw *v = &d->views[i];
        const double numbers[] = {v->mosaic, v->center_x, v->center_y, v->perspective[0], v->perspective[1], v->degrees, v->factor,
                                  v->shear[0], v->shear[1], v->translate[0], v->translate[1]};
        memcpy(out + 11 * i, numbers, sizeof numbers);
    }
    out += 33;
    *out++ = d->mixed[1]; *out++ = d->mixed[2]; *out++ = d->ratio;
    for (int i = 0; i < 9; i++) *out++ = d->areas[i / 3][i % 3];
    *out++ = d->area;
    for (int i = 0; i < 3; i++) *out++ = d->gains[i];
    *out++ = d->flip_y; *out++ = d->flip_x; *out++ = d->bgr;
    for (int i = 0; i < 3; i++) *out++ = d->others[i];
    for (int i = 0; i < 3; i++) *out++ = d->views[0].partners[i];
}
void oracle_draw(oracle *o, int position, int mosaic, double *out) {
    aug_draw d;
    rng r = dl_rng(o->dl, position);
    aug_draw_sample(&d, &r, &o->dl->options.augmentation, o->dl->options.imgsz, mosaic);
    oracle_pack(&d, out);
}
/* One augmented picture: what was drawn, which pictures were taken, pixels, boxes (class x1 y1 x2 y2). */
int oracle_sample(oracle *o, int position, double *draws, int *held, int *size, unsigned char *pixels, float *boxes, int most) {
    dl_loader *dl = o->dl;
    dl_worker *w = &dl->workers[0];
    yolo_error error = {0};
    int64_t index = dl->order[position], batch = position / dl->options.batch;
    bool rect = dl->options.rect;
    w->scene.width = rect ? dl->rect_width[batch] : dl->options.imgsz;
    w->scene.height = rect ? dl->rect_height[batch] : dl->options.imgsz;
    if (dl_make_augmented(w, position, &index, pixels, &error) != YOLO_OK) { fprintf(stderr, "%s\n", error.message); exit(1); }
    oracle_draw(o, position, dl->mosaic && !rect, draws);
    memset(held, 255, 12 * sizeof *held);
    for (int i = 0; i < w->held_count; i++) held[i] = (int)w->held[i];
    size[0] = w->scene.height;
    size[1] = w->scene.width;
    dl_release(w);
    int n = (int)YOLO_MIN(w->boxes[0].count, most);
    for (int i = 0; i < n; i++) {
        boxes[5 * i] = (float)w->boxes[0].items[i].class_id;
        memcpy(boxes + 5 * i + 1, w->boxes[0].items[i].box, 16);
    }
    return n;
}
void oracle_floats(dl_batch *batch, float *out, int h, int w) { dl_floats(batch, out, h, w, NULL); }
int oracle_scale(int batch, int imgsz, double multi_scale) { return dl_scale(1, 2, batch, imgsz, multi_scale, 32); }
void oracle_area(const double *area, int width, int height, float *box) { aug_cut_area(area, width, height, box); }
/* n pixels of four bytes */
void oracle_hsv(const unsigned char *in, int n, const double *gains, unsigned char *out) {
    aug_hsv t;
    aug_hsv_make(&t, gains, false);
    aug_hsv_row(&t, in, n, out, 3);
}
"""
HYPER = ("hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr", "bgr", "mosaic", "mixup",
         "cutmix", "scale_min", "scale_max")
DEFAULT = dict(hsv_h=.015, hsv_s=.7, hsv_v=.4, degrees=0, translate=.1, scale=.5, shear=0, perspective=0, flipud=0, fliplr=.5, bgr=0,
               mosaic=1, mixup=0, cutmix=0, scale_min=0, scale_max=0)
failures = 0


class Batch(ctypes.Structure):
    _fields_ = [("pixels", ctypes.POINTER(ctypes.c_uint8)), ("scenes", ctypes.c_void_p), ("n", ctypes.c_int), ("h", ctypes.c_int),
                ("w", ctypes.c_int), ("targets", ctypes.c_void_p), ("first", ctypes.POINTER(ctypes.c_int)), ("pictures", ctypes.POINTER(ctypes.c_int64))]


def check(good, text):
    global failures
    failures += not good
    print(("ok   " if good else "FAIL ") + text)


def build(folder):
    with open(os.path.join(folder, "shim.c"), "w") as f:
        f.write(SHIM)
    library = os.path.join(folder, "shim.so")
    subprocess.run(["gcc", "-std=c11", "-O2", "-ffp-contract=off", "-w", "-shared", "-fPIC", "-I.", os.path.join(folder, "shim.c"), "-o", library,
                    "-lm", "-lpthread", "-ldl"], check=True)
    lib = ctypes.CDLL(library)
    lib.oracle_open.restype = ctypes.c_void_p
    lib.oracle_open.argtypes = [ctypes.c_char_p] + [ctypes.c_int] * 6 + [ctypes.c_double, ctypes.c_ulonglong, ctypes.c_ulonglong, ctypes.c_void_p, ctypes.c_int]
    lib.oracle_error.restype = lib.oracle_path.restype = ctypes.c_char_p
    lib.oracle_next.restype = ctypes.POINTER(Batch)
    for name in ("close", "count", "next"):
        getattr(lib, "oracle_" + name).argtypes = [ctypes.c_void_p]
    lib.oracle_start.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
    lib.oracle_path.argtypes = lib.oracle_order.argtypes = [ctypes.c_void_p, ctypes.c_int]
    lib.oracle_draw.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    lib.oracle_sample.argtypes = [ctypes.c_void_p, ctypes.c_int] + [ctypes.c_void_p] * 5 + [ctypes.c_int]
    lib.oracle_scale.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_double]
    return lib


class Ours:
    def __init__(self, lib, folder, imgsz, batch=16, workers=0, rect=False, augment=True, fraction=1.0, seed=0, shuffle=True, cache=0, **hyper):
        values = np.array([dict(DEFAULT, **hyper)[name] for name in HYPER])
        self.lib, self.imgsz = lib, imgsz
        self.handle = lib.oracle_open(folder.encode(), 80, imgsz, batch, workers, rect, augment, fraction, cache, seed, values.ctypes.data, shuffle)
        assert self.handle, lib.oracle_error()
        self.paths = [lib.oracle_path(self.handle, i).decode() for i in range(lib.oracle_count(self.handle))]

    def start(self, epoch=0, mosaic=True):
        self.lib.oracle_start(self.handle, epoch, mosaic)

    def batches(self):
        while True:
            b = self.lib.oracle_next(self.handle)
            if not b:
                return
            b = b.contents
            pixels = np.ctypeslib.as_array(b.pixels, (b.n, b.h, b.w, 3)).copy()
            first = [b.first[i] for i in range(b.n + 1)]
            raw = np.frombuffer(ctypes.string_at(b.targets, 20 * first[-1]), np.float32).reshape(-1, 5).copy() if first[-1] else np.zeros((0, 5), np.float32)
            raw[:, 0] = raw[:, 0].view(np.int32)
            yield pixels, [raw[first[i]:first[i + 1]] for i in range(b.n)], [b.pictures[i] for i in range(b.n)]

    def sample(self, position, most=20000):
        draws, held, size = np.zeros(58), np.zeros(12, np.int32), np.zeros(2, np.int32)
        pixels, boxes = np.zeros(self.imgsz * self.imgsz * 3, np.uint8), np.zeros((most, 5), np.float32)
        n = self.lib.oracle_sample(self.handle, position, draws.ctypes.data, held.ctypes.data, size.ctypes.data, pixels.ctypes.data, boxes.ctypes.data, most)
        return draws, held[held >= 0].tolist(), pixels[:size[0] * size[1] * 3].reshape(size[0], size[1], 3), boxes[:n]

    def close(self):
        self.lib.oracle_close(self.handle)


def dataset(folder, imgsz, batch=16, rect=False, augment=True, fraction=1.0, **hyper):
    from ultralytics.cfg import get_cfg
    from ultralytics.data.dataset import YOLODataset
    hyper = dict(DEFAULT, **hyper)
    scale = (hyper.pop("scale_min"), hyper.pop("scale_max"))
    cfg = get_cfg(overrides=hyper)
    if scale[1]:
        cfg.scale = scale
    return YOLODataset(img_path=folder, imgsz=imgsz, batch_size=batch, augment=augment, hyp=cfg, rect=rect, cache=None, single_cls=False,
                       stride=32, pad=0.0, task="detect", classes=None, data={"names": {i: str(i) for i in range(80)}, "nc": 80}, fraction=fraction)


def theirs(sample):
    """Pixels (h, w, 3) and boxes class x1 y1 x2 y2 of an ultralytics sample."""
    pixels = sample["img"].numpy().transpose(1, 2, 0)
    h, w = pixels.shape[:2]
    b = sample["bboxes"].numpy().astype(np.float64).reshape(-1, 4) * (w, h, w, h)
    return pixels, np.concatenate([sample["cls"].numpy().reshape(-1, 1), b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], 1)


class Tally:
    def __init__(self):
        self.pixels = self.different = self.worst = self.far = self.boxes = self.lost = 0
        self.box = 0.0

    def add(self, a, b):
        d = np.abs(a[0].astype(int) - b[0].astype(int)) if a[0].shape == b[0].shape else np.full(1, 999)
        self.pixels += d.size
        self.different += int((d > 0).sum())
        self.far += int((d > 1).sum())
        self.worst = max(self.worst, int(d.max()))
        self.boxes += len(b[1])
        if len(a[1]) != len(b[1]) or (a[1][:, 0] != b[1][:, 0]).any():
            self.lost += max(1, abs(len(a[1]) - len(b[1])))
        elif len(b[1]):
            self.box = max(self.box, float(np.abs(a[1] - b[1]).max()))

    def report(self, name, box=2e-3, far=0.0):
        check(self.far <= far * self.pixels and self.lost == 0 and self.box <= box and self.boxes > 0,
              f"{name}: {self.pixels} bytes, {self.different / self.pixels:.2e} of them differ, {self.far / self.pixels:.0e} by more than 1, by {self.worst} at most; "
              f"{self.boxes} boxes within {self.box:.1e} px, {self.lost} lost or gained")


def compare_plain(lib, folder):
    for imgsz, rect, batch in ((640, False, 16), (320, False, 7), (640, True, 16), (416, True, 5)):
        ours, tally = Ours(lib, folder, imgsz, batch, rect=rect, augment=False), Tally()
        data = dataset(folder, imgsz, batch, rect, False)
        place = {os.path.basename(f): i for i, f in enumerate(data.im_files)}
        ours.start(3)
        order, moved = [], 0
        for pixels, boxes, pictures in ours.batches():
            for i, picture in enumerate(pictures):
                there = place[os.path.basename(ours.paths[picture])]
                if rect and there // batch != picture // batch:
                    moved += 1  # of equal shape with another: numpy's sort is not stable
                    continue
                tally.add((pixels[i], boxes[i]), theirs(data[there]))
            order += pictures
        check(sorted(order) == list(range(len(data))) and (order != sorted(order)) != rect, f"imgsz {imgsz} rect {rect}: every picture once, shuffled unless rect")
        tally.report(f"augmentation off, imgsz {imgsz}, rect {rect}, {moved} left out")
        ours.close()


def compare_selection(lib, folder):
    for fraction in (.3, .5, .001, .0117, 7):
        ours, data = Ours(lib, folder, 320, fraction=fraction), dataset(folder, 320, fraction=fraction)
        same = [os.path.basename(p) for p in ours.paths] == [os.path.basename(f) for f in data.im_files]
        check(same, f"fraction {fraction}: the same {len(data)} pictures")
        ours.close()


class Script:
    """Stands for the modules random and numpy.random in augment.py and gives out our draws."""

    def __init__(self):
        self.queue = []

    def take(self, kind):
        assert self.queue, kind
        expected, value = self.queue.pop(0)
        assert expected == kind, (expected, kind)
        return value

    def uniform(self, low, high, size=None):
        return self.take("gains" if size else "uniform")

    def random(self):
        return self.take("random")

    def choices(self, population, k):
        return self.take("choices")

    def randint(self, low, high=None):
        return self.take("randint")

    def beta(self, a, b):
        return self.take(f"beta{int(a)}")

    def choice(self, items):
        return items[int(self.take("choice") * len(items))]


def script_view(d, view, held, p):
    """What Mosaic and RandomPerspective ask for; takes the partners off `held`."""
    mosaic, cx, cy, px, py, degrees, factor, sx, sy, tx, ty = d[11 * view:11 * view + 11]
    queue = [("uniform", 0.0 if mosaic else 2.0)]
    if mosaic:
        queue += [("choices", [held.pop(0) for _ in range(3)]), ("uniform", cy), ("uniform", cx)]
    return queue + [("uniform", v) for v in (px, py, degrees, factor, sx, sy, tx, ty)]


def script(d, held, coloured=True):
    held = held[1:]
    queue = script_view(d, 0, held, 1)
    mixup, cutmix, ratio = d[33:36]
    queue.append(("uniform", 0.0 if mixup else 2.0))
    if mixup:
        queue += [("randint", held.pop(0))] + script_view(d, 1, held, 1) + [("beta32", ratio)]
    queue.append(("uniform", 0.0 if cutmix else 2.0))
    if cutmix:
        queue += [("randint", held.pop(0))] + script_view(d, 2, held, 1)
    return queue, held


def compare_augmented(lib, folder, name, imgsz=640, rect=False, closed=False, count=40, epoch=0, seed=0, coloured=False, **hyper):
    import ultralytics.data.augment as augment
    ours, data, tally = Ours(lib, folder, imgsz, 16, rect=rect, seed=seed, **hyper), dataset(folder, imgsz, 16, rect, True, **hyper), Tally()
    if closed:
        from ultralytics.cfg import get_cfg
        data.close_mosaic(get_cfg(overrides={k: v for k, v in dict(DEFAULT, **hyper).items() if not k.startswith("scale_")}))
    place = {os.path.basename(f): i for i, f in enumerate(data.im_files)}
    mapped = [place[os.path.basename(p)] for p in ours.paths]
    hyper = dict(DEFAULT, **hyper)
    ours.start(epoch, not closed)
    fake, real = Script(), (augment.random, augment.np.random)
    used = {"mosaic": 0, "mixup": 0, "cutmix": 0}
    moved = 0
    for position in range(count):
        if rect and mapped[position] // 16 != position // 16:
            moved += 1  # of equal shape with another: numpy's sort is not stable
            continue
        d, held, pixels, boxes = ours.sample(position)
        held = [mapped[i] for i in held]
        index = held[0]
        # the pictures are in the buffer before chance is replaced
        sources = {i: data.get_image_and_label(i) for i in set(held)}
        fake.queue, rest = script(d, held)
        if d[34]:  # what cutmix asks for beyond its view depends on the pictures
            areas = d[36:45].reshape(3, 3)
            for lam, x, y in areas:
                fake.queue += [("beta1", lam), ("randint", int(x * imgsz)), ("randint", int(y * imgsz))]
            fake.queue += [("choice", d[45])]
        late = []
        if hyper["hsv_h"] or hyper["hsv_s"] or hyper["hsv_v"]:
            late.append(("gains", np.array([g / s if s else 0 for g, s in zip(d[46:49], (hyper["hsv_h"], hyper["hsv_s"], hyper["hsv_v"]))])))
        late += [("random", 0.0 if d[49] else 1.0), ("random", 0.0 if d[50] else 1.0), ("uniform", 0.0 if d[51] else 2.0)]
        fake.queue += late
        used["mosaic"] += int(d[0])
        used["mixup"] += int(d[33])
        used["cutmix"] += int(d[34])
        take = fake.take

        def tolerant(kind, take=take):  # cutmix without a free area chooses none
            if kind != "choice" and fake.queue and fake.queue[0][0] == "choice":
                fake.queue.pop(0)
            return take(kind)
        fake.take = tolerant
        augment.random, saved = fake, augment.np
        augment.np = type("numpy", (), {"__getattr__": lambda self, key: fake if key == "random" else getattr(saved, key)})()
        try:
            result = theirs(data[index])
        finally:
            augment.random, augment.np = real[0], saved
            fake.take = take
        assert not fake.queue, fake.queue
        tally.add((pixels, boxes), result)
    ours.close()
    tally.report(far=1e-3 if coloured else 0, name=f"{name} ({', '.join(f'{v} {k}' for k, v in used.items())} of {count - moved})")


def compare_colours(lib):
    """Every colour there is, through gains of every kind, in rows as long as cv2's vector code wants them."""
    import cv2
    from ultralytics.data.augment import RandomHSV
    import ultralytics.data.augment as augment
    colours = np.arange(1 << 24, dtype=np.uint32)
    rgb = np.stack([colours >> 16 & 255, colours >> 8 & 255, colours & 255, colours & 0], -1).astype(np.uint8)
    generator, worst, different = np.random.default_rng(2), 0, 0
    for gains in [np.array(g, float) for g in ((0, 0, 0), (1, 1, 1), (-1, -1, -1), (.3, 1, .5))] + [generator.uniform(-1, 1, 3) for _ in range(4)]:
        image = np.ascontiguousarray(rgb[:, 2::-1].reshape(4096, 4096, 3))
        fake, saved = Script(), augment.np
        fake.queue = [("gains", gains)]
        augment.np = type("numpy", (), {"__getattr__": lambda self, key: fake if key == "random" else getattr(saved, key)})()
        RandomHSV(.5, .9, .9).apply_image({"img": image})
        augment.np = saved
        drawn, out = gains * (.5, .9, .9), np.zeros((1 << 24, 3), np.uint8)
        lib.oracle_hsv(rgb.ctypes.data_as(ctypes.c_void_p), 1 << 24, drawn.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p))
        d = np.abs(out.astype(np.int16) - image.reshape(-1, 3)[:, ::-1])
        worst, different = max(worst, int(d.max())), different + int((d > 0).sum())
    check(worst <= 1 and different < 1e-3 * 8 * 3 * (1 << 24), f"colours: all 2^24 under 8 gains, {different} of {8 * 3 << 24} bytes differ, by {worst} at most")


def compare_floats(lib):
    import torch
    generator, worst = np.random.default_rng(3), 0.0
    for h, w, to_h, to_w in ((64, 96, 96, 128), (96, 96, 64, 64), (64, 64, 64, 64), (32, 64, 64, 64)):
        pixels = generator.integers(0, 256, (2, h, w, 3), dtype=np.uint8)
        batch = Batch(pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), None, 2, h, w)
        out = np.zeros((2, to_h, to_w, 3), np.float32)
        lib.oracle_floats(ctypes.byref(batch), out.ctypes.data_as(ctypes.c_void_p), to_h, to_w)
        expected = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).float() / 255
        if (h, w) != (to_h, to_w):
            expected = torch.nn.functional.interpolate(expected, size=(to_h, to_w), mode="bilinear", align_corners=False)
        worst = max(worst, float(np.abs(out.transpose(0, 3, 1, 2) - expected.numpy()).max()))
    check(worst < 5e-6, f"floats: within {worst:.1e} of torch's interpolate")


def same_distribution(name, ours, theirs):
    """Kolmogorov and Smirnov's two-sample test at one in ten thousand."""
    a, b = np.sort(np.asarray(ours, float)), np.sort(np.asarray(theirs, float))
    both = np.concatenate([a, b])
    d = np.abs(np.searchsorted(a, both, "right") / len(a) - np.searchsorted(b, both, "right") / len(b)).max()
    limit = 2.23 * ((len(a) + len(b)) / (len(a) * len(b))) ** .5
    check(d < limit, f"distribution of {name}: D {d:.4f} < {limit:.4f} for {len(a)} and {len(b)} draws")


def same_share(name, hits, count, share):
    check(abs(hits - count * share) <= 4 * (count * share * (1 - share)) ** .5 + 1e-9, f"{name}: {hits} of {count}, expected {share:g}")


def compare_distributions(lib, folder, seed, count=4000):
    import ultralytics.data.augment as augment
    hyper = dict(degrees=20, translate=.2, scale=.6, shear=7, perspective=5e-4, mosaic=.7, mixup=.4, cutmix=.3, flipud=.3, fliplr=.6, bgr=.2)
    size, image = 640, np.zeros((480, 640, 3), np.uint8)
    ours = Ours(lib, folder, size, 16, seed=seed, **hyper)
    ours.start(1)
    draws = np.zeros((count, 58))
    for i in range(count):
        ours.lib.oracle_draw(ours.handle, i, 1, draws[i].ctypes.data)
    ours.close()
    random.seed(seed)
    np.random.seed(seed)
    affine = augment.RandomPerspective(*(hyper[k] for k in ("degrees", "translate", "scale", "shear", "perspective")), size=(size, size))
    expected = [affine._compute_affine_matrix(image, (size, size))[0].ravel() for _ in range(count)]
    real, fake, matrices = augment.random, Script(), []
    augment.random = fake
    for view in range(3):
        for d in draws[:count // 3 if view else count, 11 * view:11 * view + 11]:
            fake.queue = [("uniform", v) for v in d[3:]]
            matrices.append((view, affine._compute_affine_matrix(image, (size, size))[0].ravel()))
    augment.random = real
    for view in range(3):
        own = np.array([m for v, m in matrices if v == view])
        for k in range(8) if view == 0 else (0, 2):
            same_distribution(f"matrix entry {k} of view {view}", own[:, k], np.array(expected)[:, k])
        centers = np.array([[int(random.uniform(320, 960)), int(random.uniform(320, 960))] for _ in range(count)])
        for k in range(2):
            same_distribution(f"mosaic centre {'xy'[k]} of view {view}", draws[:, 11 * view + 1 + k], centers[:, k])
    for k in range(3):
        same_distribution(f"partner {k}", np.floor(draws[:, 55 + k] * 128), np.random.randint(0, 128, count))
        same_distribution(f"gain {k}", draws[:, 46 + k], np.random.uniform(-1, 1, count) * (.015, .7, .4)[k])
        if k:
            same_distribution(f"picture mixed in {k}", np.floor(draws[:, 52 + k] * 128), np.random.randint(0, 128, count))
    same_distribution("mixup's ratio", draws[draws[:, 33] > 0, 35], np.random.beta(32, 32, count))
    cut, boxes = augment.CutMix(None, p=1), np.zeros((count, 4), np.float32)
    theirs_boxes = np.array([cut._rand_bbox(640, 480) for _ in range(count)])
    for i in range(count):
        lib.oracle_area(draws[i, 36:39].copy().ctypes.data_as(ctypes.c_void_p), 640, 480, boxes[i].ctypes.data_as(ctypes.c_void_p))
    for k in range(4):
        same_distribution(f"cutmix's area {k}", boxes[:, k], theirs_boxes[:, k])
    for name, column, share in (("mosaic", 0, .7), ("mosaic of mixup", 11, .7), ("mixup", 33, .4), ("cutmix", 34, .3), ("flipud", 49, .3), ("fliplr", 50, .6), ("bgr", 51, .2)):
        same_share(name, int(draws[:, column].sum()), count, share)
    ranges = [random.randrange(max(32, int(640 * .5)), int(640 * 1.5 + 32)) // 32 * 32 for _ in range(count)]
    same_distribution("multi_scale", [lib.oracle_scale(i, 640, .5) for i in range(count)], ranges)
    inside = np.corrcoef(draws[:, [1, 2, 5, 6, 9, 10, 46, 47, 48, 49, 50, 55, 56, 57]].T) - np.eye(14)
    check(np.abs(inside).max() < 5 / count ** .5, f"draws of one picture do not hang together: correlation {np.abs(inside).max():.3f}")
    next_to = max(abs(np.corrcoef(draws[:-1, k], draws[1:, k])[0, 1]) for k in (1, 2, 6, 9, 10, 46, 50, 55))
    check(next_to < 5 / count ** .5, f"nor do those of neighbours: correlation {next_to:.3f}")


def main():
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    lib_folder = tempfile.mkdtemp()
    try:
        lib = build(lib_folder)
        folder = os.path.join(lib_folder, "images")
        shared = os.path.join("..", "shared", "data", "coco128")
        for kind in ("images", "labels"):
            shutil.copytree(os.path.join(shared, kind, "train2017"), os.path.join(lib_folder, kind))
        compare_colours(lib)
        compare_floats(lib)
        compare_distributions(lib, folder, seed)
        compare_selection(lib, folder)
        compare_plain(lib, folder)
        dull = dict(hsv_h=0, hsv_s=0, hsv_v=0)  # colours amplify a last bit of the geometry, so they are compared by themselves
        compare_augmented(lib, folder, "defaults", coloured=True)
        compare_augmented(lib, folder, "geometry of the defaults", **dull)
        compare_augmented(lib, folder, "no mosaic", closed=True, **dull)
        compare_augmented(lib, folder, "all off", closed=True, **dull, translate=0, scale=0, fliplr=0)
        compare_augmented(lib, folder, "rotation, shear", imgsz=416, **dull, degrees=30, shear=8, flipud=.5, bgr=.5)
        compare_augmented(lib, folder, "perspective", imgsz=416, **dull, degrees=5, shear=2, perspective=5e-4)
        compare_augmented(lib, folder, "mixup", imgsz=320, **dull, mixup=.7)
        compare_augmented(lib, folder, "cutmix", imgsz=320, **dull, cutmix=1, mosaic=.5, count=120)
        compare_augmented(lib, folder, "mixup and cutmix, half mosaic", imgsz=320, **dull, mixup=.5, cutmix=.8, mosaic=.5, degrees=10, count=80)
        compare_augmented(lib, folder, "rect", rect=True, **dull, count=60)
        compare_augmented(lib, folder, "scale from 0.2 to 3", **dull, scale_min=.2, scale_max=3, imgsz=320)
    finally:
        shutil.rmtree(lib_folder)
    print(f"{failures} failed")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
