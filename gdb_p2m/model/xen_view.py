"""The hypervisor's own records of a machine: struct page_info of every frame, and the domains that own them.

They lie in the part of the address space that Xen puts into every 64-bit PV guest's page table, so they can be
read through the guest's root (seen). The names are those of Xen's VMCOREINFO_XEN text (common/kexec.c).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gdb_p2m.layout import xen_x86 as layout
from gdb_p2m.model.kernel import Kernel
from gdb_p2m.model.memory import Memory, Rows
from gdb_p2m.model.tables import DATA_RW, GUEST_KERNEL, M2P_PAGE, TABLE, Tables, pte
from gdb_p2m.model.xen import LARGE_FRAMES, Ownership, Xen
from gdb_p2m.units import PAGE_SHIFT, PAGE_SIZE

XEN_DATA = DATA_RW & ~GUEST_KERNEL
DOMAIN_SIZE = 4096
SHARED_INFO, TOT_PAGES, NEXT_IN_LIST = 0x10, 0x58, 0x70
"""Offsets in this model's struct domain: VMCOREINFO_XEN publishes the last, readers find the others themselves."""
PGT_ROOT = layout.PGT_L4 << layout.PGT_TYPE_SHIFT | layout.PGT_PINNED | 1 << 58 | 1
"""Type of a guest's root: pinned, validated, used once (seen)."""


@dataclass
class XenView:
    """domains: frame of struct domain by domain id; symbols: Xen's variables; table: first frame of page_info.

    shared_info: frame of the page that Xen shares with each guest, by domain id.
    """

    domains: dict[int, int]
    table: int
    shared_info: dict[int, int] = field(default_factory=dict)
    symbols: dict[str, int] = field(default_factory=dict)

    def page_info(self, mfn: int) -> int:
        """Machine address of the struct page_info of `mfn`."""
        return (self.table << PAGE_SHIFT) + mfn * layout.PAGE_INFO_SIZE

    def vmcoreinfo(self) -> bytes:
        """The VMCOREINFO_XEN text."""
        lines = ["PAGESIZE=4096", *(f"SYMBOL({n})={va:x}" for n, va in self.symbols.items())]
        lines += [f"SIZE(page_info)={layout.PAGE_INFO_SIZE}", f"SIZE(domain)={DOMAIN_SIZE}"]
        lines += [
            f"OFFSET(page_info.count_info)={layout.PAGE_INFO_COUNT}",
            f"OFFSET(page_info._domain)={layout.PAGE_INFO_DOMAIN}",
            f"OFFSET(domain.domain_id)={layout.DOMAIN_ID}",
            f"OFFSET(domain.next_in_list)={NEXT_IN_LIST}",
        ]
        return ("\n".join(lines) + "\n").encode("ascii")


def put_frame_table(xen: Xen, memory: Memory, kernel: Kernel, owned: Ownership) -> XenView:
    """Frame table, domains and their list, mapped into the guest as Xen maps them."""
    tables = Tables(memory, kernel.tables.shape, kernel.tables.root, lambda: xen.take(memory), TABLE)
    ids = [kernel.d.domain, layout.DOMID_XEN, layout.DOMID_IO]
    if kernel.d.foreign:
        ids.append(kernel.d.domain + 1)
    view = XenView({i: xen.take(memory) for i in ids}, xen.table_first)
    for number in ids:
        if number < layout.DOMID_FIRST_RESERVED:
            view.shared_info[number] = xen.shared_info if number == kernel.d.domain else xen.take(memory)
    _put_members(xen, memory, kernel, owned, view)
    for number, mfn in view.domains.items():
        memory.write_word((mfn << PAGE_SHIFT) + layout.DOMAIN_ID, number, 2)
        va = layout.DIRECTMAP_VIRT + (mfn << PAGE_SHIFT)
        tables.map_pages(va, np.array([pte(mfn, XEN_DATA)], dtype=np.uint64))
    _put_table(xen, memory, kernel, owned, view)
    for i in range(0, xen.table_frames, LARGE_FRAMES):
        tables.set(layout.FRAMETABLE_VIRT + (i << PAGE_SHIFT), "L2", pte(xen.table_first + i, M2P_PAGE))
    _put_variables(xen, memory, kernel, tables, view)
    return view


