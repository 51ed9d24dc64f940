"""Whether the kernel file that the user names is the kernel in memory. Symbols of another one read as nonsense.

Proofs, in this order: the GNU build id in the kernel's own notes (found in memory at the file's addresses) or
in a VMCOREINFO note; the addresses that such a note, or kallsyms in memory, give for the names that we need;
the kernel's banner at the file's `linux_banner`.
"""

from __future__ import annotations

import re

from gdb_p2m.errors import NotUnderstood, P2mError, Unreadable, Untranslatable
from gdb_p2m.layout.names import ALL_NAMES
from gdb_p2m.spaces.virtual import VirtualSpace
from gdb_p2m.symbols import elf_notes
from gdb_p2m.symbols.base import SymbolSource
from gdb_p2m.symbols.discover import memory_kallsyms, vmcoreinfo_note

MAX_NOTES = 0x10000
_HINT = "give the vmlinux, vmlinuz or System.map of the kernel that ran, or none: names are then taken from memory"
_BANNER = re.compile(rb"Linux version ([!-~]{1,64}) ")


class WrongKernel(NotUnderstood):
    """The file is not the kernel in memory; the message names both."""


def match_kernel(space: VirtualSpace, file: SymbolSource) -> str | None:
    """None when `file` is proved to be the kernel in `space`, else why that could not be proved.

    Raises WrongKernel when it is another one.
    """
    own = _build_id_in_memory(space, file)
    if own is not None and file.build_id is not None:
        return _compare_ids(file, own, "the kernel's notes in memory")
    others: list[SymbolSource] = []
    note = vmcoreinfo_note(space.source)
    if note is not None:
        others.append(note)
    if file.build_id is not None and note is not None and note.build_id is not None:
        return _compare_ids(file, note.build_id, "the VMCOREINFO note")
    if note is None or not _common(note, file):
        try:
            others.append(memory_kallsyms(space))
        except P2mError:
            pass  # nothing in memory to compare with but the banner
    for other in others:
        if file.build_id is not None and other.build_id is not None:
            return _compare_ids(file, other.build_id, other.kind)
        if common := _common(other, file):
            return _compare_addresses(file, other, common)
    return _compare_banner(space, file)


def _compare_ids(file: SymbolSource, memory: str, where: str) -> str | None:
    if file.build_id != memory:
        raise WrongKernel(
            f"{file.detail}: another kernel: its build id is {file.build_id}, that of the kernel in memory is {memory} "
            f"({where})",
            hint=_HINT,
        )
    return None


def _build_id_in_memory(space: VirtualSpace, file: SymbolSource) -> str | None:
    """The build id that memory holds where the file says that the kernel's notes are."""
    first, end = file.symbol("__start_notes"), file.symbol("__stop_notes")
    if first is None or end is None or not 0 < end.address - first.address <= MAX_NOTES:
        return None
    try:
        data = space.read(first.address, end.address - first.address)
    except (Untranslatable, Unreadable):
        return None
    return elf_notes.build_id(elf_notes.notes(data))


def _common(other: SymbolSource, file: SymbolSource) -> list[str]:
    """The names that we need and both know."""
    return [n.name for n in ALL_NAMES if other.symbol(n.name) is not None and file.symbol(n.name) is not None]


def _compare_addresses(file: SymbolSource, other: SymbolSource, names: list[str]) -> str | None:
    for name in names:
        ours, theirs = file.symbol(name), other.symbol(name)
        assert ours is not None and theirs is not None
        if ours.address != theirs.address:
            release = f" ({other.release})" if other.release else ""
            raise WrongKernel(
                f"{file.detail}: another kernel: it has {name} at {ours.address:#x}, the kernel in memory{release} "
                f"has it at {theirs.address:#x} ({theirs.source})",
                hint=_HINT,
            )
    return None


def _compare_banner(space: VirtualSpace, file: SymbolSource) -> str:
    """The last resort: no build id and no names to compare with."""
    banner = file.symbol("linux_banner")
    data = b""
    if banner is not None:
        try:
            data = space.read(banner.address, 128)
        except (Untranslatable, Unreadable):
            data = b""
    found = _BANNER.match(data)
    release = None if found is None else found[1].decode("ascii")
    if banner is not None and any(data) and release is None:
        raise WrongKernel(
            f"{file.detail}: another kernel: it has linux_banner at {banner.address:#x}, but memory holds "
            f"{data[:16]!r} there",
            hint=_HINT,
        )
    if release is not None and file.release is not None and release != file.release:
        raise WrongKernel(
            f"{file.detail}: another kernel: it is {file.release}, the kernel in memory is {release}", hint=_HINT
        )
    told = "" if release is None else f" (its banner, {release}, is where the file says)"
    return f"{file.detail}: not proved to be the kernel in memory: no build id and no names to compare{told}"
