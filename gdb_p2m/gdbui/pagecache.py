"""A bounded cache of pages of a machine that stands still."""

from __future__ import annotations

from collections import deque

from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE


class PageCache:
    """Pages by machine frame. What was added first goes first when more than `limit` bytes are kept."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._pages: dict[int, memoryview] = {}
        self._order: deque[tuple[int, int, memoryview]] = deque()

    def __len__(self) -> int:
        return len(self._pages)

    def __contains__(self, mfn: int) -> bool:
        return mfn in self._pages

    def page(self, mfn: int) -> memoryview | None:
        """The 4096 bytes of frame `mfn`, or None."""
        return self._pages.get(mfn)

    def add(self, mfn: int, data: bytes | memoryview) -> None:
        """Whole pages from frame `mfn` on; what is larger than the cache is not kept."""
        view = memoryview(data)
        size = len(view)
        if size > self.limit:
            return
        while self.bytes + size > self.limit:
            self._forget_oldest()
        for i in range(size >> PAGE_SHIFT):
            self._pages[mfn + i] = view[i * PAGE_SIZE : (i + 1) * PAGE_SIZE]
        self._order.append((mfn, size >> PAGE_SHIFT, view))
        self.bytes += size

    def _forget_oldest(self) -> None:
        first, count, view = self._order.popleft()
        for mfn in range(first, first + count):
            page = self._pages.get(mfn)
            # A later block may have brought the same page again.
            if page is not None and page.obj is view.obj:
                del self._pages[mfn]
        self.bytes -= len(view)

    def clear(self) -> None:
        """Forget everything."""
        self._pages.clear()
        self._order.clear()
        self.bytes = 0


def joined(cache: PageCache, address: int, size: int) -> bytes | memoryview | None:
    """`size` bytes at `address` if all their pages are in the cache."""
    first, last = address >> PAGE_SHIFT, (address + size - 1) >> PAGE_SHIFT
    offset = address & (PAGE_SIZE - 1)
    if first == last:
        page = cache.page(first)
        return None if page is None else page[offset : offset + size]
    pages = []
    for mfn in range(first, last + 1):
        page = cache.page(mfn)
        if page is None:
            return None
        pages.append(page)
    return b"".join(pages)[offset : offset + size]
