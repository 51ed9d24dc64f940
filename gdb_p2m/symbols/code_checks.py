"""What memory says of a candidate for a static variable: the tests of symbols/disassembly.py.

A test that cannot read what it needs does not pass: a variable that is not proved stays unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from gdb_p2m.errors import Unreadable, Untranslatable
from gdb_p2m.layout.pagetables import X86_PRESENT
from gdb_p2m.layout.x86_pv import LINEAR_PT_SLOT, M2P_VA_64, SHARED_INFO_32, SHARED_INFO_64, EntryWidth
from gdb_p2m.spaces.virtual import VirtualSpace
from gdb_p2m.spaces.words import MAX_MFN_BITS
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE, U64Array

MAX_LIST_PFNS = 1 << 33
SAMPLE = 16
PTE_FRAME = 0x000F_FFFF_FFFF_F000
MAGIC = b"xen-3.0-x86_"


@dataclass
class Checks:
    """values: of the variables known so far. addresses: theirs. Nothing here raises for what memory holds."""

    space: VirtualSpace
    width: EntryWidth
    values: dict[str, int] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)

    def passes(self, check: Callable[[Checks, int], bool], address: int, is_object: bool) -> bool:
        """Whether the variable (or the object) at `address` is the one."""
        if address in self.addresses.values():
            return False
        try:
            return check(self, address if is_object else self.space.read_word(address, self.width.bytes))
        except (Untranslatable, Unreadable):
            return False

    def note(self, name: str, address: int, is_object: bool) -> None:
        """A variable is known: later tests compare with it."""
        try:
            value = address if is_object else self.space.read_word(address, self.width.bytes)
        except (Untranslatable, Unreadable):
            return
        self.addresses[name], self.values[name] = address, value

    # -- reading -----------------------------------------------------------------------------------------

    def page(self, pointer: int) -> U64Array:
        """The page of unsigned longs at `pointer`, widened. Raises Untranslatable, Unreadable."""
        if not pointer or pointer % PAGE_SIZE:
            raise Untranslatable(f"{pointer:#x} is no page")
        data = self.space.read(pointer, PAGE_SIZE)
        words: U64Array = np.frombuffer(data, dtype=f"<u{self.width.bytes}").astype(np.uint64)
        return words

    def frame(self, pointer: int) -> int:
        """Machine frame behind a pointer. Raises Untranslatable."""
        return self.space.translate(pointer) >> PAGE_SHIFT

    def _agrees(self, entries: U64Array, first: int) -> bool:
        """Whether M2P names the PFNs of the first plain entries from PFN `first` on (64-bit: its place is fixed)."""
        if self.width.bits != 64:
            return False
        plain = np.flatnonzero(entries >> np.uint64(MAX_MFN_BITS) == 0)[:SAMPLE].tolist()
        return len(plain) == SAMPLE and all(
            self.space.read_word(M2P_VA_64 + 8 * int(entries[i])) == first + i for i in plain
        )

    # -- the list and the tree -----------------------------------------------------------------------------

    def is_list(self, value: int) -> bool:
        """xen_p2m_addr."""
        return self._agrees(self.page(value), 0)

    def is_size(self, value: int) -> bool:
        """xen_p2m_size: whole pages, and the last of them is mapped."""
        base = self.values.get("xen_p2m_addr")
        if base is None or not 0 < value <= MAX_LIST_PFNS or value % self.width.per_page:
            return False
        return self.space.maps(base + (value - 1) * self.width.bytes)

    def is_capacity(self, value: int) -> bool:
        """xen_max_p2m_pfn."""
        size = self.values.get("xen_p2m_size")
        return size is not None and size <= value <= MAX_LIST_PFNS and value % self.width.per_page == 0

    def is_tree(self, value: int) -> bool:
        """p2m_top: its first leaf holds frames that M2P agrees with."""
        middle = self.page(int(self.page(value)[0]))
        return self._agrees(self.page(int(middle[0])), 0)

    # -- shared pages ----------------------------------------------------------------------------------------

    def is_blank(self, value: int) -> bool:
        """A page of INVALID_P2M_ENTRY."""
        return bool((self.page(value) == np.uint64(self.width.invalid)).all())

    def is_other_blank(self, value: int) -> bool:
        """A page of INVALID_P2M_ENTRY that is not p2m_identity."""
        return value != self.values.get("p2m_identity") and self.is_blank(value)

    def _maps_only(self, value: int, leaf: str) -> bool:
        if leaf not in self.values:
            return False
        if not value or value % PAGE_SIZE:
            return False
        entries = np.frombuffer(self.space.read(value, PAGE_SIZE), dtype="<u8").astype(np.uint64)
        there = np.uint64(self.frame(self.values[leaf]) << PAGE_SHIFT)
        return bool(((entries & np.uint64(PTE_FRAME)) == there).all() and (entries & np.uint64(X86_PRESENT)).all())

    def is_missing_pte(self, value: int) -> bool:
        """p2m_missing_pte: 512 entries of p2m_missing."""
        return self._maps_only(value, "p2m_missing")

    def is_identity_pte(self, value: int) -> bool:
        """p2m_identity_pte: 512 entries of p2m_identity."""
        return self._maps_only(value, "p2m_identity")

    def _only(self, value: int, name: str, as_frame: bool) -> bool:
        """A page whose every slot is the pointer (or the frame) of variable `name`."""
        if name not in self.values:
            return False
        wanted = self.frame(self.values[name]) if as_frame else self.values[name]
        return bool((self.page(value) == np.uint64(wanted)).all())

    def is_mid_missing(self, value: int) -> bool:
        """p2m_mid_missing."""
        return self._only(value, "p2m_missing", False)

    def is_mid_identity(self, value: int) -> bool:
        """p2m_mid_identity."""
        return self._only(value, "p2m_identity", False)

    # -- the frame list list -----------------------------------------------------------------------------------

    def is_mid_missing_mfn(self, value: int) -> bool:
        """p2m_mid_missing_mfn."""
        return self._only(value, "p2m_missing", True)

    def is_top_mfn(self, value: int) -> bool:
        """p2m_top_mfn: frames only, and the leaf of PFN 0 is the P2M's own."""
        slots = self.page(value)
        if (slots >> np.uint64(MAX_MFN_BITS) != 0).any() or not slots[0]:
            return False
        leaf = self.space.source.read_u64(int(slots[0]) << PAGE_SHIFT)
        return leaf & self.width.invalid == self._first_leaf()

    def _first_leaf(self) -> int:
        if "xen_p2m_addr" in self.values:
            return self.frame(self.values["xen_p2m_addr"])
        return self.frame(int(self.page(int(self.page(self.values["p2m_top"])[0]))[0]))

    def is_top_mfn_p(self, value: int) -> bool:
        """p2m_top_mfn_p: pointers to the pages whose frames p2m_top_mfn has."""
        if "p2m_top_mfn" not in self.values:
            return False
        frames, pointers = self.page(self.values["p2m_top_mfn"]), self.page(value)
        distinct, where = np.unique(pointers, return_index=True)
        return all(self.frame(int(p)) == int(frames[i]) for p, i in zip(distinct.tolist(), where.tolist(), strict=True))

    def is_shared_info(self, value: int) -> bool:
        """HYPERVISOR_shared_info: its frame list list is p2m_top_mfn."""
        if "p2m_top_mfn" not in self.values:
            return False
        layout = SHARED_INFO_64 if self.width.bits == 64 else SHARED_INFO_32
        at = value + layout.field("pfn_to_mfn_frame_list_list").offset
        return self.space.read_word(at, self.width.bytes) == self.frame(self.values["p2m_top_mfn"])

    def is_last_pfn(self, value: int) -> bool:
        """xen_p2m_last_pfn: what shared_info publishes."""
        if "HYPERVISOR_shared_info" not in self.values or not value:
            return False
        layout = SHARED_INFO_64 if self.width.bits == 64 else SHARED_INFO_32
        return self.space.read_word(self.values["HYPERVISOR_shared_info"] + layout.field("max_pfn").offset) == value

    # -- others --------------------------------------------------------------------------------------------------

    def is_start_info(self, value: int) -> bool:
        """xen_start_info: the page begins with Xen's magic."""
        return self.space.read(value, len(MAGIC)) == MAGIC

    def is_root(self, address: int) -> bool:
        """The kernel's page table: slot 258 holds its own frame (64-bit)."""
        if self.width.bits != 64:
            return False
        return (int(self.page(address)[LINEAR_PT_SLOT]) & PTE_FRAME) >> PAGE_SHIFT == self.frame(address)
