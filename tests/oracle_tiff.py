"""Compares the engine's TIFF decoder with libtiff's on files that libtiff writes over all of their knobs.

    python3 tests/oracle_tiff.py [--tool FILE] [--keep FOLDER]

Wants libtiff.so.6 (Debian: libtiff6) and numpy; without --tool, tests/tool_tiff.c is built. libtiff reads each file's samples back, and
they are scaled and coloured here by the formulas yolo.c states; that must give the engine's pixels to the bit. Where libtiff makes RGB itself
(integers of up to 8 bits, RGB of 16), that must be the same too. Floats are compared likewise. Where Pillow is installed and converts as
libtiff does, its pictures are compared as well. Files that are cut short must be refused.
Prints a line for each that fails, then the counts; exit status 1 when any failed, 77 when libtiff is missing.
"""
import argparse
import ctypes
import os
import random
import struct
import subprocess
import sys
import tempfile

import numpy as np
from checks import expect as check, end

HERE = os.path.dirname(os.path.abspath(__file__))
RAW, ROWS, FAX3, FAX4, LZW, JPEG, DEFLATE, PACKBITS, OLD_DEFLATE = 1, 2, 3, 4, 5, 7, 8, 32773, 32946
NAMES = {RAW: "raw", ROWS: "rows", FAX3: "fax3", FAX4: "fax4", LZW: "lzw", JPEG: "jpeg", DEFLATE: "deflate", PACKBITS: "packbits", OLD_DEFLATE: "olddeflate"}
WHITE0, BLACK0, RGB, INDEX, CMYK, YCC = 0, 1, 2, 3, 5, 6


class Tiff:
    """The few calls of libtiff that are wanted."""

    def __init__(self):
        self.c = ctypes.CDLL("libtiff.so.6")
        for name in ("TIFFOpen",):
            getattr(self.c, name).restype = ctypes.c_void_p
        for name in ("TIFFWriteEncodedStrip", "TIFFWriteEncodedTile", "TIFFReadEncodedStrip", "TIFFReadEncodedTile", "TIFFStripSize", "TIFFTileSize", "TIFFScanlineSize", "TIFFTileRowSize"):
            getattr(self.c, name).restype = ctypes.c_ssize_t
        self.c.TIFFSetWarningHandler(None)
        self.c.TIFFSetErrorHandler(None)

    def open(self, path, mode):
        tif = self.c.TIFFOpen(path.encode(), mode.encode())
        return ctypes.c_void_p(tif) if tif else None

    def set(self, tif, tag, *values):
        assert self.c.TIFFSetField(tif, ctypes.c_uint32(tag), *values) == 1, f"tag {tag}"

    def get(self, tif, tag, kind=ctypes.c_uint32):
        value = kind(0)
        self.c.TIFFGetFieldDefaulted(tif, ctypes.c_uint32(tag), ctypes.byref(value))
        return value.value

    def rgba(self, path, width, height):
        """libtiff's own RGB, or None."""
        tif = self.open(path, "r")
        out = np.zeros((height, width, 4), np.uint8)
        good = self.c.TIFFReadRGBAImageOriented(tif, width, height, out.ctypes.data_as(ctypes.c_void_p), 1, 1)
        self.c.TIFFClose(tif)
        return out[..., :3].copy() if good else None


