"""makedumpfile's flattened stream (`-F`, and QEMU's `dump-guest-memory -z/-l/-s`), read in place.

A stream that cannot seek is written as records "these bytes belong at that offset": a header of 4096 bytes
(`makedumpfile`, padded to 16, type 1, version 1 as big-endian 64-bit numbers), then big-endian offset and
size before each piece, offset -1 at the end. Facts: makedumpfile's makedumpfile.h (makedumpfile_header,
makedumpfile_data_header), QEMU dump/dump.c; seen in files of both.

There is no index: finding the records costs one step a record (16 KiB or more, seen), not one a page. Later
records win where they overlap, as they would in a file.
"""

from __future__ import annotations

import heapq
import struct
from array import array

import numpy as np
import numpy.typing as npt

from gdb_p2m.errors import NotUnderstood
from gdb_p2m.sources.content import Content, MappedContent

SIGNATURE = b"makedumpfile\0\0\0\0"
HEADER_SIZE = 4096
MAX_RECORDS = 1 << 24
"""256 GiB of the 16 KiB records that are seen; bounds time and memory for hostile streams."""
END = -1
_HEAD = struct.Struct(">16sqq")
_RECORD = struct.Struct(">qq")
_RECORD_TYPE = np.dtype([("offset", ">i8"), ("size", ">i8")])
Int64s = npt.NDArray[np.int64]


class FlattenedContent(Content):
    """The file that the stream describes; what no record covers is zero, as a hole in a file would be."""

    def __init__(self, stream: MappedContent) -> None:
        super().__init__(stream.path)
        self._stream = stream
        self._check_header()
        start, size, source = self._scan()
        self._start, self._end, self._source = later_wins(start, size, source)
        self.size = int(self._end.max(initial=0))

    def _check_header(self) -> None:
        if self._stream.size < HEADER_SIZE:
            raise NotUnderstood(f"{self.path}: the flattened stream ends within its header")
        signature, kind, version = _HEAD.unpack(self._stream.read(0, _HEAD.size))
        if signature != SIGNATURE or (kind, version) != (1, 1):
            raise NotUnderstood(f"{self.path}: a flattened stream of type {kind}, version {version}; we know 1 and 1")

    def _scan(self) -> tuple[Int64s, Int64s, Int64s]:
        """(offset, size, position of the data in the stream) of every record, in the order of the stream."""
        starts, sizes, sources = array("q"), array("q"), array("q")
        at, limit = HEADER_SIZE, self._stream.size
        view = self._stream.read(0, limit)
        previous = 0
        while at + _RECORD.size <= limit:
            offset, size = _RECORD.unpack_from(view, at)
            if offset == END:
                break
            if offset < 0 or size <= 0 or offset + size >= 1 << 62:
                self.problems.append((at, f"flattened record at {at:#x}: offset {offset:#x}, size {size:#x}"))
                break
            if len(starts) >= MAX_RECORDS:
                raise NotUnderstood(f"{self.path}: more than {MAX_RECORDS:,} flattened records")
            at += _RECORD.size
            if at + size > limit:
                self.problems.append((at, f"the flattened stream is cut off in a record of {size:#x} bytes"))
                size = limit - at
            if size:
                starts.append(offset)
                sizes.append(size)
                sources.append(at)
            at += size
            if size == previous:
                at = self._same_size(at, offset + size, size, (starts, sizes, sources))
            previous = size
        if at + _RECORD.size > limit and not self.problems:
            self.problems.append((at, "the flattened stream is cut off: its end record is missing"))
        return _int64(starts), _int64(sizes), _int64(sources)

    def _same_size(self, at: int, offset: int, size: int, out: tuple[array[int], array[int], array[int]]) -> int:
        """Take over a stretch of records that all have `size` bytes and continue each other, without a loop.

        Returns the position of the first record that is not one of them.
        """
        assert self._stream.whole is not None
        step = _RECORD.size + size
        count = 64
        while at + step <= self._stream.size:
            count = min(count * 2, (self._stream.size - at) // step, MAX_RECORDS - len(out[0]))
            if count <= 0:
                break
            heads = np.ndarray((count,), _RECORD_TYPE, self._stream.whole.data, at, (step,))
            expected = offset + size * np.arange(count, dtype=np.int64)
            differ = np.flatnonzero((heads["size"] != size) | (heads["offset"] != expected))
            n = int(differ[0]) if len(differ) else count
            out[0].extend(expected[:n].tolist())
            out[1].extend([size] * n)
            out[2].extend((at + _RECORD.size + step * np.arange(n, dtype=np.int64)).tolist())
            at += n * step
            offset += n * size
            if n < count:
                break
        return at

    def _read(self, offset: int, size: int) -> memoryview | bytes:
        i = int(np.searchsorted(self._start, offset, "right")) - 1
        if i >= 0 and offset + size <= self._end[i]:
            return self._stream.read(int(self._source[i]) + offset - int(self._start[i]), size)
        out = bytearray(size)
        end = offset + size
        for k in range(max(i, 0), int(np.searchsorted(self._start, end, "left"))):
            first, last = max(offset, int(self._start[k])), min(end, int(self._end[k]))
            if first < last:
                at = int(self._source[k]) + first - int(self._start[k])
                out[first - offset : last - offset] = self._stream.read(at, last - first)
        return bytes(out)

    def close(self) -> None:
        self._stream.close()


def _int64(values: array[int]) -> Int64s:
    return np.array(values, dtype=np.int64)


def later_wins(start: Int64s, size: Int64s, source: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """Records in the order they were written -> sorted pieces (start, end, source) without overlaps."""
    by = np.argsort(start, kind="stable")
    s, e, src = start[by], (start + size)[by], source[by]
    reach = np.maximum.accumulate(e)
    if not (s[1:] < reach[:-1]).any():
        return s, e, src
    pieces: list[tuple[int, int, int]] = []
    # The record that counts at a place is the latest of those that cover it: sweep with a heap of them.
    waiting: list[tuple[int, int]] = []
    at = 0
    order, begins, ends, sources = by.tolist(), s.tolist(), e.tolist(), src.tolist()
    for k in range(len(order) + 1):
        stop = begins[k] if k < len(order) else 1 << 63
        while waiting and at < stop:
            newest = waiting[0][1]
            if ends[newest] <= at:
                heapq.heappop(waiting)
                continue
            until = min(ends[newest], stop)
            pieces.append((at, until, sources[newest] + at - begins[newest]))
            at = until
        if k < len(order):
            heapq.heappush(waiting, (-order[k], k))
            at = begins[k]
    a = np.array(pieces, dtype=np.int64).reshape(-1, 3)
    return a[:, 0].copy(), a[:, 1].copy(), a[:, 2].copy()
