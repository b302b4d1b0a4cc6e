"""Writes reference dumps that tests/test.c reads, and reads them: named float32/int32 arrays.

Layout, little endian: b"YREF1\\0\\0\\0", uint32 count, then per array: uint32 length and bytes of the name, uint32 type
(0 float32, 1 int32), uint32 rank, uint32 dims, data.
"""
import struct

import numpy as np


def write(path, arrays):
    with open(path, "wb") as f:
        f.write(b"YREF1\0\0\0" + struct.pack("<I", len(arrays)))
        for name, array in arrays.items():
            array = np.asarray(array)
            integer = array.dtype.kind in "iub"
            array = np.ascontiguousarray(array, dtype="<i4" if integer else "<f4")
            encoded = name.encode()
            f.write(struct.pack("<I", len(encoded)) + encoded + struct.pack("<II", int(integer), array.ndim))
            f.write(struct.pack(f"<{array.ndim}I", *array.shape) + array.tobytes())


def read(path):
    with open(path, "rb") as f:
        data = f.read()
    assert data[:8] == b"YREF1\0\0\0", path
    at, arrays = 12, {}
    for _ in range(struct.unpack_from("<I", data, 8)[0]):
        (length,) = struct.unpack_from("<I", data, at)
        name = data[at + 4:at + 4 + length].decode()
        integer, rank = struct.unpack_from("<II", data, at + 4 + length)
        shape = struct.unpack_from(f"<{rank}I", data, at + 12 + length)
        at += 12 + length + 4 * rank
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(data, "<i4" if integer else "<f4", count, at).reshape(shape)
        at += 4 * count
    return arrays
