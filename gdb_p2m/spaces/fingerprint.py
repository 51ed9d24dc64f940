"""When no PV guest is found: what the memory holds instead, for the error message."""

from __future__ import annotations

import re

from gdb_p2m.errors import Unreadable
from gdb_p2m.sources.base import Source

STEP = 16 << 20
OVERLAP = 256
_LINUX = re.compile(rb"Linux version (\d[\w.+~-]{1,60}) \(")
_XEN = re.compile(rb"Xen version (\d[\w.+~-]{1,40}) \(")
MAX_BYTES = 8 << 30


def _shown(match: re.Match[bytes] | None) -> str | None:
    return None if match is None else match[1].decode("ascii", "replace")


def what_else(source: Source) -> str:
    """`; it holds Linux 6.1...` or `; no Linux or Xen banner either`; looks at 8 GiB at the most."""
    linux = xen = None
    seen = 0
    for extent in source.extents():
        for start in range(extent.start, extent.end, STEP):
            if (linux and xen) or seen > MAX_BYTES:
                break
            size = min(STEP + OVERLAP, extent.end - start)
            seen += size
            try:
                data = source.read(start, size)
            except Unreadable:
                continue
            linux = linux or _shown(_LINUX.search(data))
            xen = xen or _shown(_XEN.search(data))
    if linux and xen:
        return f"; it holds the banners of Xen {xen} and Linux {linux}"
    if linux:
        return f"; it holds the banner of Linux {linux} but none of Xen"
    if xen:
        return f"; it holds the banner of Xen {xen} but none of Linux"
    return "; no banner of Linux or Xen either"
