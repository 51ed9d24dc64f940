"""The cache of pages: bounded, and never a byte of another page."""

from __future__ import annotations

from gdb_p2m.gdbui.pagecache import PageCache, joined

PAGE = 4096


def pages(first: int, count: int) -> bytes:
    """Pages filled with their own number."""
    return b"".join(bytes([mfn & 0xFF]) * PAGE for mfn in range(first, first + count))


def test_what_was_added_is_found_across_blocks() -> None:
    cache = PageCache(16 * PAGE)
    cache.add(3, pages(3, 2))
    cache.add(5, memoryview(pages(5, 1)))
    assert joined(cache, 3 * PAGE, 3 * PAGE) == pages(3, 3)
    assert joined(cache, 4 * PAGE + 4090, 10) == b"\x04" * 6 + b"\x05" * 4
    assert joined(cache, 5 * PAGE + 8, 8) == b"\x05" * 8


def test_a_read_with_one_page_lacking_finds_nothing() -> None:
    cache = PageCache(16 * PAGE)
    cache.add(3, pages(3, 2))
    assert joined(cache, 4 * PAGE, 2 * PAGE) is None
    assert joined(cache, 2 * PAGE + 4095, 2) is None
    assert 2 not in cache and 3 in cache


def test_the_oldest_goes_first_and_the_limit_holds() -> None:
    cache = PageCache(4 * PAGE)
    for mfn in range(0, 20, 2):
        cache.add(mfn, pages(mfn, 2))
        assert cache.bytes <= cache.limit and len(cache) <= 4
    assert 15 not in cache and 16 in cache and 19 in cache


def test_a_page_that_came_twice_outlives_its_first_block() -> None:
    cache = PageCache(4 * PAGE)
    cache.add(0, pages(0, 2))
    cache.add(1, pages(1, 2))
    cache.add(8, pages(8, 1))
    assert 0 not in cache
    assert joined(cache, PAGE, PAGE) == pages(1, 1)


def test_what_is_larger_than_the_cache_is_not_kept() -> None:
    cache = PageCache(2 * PAGE)
    cache.add(0, pages(0, 1))
    cache.add(1, pages(1, 3))
    assert 0 in cache and 1 not in cache


def test_clear_forgets_all() -> None:
    cache = PageCache(4 * PAGE)
    cache.add(0, pages(0, 2))
    cache.clear()
    assert (len(cache), cache.bytes) == (0, 0)
