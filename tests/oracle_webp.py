"""Compares the engine's WebP decoder with libwebp's on files made by libwebp's tools over all of their knobs.

    python3 tests/oracle_webp.py [--tool FILE] [--keep FOLDER]

Wants cwebp, dwebp, img2webp, webpinfo and webpmux (Debian: webp); without --tool, tests/tool_webp.c is built. Each file's pixels and
opacity must be those of `dwebp -nodither`, to the bit; of an animation, those of its first frame on a transparent black canvas.
Files with several partitions of coefficients come from libwebp.so.7, as cwebp has no option for them. Where Pillow is installed,
its pictures are compared as well. Files that are cut short must be refused. Prints a line for each that fails, then the counts; exit status
1 when any failed, 77 when the tools are missing.
"""
import argparse
import ctypes
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile

from checks import end, expect as check

HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = ("cwebp", "dwebp", "img2webp", "webpinfo", "webpmux")


def clip(value):
    return 0 if value < 0 else 255 if value > 255 else int(value)


def picture(kind, width, height, alpha, seed=1):
    """RGBA rows. Kinds: photo (smooth, some noise), drawing (flat areas and lines), noise, gray, or a number of colours."""
    r = random.Random(f"{kind} {width} {height} {alpha} {seed}")
    colours = [tuple(r.randrange(256) for _ in range(3)) for _ in range(kind if isinstance(kind, int) else 6)]
    rows = bytearray()
    for y in range(height):
        for x in range(width):
            if kind == "photo":
                n = r.randrange(12)
                rgb = (clip(x * 255 / width + n), clip(128 + 100 * ((x // 13 + y // 9) % 3 - 1) + n), clip(255 - (x + y) % 256 / 2 - n))
            elif kind == "drawing":
                rgb = colours[(x // 20 + y // 14) % 5] if (x * 2 + y) % 23 else colours[5]
            elif kind == "noise":
                rgb = tuple(r.randrange(256) for _ in range(3))
            elif kind == "gray":
                rgb = (clip((x * 3 + y * 2) % 256 + r.randrange(5)),) * 3
            else:
                rgb = colours[(x // 3 * 7 + y // 2 * 5 + (x * y // 11)) % kind]
            a = {"opaque": 255, "ramp": clip(x * 300 / width), "holes": 255 * ((x // 9 + y // 7) % 2), "noise": r.randrange(256),
                 "steps": (x * 8 // width) * 36, "sum": x * x * 7 % 90 + y * y * 11 % 120}[alpha]
            rows += bytes((*rgb, a))
    return bytes(rows)


def write_pam(path, width, height, rgba):
    with open(path, "wb") as f:
        f.write(b"P7\nWIDTH %d\nHEIGHT %d\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n" % (width, height) + rgba)


def cases():
    """Name, picture, options of cwebp."""
    sizes = [(1, 1), (2, 1), (1, 2), (3, 3), (4, 4), (5, 2), (15, 17), (16, 16), (17, 16), (16, 33), (33, 31), (64, 48), (97, 75), (4001, 3), (3, 1203)]
    for w, h in sizes:
        for kind in ("photo", "noise"):
            yield (kind, w, h, "opaque"), "-q 60"
            yield (kind, w, h, "opaque"), "-lossless"
        yield ("drawing", w, h, "ramp"), "-q 70"
        yield ("drawing", w, h, "noise"), "-lossless -exact"
    photo, noise, drawing, gray = (("photo", 131, 83, "opaque"), ("noise", 70, 51, "opaque"), ("drawing", 150, 101, "opaque"), ("gray", 90, 111, "opaque"))
    for q in (0, 1, 3, 8, 15, 25, 40, 50, 65, 75, 85, 92, 98, 100):
        for p in (photo, noise, drawing):
            yield p, f"-q {q}"
        yield photo, f"-lossless -q {q}"
    for m in range(7):
        for p in (photo, noise, drawing, gray):
            yield p, f"-m {m}"
        for p in (photo, drawing, gray):
            yield p, f"-lossless -m {m}"
    for segments in range(1, 5):
        for p in (photo, drawing):
            yield p, f"-segments {segments} -q 30 -sns 100"
    for sharpness in range(8):
        for f in (0, 1, 10, 40, 63, 100):
            yield photo, f"-q 20 -f {f} -sharpness {sharpness} {'-strong' if (f + sharpness) % 2 else '-nostrong'}"
    for options in ("-nostrong -f 80 -q 5", "-strong -f 100 -q 2", "-af -q 30", "-sns 0", "-sharp_yuv", "-pre 4", "-jpeg_like", "-size 1500", "-psnr 30", "-pass 4",
                    "-partition_limit 100 -q 90", "-preset text", "-preset icon", "-preset drawing", "-preset picture", "-preset photo", "-low_memory"):
        for p in (photo, drawing):
            yield p, options
    for z in range(10):
        yield drawing, f"-z {z}"
        yield photo, f"-z {z}"
    for near in (0, 20, 40, 60, 80, 99):
        yield photo, f"-near_lossless {near}"
    for colours in (1, 2, 3, 4, 5, 16, 17, 100, 256):
        yield (colours, 121, 67, "opaque"), "-lossless"
        yield (colours, 37, 90, "holes"), "-lossless -exact -m 6"
    for hint in ("photo", "picture", "graph"):
        yield drawing, f"-lossless -hint {hint}"
    for alpha in ("ramp", "holes", "noise", "steps", "sum"):
        for kind in ("photo", "drawing"):
            for options in ("-q 50", "-alpha_q 0", "-alpha_q 30", "-alpha_q 80", "-alpha_method 0", "-alpha_filter none", "-alpha_filter best", "-exact",
                            "-alpha_method 0 -alpha_filter best", "-alpha_method 0 -alpha_filter fast -alpha_q 10", "-lossless", "-lossless -exact", "-noalpha"):
                yield (kind, 83, 57, alpha), options


class Config(ctypes.Structure):
    _fields_ = [("lossless", ctypes.c_int), ("quality", ctypes.c_float), ("method", ctypes.c_int), ("hint", ctypes.c_int), ("size", ctypes.c_int),
                ("psnr", ctypes.c_float)] + [(name, ctypes.c_int) for name in (
                    "segments", "sns", "filter", "sharpness", "filter_type", "autofilter", "alpha_compression", "alpha_filtering", "alpha_quality", "passes",
                    "show", "preprocessing", "partitions", "partition_limit", "jpeg_like", "threads", "low_memory")] + [("rest", ctypes.c_int * 20)]


class Picture(ctypes.Structure):
    _fields_ = [("use_argb", ctypes.c_int), ("space", ctypes.c_int), ("width", ctypes.c_int), ("height", ctypes.c_int), ("yuv", ctypes.c_void_p * 3),
                ("strides", ctypes.c_int * 2), ("a", ctypes.c_void_p), ("a_stride", ctypes.c_int), ("pad1", ctypes.c_uint32 * 2), ("argb", ctypes.c_void_p),
                ("argb_stride", ctypes.c_int), ("pad2", ctypes.c_uint32 * 3), ("writer", ctypes.c_void_p), ("custom", ctypes.c_void_p),
                ("rest", ctypes.c_void_p * 40)]


def encode_partitions(library, path, width, height, rgba, partitions, quality):
    """A lossy file whose coefficients lie in 1 << partitions parts."""
    config, image, out = Config(), Picture(), bytearray()
    writer = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_uint8), ctypes.c_size_t, ctypes.c_void_p)(
        lambda data, size, _: out.extend(ctypes.string_at(data, size)) or 1)
    if not library.WebPConfigInitInternal(ctypes.byref(config), 0, ctypes.c_float(quality), 0x020f) or not library.WebPPictureInitInternal(ctypes.byref(image), 0x020f):
        return False
    config.partitions, config.low_memory = partitions, 1  # with memory to spare it makes one part
    image.width, image.height = width, height
    image.writer = ctypes.cast(writer, ctypes.c_void_p)
    good = library.WebPPictureImportRGBA(ctypes.byref(image), rgba, width * 4) and library.WebPEncode(ctypes.byref(config), ctypes.byref(image))
    library.WebPPictureFree(ctypes.byref(image))
    with open(path, "wb") as f:
        f.write(out)
    return bool(good)


def run(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


class Bench:
    """Makes files in a folder and collects them for the engine: (name, file, expected PAM)."""

    def __init__(self, folder):
        self.folder, self.files, self.sources = folder, [], {}

    def path(self, name):
        return os.path.join(self.folder, name)

    def source(self, p):
        if p not in self.sources:
            kind, width, height, alpha = p
            self.sources[p] = self.path(f"source{len(self.sources)}.pam")
            write_pam(self.sources[p], width, height, picture(kind, width, height, alpha))
        return self.sources[p]

    def add(self, name, path, reference=None):
        """Expects what dwebp makes of `reference` (the file itself)."""
        expected = path + ".expected"
        made = run("dwebp", "-quiet", "-nodither", reference or path, "-pam", "-o", expected)
        if made.returncode:
            check(name, False, f"dwebp: {made.stdout.strip()}")
        else:
            self.files.append((name, path, expected))

    def encode(self, p, options):
        path = self.path(f"{len(self.files)}.webp")
        made = run("cwebp", "-quiet", *options.split(), self.source(p), "-o", path)
        check(f"cwebp {p} {options}", made.returncode == 0, made.stdout)
        self.add(f"{p} {options}", path)
        return path


def partitions(bench):
    try:
        library = ctypes.CDLL("libwebp.so.7")
    except OSError:
        print("skip partitions: libwebp.so.7 is not installed")
        return
    for p in (("photo", 61, 190, "opaque"), ("noise", 100, 300, "opaque"), ("drawing", 40, 17, "holes")):
        rgba = picture(*p)
        for count in range(4):
            for quality in (10, 90):
                path = bench.path(f"parts{len(bench.files)}.webp")
                check(f"libwebp {p}", encode_partitions(library, path, p[1], p[2], rgba, count, quality))
                told = run("webpinfo", "-bitstream_info", path).stdout
                check(f"{p}, partitions of the file", f"Total partitions: {1 << count}\n" in told, told)
                bench.add(f"{p}, {1 << count} partitions, quality {quality}", path)


def large(bench):
    """More pixels than copies reach back, and a blank picture of few bytes."""
    r = random.Random(3)
    width, height = 2011, 1531
    lines = [bytes(b for x in range(width) for b in (*(clip((x * k) % 251 + r.randrange(9)) for k in (1, 2, 3)), 255)) for _ in range(7)]
    source = bench.path("large.pam")
    write_pam(source, width, height, b"".join(lines[y * y % 7] for y in range(height)))
    write_pam(bench.path("blank.pam"), 3000, 2000, bytes((9, 200, 30, 255)) * 6000000)
    for name, options in (("large", "-lossless -m 1"), ("large", "-q 80 -m 1"), ("large", "-lossless -m 3 -q 20"), ("blank", "-lossless -m 0")):
        path = bench.path(f"{name}{len(bench.files)}.webp")
        check(name, run("cwebp", "-quiet", *options.split(), bench.path(name + ".pam"), "-o", path).returncode == 0)
        bench.add(f"{name} {options}", path)


def opacity(path, plain, filter_, width, height, values):
    """The lossy file `plain` with opacity that is stored as it is, below one of the filters: `values` are what the file holds."""
    with open(plain, "rb") as f:
        lossy = f.read()[12:]
    data = bytes((filter_ << 2,)) + values

    def chunk(name, body):
        return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    head = struct.pack("<I", 0x10) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBP" + chunk(b"VP8X", head) + chunk(b"ALPH", data) + lossy
    with open(path, "wb") as f:
        f.write(b"RIFF" + struct.pack("<I", len(body)) + body)


def filters(bench):
    r = random.Random(5)
    for width, height in ((40, 31), (1, 9), (9, 1)):
        plain = bench.encode(("photo", width, height, "opaque"), "-q 40")
        for filter_ in range(4):
            for spread in (3, 256):
                path = bench.path(f"filter{len(bench.files)}.webp")
                opacity(path, plain, filter_, width, height, bytes((r.randrange(spread) - spread // 2) & 255 for _ in range(width * height)))
                bench.add(f"opacity of {width} x {height}, filter {filter_}, spread {spread}", path)


def containers(bench):
    """Metadata around the picture changes nothing; the engine's tool leaves out the orientation."""
    blob = bench.path("blob")
    with open(blob, "wb") as f:
        f.write(bytes(range(251)))
    for i, (p, options) in enumerate(((("photo", 50, 40, "opaque"), "-q 60"), (("drawing", 51, 43, "ramp"), "-q 60"), (("drawing", 33, 20, "noise"), "-lossless"))):
        plain = bench.encode(p, options)
        for kinds in (("icc",), ("exif",), ("xmp",), ("icc", "exif", "xmp")):
            path = plain
            for k in kinds:
                nested = bench.path(f"meta{i}{''.join(kinds)}{k}.webp")
                check(f"webpmux {k}", run("webpmux", "-set", k, blob, path, "-o", nested).returncode == 0)
                path = nested
            bench.add(f"{p} {options} with {kinds}", path)


def read_pam(path):
    with open(path, "rb") as f:
        head, _, body = f.read().partition(b"ENDHDR\n")
    words = head.split()
    return int(words[words.index(b"WIDTH") + 1]), int(words[words.index(b"HEIGHT") + 1]), body


def animations(bench):
    frames = [bench.source((kind, 60, 44, alpha)) for kind, alpha in (("photo", "opaque"), ("drawing", "holes"), ("noise", "ramp"))]
    for i, options in enumerate(("-lossless", "-lossy -q 50", "-lossy -q 90 -m 6")):
        for order in (frames, frames[1:] + frames[:1], frames[2:] + frames[:2]):
            path = bench.path(f"animation{len(bench.files)}.webp")
            first = path + ".first.webp"
            arguments = [word for frame in order for word in (*options.split(), frame)]
            check("img2webp", run("img2webp", "-mixed" if i == 2 else "-min_size", *arguments, "-o", path).returncode == 0)
            check("webpmux", run("webpmux", "-get", "frame", "1", path, "-o", first).returncode == 0)
            bench.add(f"animation {options}", path, first)
    # Frames that cover a part of the canvas.
    for options, at in (("-q 70", "+0+0"), ("-q 70", "+20+14"), ("-lossless", "+6+2"), ("-lossless", "+40+30")):
        small, full = bench.encode(("drawing", 31, 22, "steps"), options), bench.encode(("photo", 90, 70, "opaque"), options)
        path = bench.path(f"frames{len(bench.files)}.webp")
        made = run("webpmux", "-frame", small, f"+100{at}+1+b", "-frame", full, "+100+0+0", "-o", path)
        check("webpmux -frame", made.returncode == 0, made.stdout)
        bench.add(f"frame of {options} at {at}", path, small)
        expected = bench.files[-1][2]
        width, height, body = read_pam(expected)
        x, y = (int(n) for n in at[1:].split("+"))
        rows = [bytes(360)] * 70
        for k in range(height):
            rows[y + k] = bytes(x * 4) + body[k * width * 4:(k + 1) * width * 4] + bytes((90 - x - width) * 4)
        write_pam(expected, 90, 70, b"".join(rows))


def decode(tool, pairs):
    lines = subprocess.run([tool], input="".join(f"{a}\t{b}\n" for a, b in pairs), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout.splitlines()
    return lines + ["the tool ended"] * (len(pairs) - len(lines))


def compare(bench, tool):
    answers = decode(tool, [(path, path + ".pam") for _, path, _ in bench.files])
    for (name, path, expected), answer in zip(bench.files, answers):
        if answer != "ok":
            check(name, False, answer)
            continue
        (w, h, ours), (w2, h2, theirs) = read_pam(path + ".pam"), read_pam(expected)
        wrong = [i for i in range(0, len(ours), 4) if ours[i:i + 4] != theirs[i:i + 4]] if ours != theirs and len(ours) == len(theirs) else []
        at = wrong[0] // 4 if wrong else 0
        check(name, (w, h, ours) == (w2, h2, theirs), f"{path}: {w} x {h} and {w2} x {h2}, {len(wrong)} pixels differ, first {at % w}, {at // w}")


def compare_pillow(bench):
    try:
        from PIL import Image, features
    except ImportError:
        print("skip Pillow: it is not installed")
        return
    if not features.check("webp"):
        print("skip Pillow: it has no WebP")
        return
    for name, path, _ in bench.files:
        w, h, ours = read_pam(path + ".pam")
        with Image.open(path) as image:
            image.seek(0)
            check(f"Pillow: {name}", image.size == (w, h) and image.convert("RGBA").tobytes() == ours, f"{path}: differs")


def cut(bench, tool):
    r = random.Random(4)
    pairs = []
    for name, path, _ in bench.files[::9]:
        with open(path, "rb") as f:
            data = f.read()
        for size in sorted({1, 11, 12, 19, 29, len(data) - 1, *(r.randrange(1, len(data)) for _ in range(3))}):
            if size < len(data) - (data[-1] == 0):  # the last byte may be padding
                short = f"{path}.{size}.webp"
                with open(short, "wb") as f:
                    f.write(data[:size])
                pairs.append((short, bench.path("cut.pam")))
    for (short, _), answer in zip(pairs, decode(tool, pairs)):
        check(f"cut {short}", answer.startswith(short + ": ") and answer != "ok", answer)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tool")
    parser.add_argument("--keep", help="a folder for the files")
    args = parser.parse_args()
    missing = [t for t in TOOLS if not shutil.which(t)]
    if missing:
        print(f"skip: {', '.join(missing)} not installed (Debian: webp)")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        tool = args.tool or os.path.join(folder, "tool_webp")
        if not args.tool:
            subprocess.run([os.environ.get("CC", "cc"), "-std=c11", "-O2", "-ffp-contract=off", "-w", "-DYOLO_NO_CUDA", os.path.join(HERE, "tool_webp.c"), "-o", tool,
                            "-lm", "-lpthread", "-ldl"], check=True)
        if args.keep:
            os.makedirs(args.keep, exist_ok=True)
        bench = Bench(args.keep or folder)
        for p, options in cases():
            bench.encode(p, options)
        partitions(bench)
        filters(bench)
        containers(bench)
        animations(bench)
        large(bench)
        compare(bench, tool)
        compare_pillow(bench)
        cut(bench, tool)
        print(f"{len(bench.files)} files")
    end()


if __name__ == "__main__":
    main()
