"""Xen's names and addresses out of its own memory: the table that it prints its stack traces with.

xen/tools/symbols.c descends from the kernel's scripts/kallsyms.c and writes the same tables with u32 offsets
from the link origin XEN_VIRT_START (seen: 4.14, 4.17, 4.20 on x86-64). Static symbols carry their file:
`common/domain.c#domain_hash`.
"""

from __future__ import annotations

from functools import cached_property

from gdb_p2m.errors import NotUnderstood
from gdb_p2m.symbols.kallsyms import Kallsyms

ORIGIN_ALIGNMENT = 1 << 30
"""XEN_VIRT_START is a multiple of 1 GiB and Xen's image ends within 1 GiB of it (x86-64 config.h)."""


class XenSymbols(Kallsyms):
    """All symbols of a Xen image: a SymbolSource of kind "Xen symbols".

    image: Xen's mapped virtual range from its first code page on (x86-64: 0xffff82d040200000 in every PV
    guest's page table), holes filled with zeros. base: virtual address of image[0].
    A name means the global symbol or, when there is none, the static ones, in whatever file.

    Raises NotUnderstood when the image holds no tables or they contradict each other.
    """

    kind = "Xen symbols"

    def _origin(self) -> int | None:
        return self._base & -ORIGIN_ALIGNMENT

    def _check_anchors(self) -> None:
        """`_stext` starts a page of the image, and the build id's note is where its symbol says."""
        self._check_start(("_stext", "_start"), ("__start_xen", "start_xen"))
        for address in self.addresses("__note_gnu_build_id_start"):
            header = self._bytes_at(address, 16)
            if any(header) and not header.endswith(b"GNU\0"):
                raise NotUnderstood(
                    f"{self.kind}: __note_gnu_build_id_start at {address:#x} reads {header.hex(' ')}, not a note"
                )

    def _find_build_id(self) -> str | None:
        return self._notes_build_id("__note_gnu_build_id_start", "__note_gnu_build_id_end")

    @cached_property
    def _by_name(self) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
        """Indices of the (global, static) symbols by name without the file."""
        globals_: dict[str, list[int]] = {}
        statics: dict[str, list[int]] = {}
        for i, text in enumerate(self._all_names):
            file, mark, name = text.rpartition("#")
            table = statics if mark and file else globals_
            table.setdefault(name if mark and file else text, []).append(i)
        return globals_, statics

    def _find(self, name: str) -> list[int]:
        globals_, statics = self._by_name
        return globals_.get(name) or statics.get(name) or []