def pack(samples, bits):
    """Rows of samples (H, N) as libtiff takes them: whole bytes in the machine's order, or bits from the highest on."""
    if bits in (8, 16, 32, 64):
        return samples.tobytes()
    if bits == 24:
        return samples.astype("<u4").view(np.uint8).reshape(*samples.shape, 4)[..., :3].tobytes()
    spread = (samples[..., None].astype(np.uint32) >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(spread.reshape(samples.shape[0], -1).astype(np.uint8), axis=1).tobytes()


def unpack(data, rows, count, bits, dtype):
    if bits in (8, 16, 32, 64):
        return np.frombuffer(data, dtype).reshape(rows, count)
    if bits == 24:
        parts = np.frombuffer(data, np.uint8).reshape(rows, count, 3).astype(np.uint32)
        return parts[..., 0] | parts[..., 1] << 8 | parts[..., 2] << 16
    lines = np.unpackbits(np.frombuffer(data, np.uint8).reshape(rows, -1), axis=1)[:, :count * bits].reshape(rows, count, bits)
    return (lines.astype(np.uint32) << np.arange(bits - 1, -1, -1)).sum(-1)


def write(t, path, samples, bits, photometric, packing, mode="w", form=1, planar=False, tile=None, rows=None, tags=()):
    """samples (H, W, S). tags: (tag, values...) set before the data are written."""
    height, width, count = samples.shape
    tif = t.open(path, mode)
    for tag, value in ((256, width), (257, height), (258, bits), (277, count), (262, photometric), (284, 2 if planar else 1), (339, form), (259, packing)):
        t.set(tif, tag, ctypes.c_int(value))
    for tag, *values in tags:
        t.set(tif, tag, *(ctypes.c_int(v) if isinstance(v, int) else v for v in values))
    if tile:
        t.set(tif, 322, ctypes.c_int(tile[0]))
        t.set(tif, 323, ctypes.c_int(tile[1]))
        tall, wide = tile[1], tile[0]
    else:
        tall, wide = rows or height, width
        t.set(tif, 278, ctypes.c_int(tall))
    index = 0
    for plane in ([samples[..., i:i + 1] for i in range(count)] if planar else [samples]):
        for y in range(0, height, tall):
            for x in range(0, width, wide):
                part = plane[y:y + tall, x:x + wide]
                if tile:
                    part = np.pad(part, ((0, tall - part.shape[0]), (0, wide - part.shape[1]), (0, 0)), mode="edge")
                data = ctypes.create_string_buffer(pack(part.reshape(part.shape[0], -1), bits))
                call = t.c.TIFFWriteEncodedTile if tile else t.c.TIFFWriteEncodedStrip
                assert call(tif, ctypes.c_uint32(index), data, ctypes.c_ssize_t(len(data) - 1)) == len(data) - 1, path
                index += 1
    t.c.TIFFClose(tif)


def write_blocks(t, path, width, height, sub, packing, mode, rows, tags, seed, tile=None):
    """YCbCr of which sub pixels share chroma; random data."""
    r = np.random.default_rng(seed)
    tif = t.open(path, mode)
    for tag, value in ((256, width), (257, height), (258, 8), (277, 3), (262, YCC), (284, 1), (259, packing)):
        t.set(tif, tag, ctypes.c_int(value))
    t.set(tif, 530, ctypes.c_int(sub[0]), ctypes.c_int(sub[1]))
    for tag, *values in tags:
        t.set(tif, tag, *values)
    wide, tall = tile or (width, rows)
    for tag, value in ((322, wide), (323, tall)) if tile else ((278, tall),):
        t.set(tif, tag, ctypes.c_int(value))
    index = 0
    for y in range(0, height, tall):
        for _ in range(0, width, wide):
            lines = tall if tile else min(tall, height - y)
            size = -(-lines // sub[1]) * -(-wide // sub[0]) * (sub[0] * sub[1] + 2)
            data = ctypes.create_string_buffer(bytes(r.integers(0, 256, size, np.uint8)))
            call = t.c.TIFFWriteEncodedTile if tile else t.c.TIFFWriteEncodedStrip
            assert call(tif, ctypes.c_uint32(index), data, ctypes.c_ssize_t(size)) == size, path
            index += 1
    t.c.TIFFClose(tif)


def read(t, path, width, height, count, bits, dtype, rgb_jpeg=False):
    """libtiff's samples (H, W, S)."""
    tif = t.open(path, "r")
    if rgb_jpeg:
        t.set(tif, 65538, ctypes.c_int(1))
    planar, tiled = t.get(tif, 284, ctypes.c_uint16) == 2, t.c.TIFFIsTiled(tif)
    wide, tall = (t.get(tif, 322), t.get(tif, 323)) if tiled else (width, min(t.get(tif, 278), height))
    size = t.c.TIFFTileSize(tif) if tiled else t.c.TIFFStripSize(tif)
    out, together, index = np.zeros((height, width, count), dtype), 1 if planar else count, 0
    for plane in range(count if planar else 1):
        for y in range(0, height, tall):
            for x in range(0, width, wide):
                data = ctypes.create_string_buffer(size)
                got = (t.c.TIFFReadEncodedTile if tiled else t.c.TIFFReadEncodedStrip)(tif, ctypes.c_uint32(index), data, ctypes.c_ssize_t(size))
                assert got > 0, f"libtiff cannot read {path}"
                lines = got // -(-wide * together * bits // 8)
                part = unpack(data.raw[:got], lines, wide * together, bits, dtype).reshape(lines, wide, together)
                h, w = min(lines, height - y), min(wide, width - x)
                out[y:y + h, x:x + w, plane:plane + together] = part[:h, :w]
                index += 1
    t.c.TIFFClose(tif)
    return out


def levels(samples, bits, form):
    """0 to 255, as yolo.c states it."""
    if form == 3:
        value = np.clip(np.nan_to_num(samples.astype(np.float64), nan=0, posinf=2, neginf=-1), 0, 1).astype(np.float32)
        return (value * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    value = samples.astype(np.int64) & ((1 << bits) - 1)
    if form == 2:
        value ^= 1 << (bits - 1)
    if bits > 16:
        value >>= bits - 16
        bits = 16
    if bits == 16:
        return ((value * 255 + 32895) >> 16).astype(np.uint8)
    most = (1 << bits) - 1
    return ((value * 255 + most // 2) // most).astype(np.uint8)


def colour(samples, bits, form, photometric, palette):
    if photometric == INDEX:
        return palette[samples[..., 0].astype(int)]
    values = levels(samples, bits, form)
    if photometric in (WHITE0, BLACK0):
        return np.repeat(values[..., :1] if photometric else 255 - values[..., :1], 3, 2)
    if photometric == CMYK:
        return ((255 - values[..., :3].astype(int)) * (255 - values[..., 3:4].astype(int)) // 255).astype(np.uint8)
    return values[..., :3]


def source(width, height, count, bits, form, seed, kind):
    """Samples that are smooth, noisy, or runs."""
    r = np.random.default_rng(seed)
    y, x, c = np.mgrid[0:height, 0:width, 0:count]
    most = (1 << bits) - 1
    if form == 3:
        value = np.sin(x * .11 + c) * .4 + y / max(height, 2) * .8 + r.normal(0, .05, x.shape)
        value[r.random(x.shape) < .01] = np.nan
        value[r.random(x.shape) < .01] = np.inf
        return value.astype({16: np.float16, 32: np.float32, 64: np.float64}[bits])
    smooth = (np.sin(x * .07 + c) * .3 + np.cos(y * .05) * .2 + .5) * most
    value = {"smooth": smooth, "noise": r.integers(0, most + 1, x.shape), "runs": ((x // 7 + y // 5 + c) % 3 == 0) * most * ((y % 11) > 2)}[kind]
    return np.clip(value, 0, most).astype(np.uint64).astype(np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32)


class Bench:
    def __init__(self, t, folder):
        self.t, self.folder, self.files = t, folder, []

    def path(self):
        return os.path.join(self.folder, f"{len(self.files)}.tif")

    def make(self, name, width, height, count, bits, photometric, packing, form=1, kind="smooth", own=None, orientation=1, tags=(), opaque=True, **more):
        path = self.path()
        samples = source(width, height, count, bits, form, len(self.files), kind)
        palette = None
        tags = list(tags)
        if photometric == INDEX:
            maps = np.random.default_rng(len(self.files)).integers(0, 65536, (3, 1 << bits)).astype(np.uint16)
            palette = (maps.T >> 8).astype(np.uint8)
            tags.append((320, *(np.ascontiguousarray(m).ctypes.data_as(ctypes.c_void_p) for m in maps)))
        colours = {RGB: 3, CMYK: 4, YCC: 3}.get(photometric, 1)
        if count > colours:
            extra = (ctypes.c_uint16 * (count - colours))(*([1 if opaque else 2] + [0] * (count - colours - 1)))
            tags.append((338, count - colours, extra))
        if orientation != 1:
            tags.append((274, orientation))
        name = f"{name} {NAMES[packing]} {width}x{height}x{count} {bits} bits, photometric {photometric}, {kind}, {more}"
        try:
            write(self.t, path, samples, bits, photometric, packing, form=form, tags=tags, **more)
        except AssertionError as e:
            check(name, False, f"libtiff does not write it: {e}")
            return
        if own is None:  # does libtiff make RGB of it, without multiplying by opacity? Of tiled gray with opacity it makes nonsense
            known = bits in (1, 2, 4, 8) or bits == 16 and photometric == RGB
            own = form == 1 and orientation == 1 and known and (count == 1 or bits >= 8 and photometric >= RGB and (count == colours or opaque and photometric != CMYK))
        self.expect(name, path, width, height, count, bits, photometric, form, palette, samples.dtype, orientation, own)

    def expect(self, name, path, width, height, count, bits, photometric, form, palette, dtype, orientation=1, own=True, rgb_jpeg=False):
        samples = read(self.t, path, width, height, count, bits, dtype, rgb_jpeg)
        self.add(name, path, colour(samples, bits, form, RGB if rgb_jpeg else photometric, palette), orientation)
        theirs = self.t.rgba(path, width, height) if own else None
        if own:
            check(f"libtiff's RGB: {name}", theirs is not None and np.array_equal(theirs, self.files[-1][2]), "differs from its samples" if theirs is not None else "none")

    def add(self, name, path, rgb, orientation=1):
        turn = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.transpose(1, 0, 2),
                6: lambda a: np.rot90(a, 3), 7: lambda a: a[::-1, ::-1].transpose(1, 0, 2), 8: lambda a: np.rot90(a, 1)}[orientation]
        self.files.append((name, path, np.ascontiguousarray(turn(rgb))))


def integers(b):
    """Compression x predictor x bits x colours x planes x tiles x byte order x BigTIFF."""
    n = 0
    for packing in (RAW, PACKBITS, LZW, DEFLATE, OLD_DEFLATE):
        for predictor in ((1, 2) if packing in (LZW, DEFLATE, OLD_DEFLATE) else (1,)):
            for bits, photometric, count in ((1, WHITE0, 1), (1, BLACK0, 1), (2, BLACK0, 1), (4, WHITE0, 1), (4, INDEX, 1), (8, BLACK0, 1), (8, BLACK0, 2), (8, INDEX, 1), (1, INDEX, 1), (8, RGB, 3),
                                             (8, RGB, 4), (8, RGB, 6), (8, CMYK, 4), (8, CMYK, 5), (16, BLACK0, 1), (16, WHITE0, 1), (16, RGB, 3), (16, RGB, 4), (16, CMYK, 4), (32, BLACK0, 1),
                                             (32, RGB, 3), (24, BLACK0, 1), (12, BLACK0, 1), (12, RGB, 3), (10, WHITE0, 1), (6, BLACK0, 1), (2, INDEX, 1), (4, RGB, 3)):
                if predictor == 2 and bits not in (8, 16, 32):
                    continue
                for shape in range(4):
                    n += 1
                    width, height = ((61, 37), (1, 1), (130, 40), (19, 70))[(n + shape) % 4]
                    mode = ("wl", "wb", "wl8", "wb8")[(n // 2 + shape) % 4]
                    more = ({"rows": 7}, {"tile": (32, 16)}, {"rows": 16, "planar": True}, {"tile": (16, 48), "planar": True})[shape]
                    if more.get("planar") and count == 1:
                        continue
                    b.make(f"{mode} predictor {predictor}", width, height, count, bits, photometric, packing, mode=mode, kind=("smooth", "noise", "runs")[n % 3],
                           tags=((317, predictor),) if packing in (LZW, DEFLATE, OLD_DEFLATE) else (), opaque=n % 2 == 0, **more)


def more_kinds(b):
    for mode in ("wl", "wb"):
        for packing in (RAW, LZW, DEFLATE):
            for bits in (16, 32, 64):
                for predictor in ((1, 3) if packing != RAW else (1,)):
                    for count, photometric in ((1, BLACK0), (3, RGB), (1, WHITE0)):
                        b.make(f"{mode} float predictor {predictor}", 45, 23, count, bits, photometric, packing, form=3, mode=mode, rows=8,
                               tags=((317, predictor),) if packing != RAW else (), planar=count == 3 and bits == 32)
            for bits in (8, 16, 32):
                b.make(f"{mode} signed", 33, 21, 1, bits, BLACK0, packing, form=2, mode=mode, rows=5)
    for orientation in range(1, 9):
        b.make("orientation", 40, 23, 3, 8, RGB, LZW, mode="wl", rows=9, orientation=orientation)
    for packing in (RAW, PACKBITS, LZW, DEFLATE, FAX4, FAX3):
        b.make("fill order 2", 67, 30, 1, 1, WHITE0, packing, kind="runs", tags=((266, 2),), mode="wl", rows=11)
    for seed, (width, height) in enumerate(((1, 1), (3, 1500), (4001, 3), (600, 500), (257, 129))):
        for kind in ("smooth", "noise", "runs"):
            b.make("size", width, height, 3, 8, RGB, LZW, kind=kind, mode="w", rows=max(1, height // 3), tags=((317, 1 + seed % 2),))
            b.make("size", width, height, 3, 8, RGB, DEFLATE, kind=kind, mode="w", rows=height, tags=((317, 2),))


def facsimile(b):
    for packing in (ROWS, FAX3, FAX4):
        for options in ((0, 1, 4, 5) if packing == FAX3 else (0,)):
            for width, height in ((1, 1), (8, 5), (64, 64), (333, 41), (1728, 30), (2561, 12), (7000, 9)):
                for kind in ("runs", "noise", "smooth"):
                    mode = ("wl", "wb")[(width + height) % 2]
                    more = {"tile": (64, 32)} if width == 333 and kind == "runs" else {"rows": 6 if kind == "noise" else height}
                    b.make(f"options {options}", width, height, 1, 1, (WHITE0, BLACK0)[height % 2], packing, kind=kind, mode=mode, tags=((292, options),) if packing == FAX3 else (), **more)


def ycbcr(b):
    reference, luma = (ctypes.c_float * 6)(15, 235, 128, 240, 128, 240), (ctypes.c_float * 3)(.2125, .7154, .0721)
    for sub in ((1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (4, 2), (4, 4)):
        for packing in (RAW, LZW, DEFLATE, PACKBITS):
            for tags in ((), ((532, reference),), ((529, luma),), ((529, luma), (532, reference))):
                path = b.path()
                tile = (32, 16) if len(tags) == 2 else None
                width = 64 if sub == (4, 4) and tile else 53  # of 4 x 4 in tiles that stand out on the right, libtiff takes the wrong blocks
                write_blocks(b.t, path, width, 38, sub, packing, ("wl", "wb", "wl8")[len(b.files) % 3], 8 if len(b.files) % 2 else 38, tags, len(b.files), tile)
                theirs = b.t.rgba(path, width, 38)
                check(f"ycbcr {sub}", theirs is not None, "libtiff does not read it")
                if theirs is not None:
                    b.add(f"ycbcr {sub} {NAMES[packing]} {len(tags)} tags", path, theirs)


def jpeg(b):
    for quality in (10, 60, 90, 100):
        for photometric, count in ((BLACK0, 1), (WHITE0, 1), (RGB, 3), (CMYK, 4), (YCC, 3)):
            for sub in (((1, 1), (2, 2), (2, 1), (1, 2), (4, 1)) if photometric == YCC else ((1, 1),)):
                for shape in ({"rows": 16}, {"rows": 48}, {"tile": (48, 32)}, {"rows": 16, "planar": True}):
                    if shape.get("planar") and (count == 1 or photometric == YCC):
                        continue
                    if shape.get("rows", 32) % (8 * sub[1]) or "tile" in shape and shape["tile"][0] % (8 * sub[0]):
                        continue
                    path, width, height = b.path(), 83, 61
                    samples = source(width, height, count, 8, 1, quality, ("smooth", "runs")[quality == 60])
                    tags = [(65537, quality), (65539, len(b.files) % 4)]
                    if photometric == YCC:
                        tags += [(530, *sub), (65538, 1)]
                    name = f"jpeg {quality} photometric {photometric} {sub} {shape}"
                    try:
                        write(b.t, path, samples, 8, photometric, JPEG, mode=("wl", "wb")[quality == 90], tags=tags, **shape)
                    except AssertionError as e:
                        check(name, False, f"libtiff does not write it: {e}")
                        continue
                    b.expect(name, path, width, height, count, 8, photometric, 1, None, np.uint8, own=True, rgb_jpeg=photometric == YCC)


def old_lzw(data):
    """LZW as writers before 1988 packed it: from the lowest bit on, each width used up. Clears often, so that widths change."""
    out, hold, held, width, table = bytearray(), 0, 0, 9, {}

    def put(code):
        nonlocal hold, held
        hold |= code << held
        held += width
        while held >= 8:
            out.append(hold & 255)
            hold >>= 8
            held -= 8
    put(256)
    following, string = 258, b""
    for byte in data:
        grown = string + bytes((byte,))
        if len(grown) == 1 or grown in table:
            string = grown
            continue
        put(string[0] if len(string) == 1 else table[string])
        table[grown] = following
        following += 1
        string = grown[-1:]
        if following > 1 << width and width < 12:
            width += 1
        if following == 4094:
            put(string[0])
            put(256)
            table, following, width, string = {}, 258, 9, b""
    if string:
        put(string[0] if len(string) == 1 else table[string])
    following += 1
    if following > 1 << width and width < 12:
        width += 1
    put(257)
    width = 8
    put(0)
    return bytes(out)


def entries(order, items, data):
    """A classic TIFF of one directory; items: (tag, type, values)."""
    body, later, at = b"", b"", 8 + len(data)
    table = at + len(data) % 2
    for tag, kind, values in items:
        text = struct.pack(order + {3: "H", 4: "I"}[kind] * len(values), *values)
        if len(text) > 4:
            where = table + 2 + 12 * len(items) + 4 + len(later)
            later += text
            text = struct.pack(order + "I", where)
        body += struct.pack(order + "HHI", tag, kind, len(values)) + text.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", table)
    return head + data + bytes(len(data) % 2) + struct.pack(order + "H", len(items)) + body + bytes(4) + later


def by_hand(b):
    """What libtiff reads but does not write."""
    for seed, (width, height, kind) in enumerate(((40, 30, "smooth"), (200, 100, "noise"), (300, 200, "runs"))):
        samples = source(width, height, 1, 8, 1, seed, kind)
        data, path = old_lzw(samples.tobytes()), b.path()
        for order in "<>":
            path = b.path()
            with open(path, "wb") as f:
                f.write(entries(order, [(256, 3, [width]), (257, 3, [height]), (258, 3, [8]), (259, 3, [LZW]), (262, 3, [1]), (273, 4, [8]), (277, 3, [1]), (278, 3, [height]), (279, 4, [len(data)])], data))
            b.expect(f"old LZW {kind}", path, width, height, 1, 8, BLACK0, 1, None, np.uint8)
            check("old LZW", np.array_equal(b.files[-1][2][..., :1], samples), "libtiff reads something else")
    samples = source(50, 20, 3, 8, 1, 9, "smooth")
    for leave in ((), (277,), (262,), (278,), (279,)):  # tags that may be missing, or nearly
        items = [(256, 3, [50]), (257, 3, [20]), (258, 3, [8, 8, 8]), (259, 3, [1]), (262, 3, [2]), (273, 4, [8]), (277, 3, [3]), (278, 3, [20]), (279, 4, [3000])]
        path = b.path()
        with open(path, "wb") as f:
            f.write(entries("<", [i for i in items if i[0] not in leave], samples.tobytes()))
        if leave == (277,):
            continue
        b.add(f"without tag {leave}", path, samples)
    colours = np.random.default_rng(3).integers(0, 256, (3, 16))
    path, samples = b.path(), source(30, 9, 1, 4, 1, 1, "noise")
    data = pack(samples.reshape(9, 30), 4)
    with open(path, "wb") as f:  # a palette of 8-bit values
        f.write(entries("<", [(256, 3, [30]), (257, 3, [9]), (258, 3, [4]), (259, 3, [1]), (262, 3, [3]), (273, 4, [8]), (277, 3, [1]), (278, 3, [9]), (279, 4, [len(data)]),
                              (320, 3, [int(v) for v in colours.ravel()])], data))
    b.expect("8-bit palette", path, 30, 9, 1, 4, INDEX, 1, colours.T.astype(np.uint8), np.uint8)


def decode(tool, pairs):
    lines = subprocess.run([tool], input="".join(f"{a}\t{b}\n" for a, b in pairs), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout.splitlines()
    return lines + ["the tool ended"] * (len(pairs) - len(lines))


def read_ppm(path):
    with open(path, "rb") as f:
        _, size, _, body = f.read().split(b"\n", 3)
    width, height = map(int, size.split())
    return np.frombuffer(body, np.uint8).reshape(height, width, 3)


def compare(b, tool):
    for (name, path, expected), answer in zip(b.files, decode(tool, [(path, path + ".ppm") for _, path, _ in b.files])):
        if answer != "ok":
            check(name, False, answer)
            continue
        ours = read_ppm(path + ".ppm")
        if ours.shape != expected.shape:
            check(name, False, f"{path}: {ours.shape} and {expected.shape}")
            continue
        wrong = np.argwhere((ours != expected).any(-1))
        check(name, not len(wrong), f"{path}: {len(wrong)} of {expected[..., 0].size} pixels differ by up to {np.abs(ours.astype(int) - expected).max()}, first {tuple(wrong[0]) if len(wrong) else ''}")


def compare_pillow(b):
    try:
        from PIL import Image, features
    except ImportError:
        print("skip Pillow: it is not installed")
        return 0
    if not features.check("libtiff"):
        print("skip Pillow: it has no libtiff")
        return 0
    compared = 0
    for name, path, expected in b.files:
        if "signed" in name:  # Pillow takes them for unsigned
            continue
        try:
            with Image.open(path) as image:
                if image.mode not in ("1", "L", "RGB") or image.getexif().get(274, 1) != 1 or "bits" in name and " 8 bits" not in name and " 1 bits" not in name:
                    continue
                theirs = np.asarray(image.convert("RGB"))
        except Exception:  # what Pillow does not read
            continue
        compared += 1
        check(f"Pillow: {name}", np.array_equal(theirs, expected), f"{path}: differs")
    return compared


def cut(b, tool):
    r = random.Random(4)
    pairs = []
    for name, path, _ in b.files[::7]:
        with open(path, "rb") as f:
            data = f.read()
        for size in sorted({1, 4, 7, 8, 9, len(data) // 2, *(r.randrange(1, max(2, len(data) * 9 // 10)) for _ in range(3))}):
            short = f"{path}.{size}.tif"
            with open(short, "wb") as f:
                f.write(data[:size])
            pairs.append((short, os.path.join(b.folder, "cut.ppm")))
    for (short, _), answer in zip(pairs, decode(tool, pairs)):
        check(f"cut {short}", answer.startswith(short + ": ") and answer != "ok", answer)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tool")
    parser.add_argument("--keep", help="a folder for the files")
    args = parser.parse_args()
    try:
        t = Tiff()
    except OSError:
        print("skip: libtiff.so.6 is not installed (Debian: libtiff6)")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        tool = args.tool
        if not tool:
            tool = os.path.join(folder, "tool_tiff")
            subprocess.run(["cc", "-O3", "-w", "-DYOLO_NO_CUDA", os.path.join(HERE, "tool_tiff.c"), "-o", tool, "-lm", "-lpthread", "-ldl"], check=True)
        if args.keep:
            os.makedirs(args.keep, exist_ok=True)
        b = Bench(t, args.keep or folder)
        for part in (integers, more_kinds, facsimile, ycbcr, jpeg, by_hand):
            part(b)
        compare(b, tool)
        pillow = compare_pillow(b)
        cut(b, tool)
        print(f"{len(b.files)} files, {pillow} of them by Pillow too")
    end()


if __name__ == "__main__":
    main()
