"""What a crashed Xen left about itself: the record in the dump's notes, its texts read from memory."""

from __future__ import annotations

from gdb_p2m.errors import Unreadable
from gdb_p2m.layout.x86_pv import INVALID_P2M_ENTRY_64
from gdb_p2m.sources.base import Source

MAX_TEXT = 256


def text_at(source: Source, address: int) -> str | None:
    """The C string at machine `address`, None when it cannot be read or is no text."""
    if not address:
        return None
    room = min(MAX_TEXT, 4096 - (address & 4095))
    try:
        data = bytes(source.read(address, room))
    except Unreadable:
        return None
    text = data.split(b"\0", 1)[0]
    return text.decode("ascii") if text.isascii() and all(c >= 0x20 for c in text) else None


def xen_release(source: Source) -> str | None:
    """ "4.17.7" of a crashed Xen: numbers from the note, the rest from memory. None: the dump has no such note."""
    crash = source.info.xen_crash
    if crash is None:
        return None
    return f"{crash.major}.{crash.minor}{text_at(source, crash.extra_version) or ''}"


def xen_crash_rows(source: Source) -> list[list[str]]:
    """The record for people: (what, value)."""
    crash = source.info.xen_crash
    if crash is None:
        return []
    rows = [["Xen", f"{xen_release(source)} (CRASH_INFO note)"]]
    for what, address in (("Xen compiler", crash.compiler), ("Xen changeset", crash.changeset)):
        if text := text_at(source, address):
            rows.append([what, text])
    date, time = text_at(source, crash.compile_date), text_at(source, crash.compile_time)
    if date:
        rows.append(["Xen built", f"{date} {time or ''}".rstrip()])
    if crash.xen_phys_start is not None:
        rows.append(["Xen at", f"machine address {crash.xen_phys_start:#x}"])
    if crash.tainted:
        rows.append(["Xen tainted", f"{crash.tainted:#x}"])
    lists = crash.frame_list_list
    if lists in (0, INVALID_P2M_ENTRY_64):
        rows.append(["dom0's frame list list", f"none ({lists:#x})"])
    elif lists is not None:
        rows.append(["dom0's frame list list", f"machine frame {lists:#x}"])
    return rows