def _put_members(xen: Xen, memory: Memory, kernel: Kernel, owned: Ownership, view: XenView) -> None:
    """shared_info and tot_pages of every guest; its next_in_list is written with the list."""
    mine = int(np.count_nonzero(owned.pfns(np.arange(xen.max_frame, dtype=np.int64)) >= 0))
    for number, shared in view.shared_info.items():
        domain = view.domains[number] << PAGE_SHIFT
        total = mine if number == kernel.d.domain else sum(f.count for f in kernel.d.foreign)
        memory.write_word(domain + SHARED_INFO, layout.DIRECTMAP_VIRT + (shared << PAGE_SHIFT))
        memory.write_word(domain + TOT_PAGES, total, 4)


def _put_table(xen: Xen, memory: Memory, kernel: Kernel, owned: Ownership, view: XenView) -> None:
    per = PAGE_SIZE // layout.PAGE_INFO_SIZE
    mine, own = view.domains[kernel.d.domain], layout.PGC_ALLOCATED | 2
    others = [(f.mfn, f.mfn + f.count, view.domains[kernel.d.domain + 1]) for f in kernel.d.foreign]
    others.append((xen.m2p_first, xen.m2p_first + xen.m2p_frames, view.domains[layout.DOMID_XEN]))
    heap = sorted(view.shared_info.values())
    others += [(mfn, mfn + 1, view.domains[number]) for number, mfn in view.shared_info.items()]

    def rows(first: int, last: int) -> Rows:
        mfns = np.arange(first * per, last * per, dtype=np.int64)
        owner = np.where(owned.pfns(mfns) >= 0, mine, 0).astype(np.uint64)
        for a, b, frame in others:
            owner[(mfns >= a) & (mfns < b)] = frame
        info = np.zeros((len(mfns), layout.PAGE_INFO_SIZE // 8), dtype="<u8")
        info[:, layout.PAGE_INFO_COUNT // 8] = np.where(owner, np.uint64(own), np.uint64(0))
        info[np.isin(mfns, heap), layout.PAGE_INFO_COUNT // 8] |= np.uint64(layout.PGC_XEN_HEAP)
        info[:, layout.PAGE_INFO_TYPE // 8] = np.where(owner, np.uint64(layout.PGT_WRITABLE | 1), np.uint64(0))
        info[mfns == kernel.tables.root, layout.PAGE_INFO_TYPE // 8] = np.uint64(PGT_ROOT)
        info[:, layout.PAGE_INFO_DOMAIN // 8] = owner
        return info.view(np.uint8).reshape(last - first, PAGE_SIZE)

    memory.add_block(np.arange(xen.table_first, xen.table_first + xen.table_frames, dtype=np.int64), rows)


def _put_variables(xen: Xen, memory: Memory, kernel: Kernel, tables: Tables, view: XenView) -> None:
    """Xen's data page: frame_table, max_page, domain_list and the special domains."""
    page = xen.take(memory)
    tables.map_pages(layout.XEN_VIRT, np.array([pte(page, XEN_DATA)], dtype=np.uint64))

    def pointer(number: int) -> int:
        return layout.DIRECTMAP_VIRT + (view.domains[number] << PAGE_SHIFT)

    real = [i for i in view.domains if i < layout.DOMID_IO]
    for number, after in zip(real, [*real[1:], None], strict=True):
        memory.write_word((view.domains[number] << PAGE_SHIFT) + NEXT_IN_LIST, 0 if after is None else pointer(after))
    values = {
        "frame_table": layout.FRAMETABLE_VIRT,
        "max_page": xen.max_frame,
        "domain_list": pointer(real[0]),
        "dom_xen": pointer(layout.DOMID_XEN),
        "dom_io": pointer(layout.DOMID_IO),
    }
    for i, (name, value) in enumerate(values.items()):
        memory.write_word((page << PAGE_SHIFT) + i * 8, value)
        view.symbols[name] = layout.XEN_VIRT + i * 8
