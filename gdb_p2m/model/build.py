"""build(description) -> Machine: the boot of one guest, in the kernel's own order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gdb_p2m.model.boot import make_plan
from gdb_p2m.model.description import KERNEL_PFN, Description, DescriptionError, Stage
from gdb_p2m.model.elf import CoreNote, Segment
from gdb_p2m.model.frame_lists import build_frame_lists
from gdb_p2m.model.frames import Frames
from gdb_p2m.model.kernel import (
    DUMMY_SHARED_PAGE,
    FIXMAP_SHARED_INFO_32,
    FIXMAP_SHARED_INFO_64,
    REMAP_BUF_PAGE,
    RODATA_PAGE,
    ROOT_PAGE,
    Kernel,
    usable_ranges,
)
from gdb_p2m.model.linear import build_linear, name_linear
from gdb_p2m.model.machine import Machine
from gdb_p2m.model.memory import Memory
from gdb_p2m.model.placement import build_initial_list, place_builder
from gdb_p2m.model.shape import P2mShape
from gdb_p2m.model.stages import p2m_of
from gdb_p2m.model.structs import (
    fold_cr3,
    magic,
    pack,
    shared_info_layout,
    start_flags,
    start_info_layout,
    write_chain,
)
from gdb_p2m.model.tables import DATA_RW, pte
from gdb_p2m.model.tree import build_tree, name_tree
from gdb_p2m.model.xen import Ownership, Xen, link_root, make_frames, make_xen, map_m2p, put_m2p
from gdb_p2m.model.xen_view import put_frame_table
from gdb_p2m.units import PAGE_SHIFT

if TYPE_CHECKING:
    from gdb_p2m.model.faults import Fault

FIRST_CONSOLE_PFN = 2
"""PFNs of a domU's xenstore and console pages, before its kernel."""


def build(d: Description, fault: Fault | str | None = None, stage: Stage | None = None) -> Machine:
    """The machine that `d` describes, perhaps at another stage, perhaps with a fault built in.

    fault: a Fault or its id. Raises DescriptionError, and UsageError for a fault that is unknown or cannot
    apply to this guest.
    """
    if stage is not None:
        d = d.with_stage(stage)
    machine = _Boot(d).run()
    if fault is not None:
        from gdb_p2m.model.faults import break_machine

        break_machine(machine, fault)
    return machine


class _Boot:
    """The steps of one build, in order."""

    def __init__(self, d: Description) -> None:
        self.d = d
        self.plan = make_plan(d)
        self.memory = Memory()
        self.xen: Xen = make_xen(d)
        self.frames: Frames = make_frames(d, self.xen)
        self.p2m = p2m_of(d, self.plan)
        self.placed = place_builder(d)
        self._check_ranges()
        self.kernel = Kernel(d, self.memory, self.frames, self.p2m)
        settled = self.p2m if d.stage == "final" else p2m_of(d.with_stage("final"), self.plan)
        self.kernel.free = usable_ranges(d, self.placed.end, settled)
        self.shape: P2mShape

    def _check_ranges(self) -> None:
        """Ranges of the description against what the builder placed. Raises DescriptionError."""
        d, first, end = self.d, KERNEL_PFN, self.placed.end
        if end > d.nr_pages:
            raise DescriptionError(d.name, 0, "nr_pages", f"the kernel and its first pages need {end} pages")
        ranges = [("e820", s, min(e, d.nr_pages)) for s, e in self.plan.holes if s < d.nr_pages]
        ranges += [("released", s, e) for s, e in d.released] + [("ballooned", s, e) for s, e in d.ballooned]
        ranges += [("foreign", f.pfn, f.pfn + f.count) for f in d.foreign]
        for keyword, a, b in ranges:
            if a < end and b > first:
                where = f"PFNs {a:#x}..{b - 1:#x} hit the kernel and its first pages, {first:#x}..{end - 1:#x}"
                raise DescriptionError(d.name, 0, keyword, where)
            if keyword in ("released", "ballooned") and b > d.nr_pages:
                raise DescriptionError(d.name, 0, keyword, f"PFN {b - 1:#x} lies past nr_pages")
        for f in d.foreign:
            mfns = np.arange(f.mfn, f.mfn + f.count, dtype=np.int64)
            if f.mfn + f.count > self.xen.max_frame or (self.frames.owners(mfns) >= 0).any():
                raise DescriptionError(d.name, 0, "foreign", f"MFNs at {f.mfn:#x} are the guest's own, or not RAM")

    def run(self) -> Machine:
        """All steps."""
        d, kernel = self.d, self.kernel
        owned = Ownership(self.p2m, self.frames, self.plan.moves if d.stage == "planned" else [])
        put_m2p(self.xen, self.memory, owned)
        view = put_frame_table(self.xen, self.memory, kernel, owned) if d.frame_table else None
        self._name_image(map_m2p(self.xen, self.memory, kernel))
        if d.era.linear and d.stage == "initial":
            self.shape = build_initial_list(d, self.plan, self.p2m, kernel, self.placed)
        elif d.era.linear:
            self.shape = build_linear(d, self.plan, kernel, self.frames, self.p2m)
        else:
            self.shape = build_tree(d, self.plan, self.p2m, kernel, self.frames, self.placed.p2m_list)
        self._frame_lists()
        self._name_p2m()
        shared_info = self._shared_info()
        start_info = self._start_info()
        kernel.check_room()
        kernel.map_image()
        kernel.map_direct()
        link_root(kernel)
        self.memory.page(self.xen.max_frame - 1)
        notes = [CoreNote("VMCOREINFO", 0, self._vmcoreinfo())]
        if view is not None:
            notes.append(CoreNote("VMCOREINFO_XEN", 0, view.vmcoreinfo()))
        return Machine(
            d, self.plan, self.memory, self.frames, self.xen, kernel, self.p2m, self.shape, start_info,
            shared_info, [Segment(s, e) for s, e in self.xen.ram], notes, view,
        )  # fmt: skip

    def _name_image(self, machine_to_phys: int) -> None:
        """Symbols and variables that every era has."""
        d, kernel = self.d, self.kernel
        kernel.object("_text", kernel.kernel_va(KERNEL_PFN))
        root = kernel.kernel_va(KERNEL_PFN + ROOT_PAGE)
        modern = d.era.linear and kernel.wide
        for name in ("init_top_pgt",) if modern else ("swapper_pg_dir", *(("init_level4_pgt",) if kernel.wide else ())):
            kernel.object(name, root)
        kernel.variable("machine_to_phys_mapping", machine_to_phys)
        kernel.variable("machine_to_phys_nr", self.xen.max_frame)
        kernel.variable("max_pfn", self.plan.max_pfn)
        banner = kernel.kernel_va(KERNEL_PFN + RODATA_PAGE)
        kernel.object("linux_banner", banner)
        text = f"Linux version {d.kernel} (gdb-p2m model)\n\0"
        self.memory.write(kernel.machine_of_image(banner), text.encode("ascii", "replace"))

    def _frame_lists(self) -> None:
        """p2m_top_mfn and its pages, unless Xen's tools read the list itself."""
        d = self.d
        if d.stage != "initial" and not d.virt_p2m_4tools:
            build_frame_lists(d, self.kernel, self.shape, image=not d.era.late_list_list)

    def _name_p2m(self) -> None:
        """The P2M's variables, and the remap chain that is planned."""
        d, kernel, shape = self.d, self.kernel, self.shape
        if d.era.linear:
            name_linear(kernel, shape)
            planned = self.plan.moves if d.stage == "planned" else []
            kernel.variable("xen_remap_mfn", write_chain(planned, self.memory, self.frames, d.width))
            kernel.object("xen_remap_buf", kernel.kernel_va(KERNEL_PFN + REMAP_BUF_PAGE))
        else:
            name_tree(d, kernel, shape)
        names = ["p2m_top_mfn", "p2m_top_mfn_p", "p2m_mid_missing_mfn"]
        for name in (*names, *(("p2m_mid_identity_mfn",) if d.era.mid_identity_mfn else ())):
            placed = shape.shared.get(name)
            kernel.variable(name, 0 if placed is None else placed.va)

    def _shared_info(self) -> int:
        """The shared_info page; returns its machine address. Before the frame lists are known it is empty."""
        d, kernel, shape = self.d, self.kernel, self.shape
        frame = self.xen.shared_info
        self.memory.page(frame)
        va = FIXMAP_SHARED_INFO_64 if kernel.wide else FIXMAP_SHARED_INFO_32
        if d.stage == "final":
            kernel.tables.map_pages(va, np.array([pte(frame, DATA_RW)], dtype=np.uint64))
            values: dict[str, int | str] = {"max_pfn": shape.last_pfn}
            top = shape.shared.get("p2m_top_mfn")
            values["pfn_to_mfn_frame_list_list"] = d.width.invalid if top is None else top.mfn
            if d.era.linear:
                values["p2m_cr3"] = fold_cr3(kernel.tables.root, d.width)
                values["p2m_vaddr"] = shape.area
                values["p2m_generation"] = 2 * shape.late_updates
            self.memory.write(frame << PAGE_SHIFT, pack(shared_info_layout(d.width), values))
        else:
            va = kernel.kernel_va(KERNEL_PFN + DUMMY_SHARED_PAGE)
        kernel.object("xen_dummy_shared_info", kernel.kernel_va(KERNEL_PFN + DUMMY_SHARED_PAGE))
        kernel.variable("HYPERVISOR_shared_info", va)
        return frame << PAGE_SHIFT

    def _start_info(self) -> int:
        """start_info; returns its machine address."""
        d, kernel, placed = self.d, self.kernel, self.placed
        address = self.frames.mfn(placed.start_info) << PAGE_SHIFT
        kernel.taken.append(np.array([placed.start_info], dtype=np.int64))
        values: dict[str, int | str] = {
            "magic": magic(d),
            "nr_pages": d.nr_pages,
            "shared_info": self.xen.shared_info << PAGE_SHIFT,
            "flags": start_flags(d),
            "pt_base": kernel.direct_va(placed.pt_base),
            "nr_pt_frames": placed.pt_frames,
            "mfn_list": self._mfn_list(),
            "cmd_line": d.command_line,
            "first_p2m_pfn": placed.first_p2m,
            "nr_p2m_frames": placed.p2m_frames,
        }
        if not d.initdomain:
            values |= {
                "store_mfn": self.frames.mfn(FIRST_CONSOLE_PFN),
                "store_evtchn": 1,
                "console_mfn": self.frames.mfn(FIRST_CONSOLE_PFN + 1),
                "console_evtchn": 2,
            }
        self.memory.write(address, pack(start_info_layout(d.width), values))
        kernel.variable("xen_start_info", kernel.direct_va(placed.start_info))
        return address

    def _mfn_list(self) -> int:
        """start_info.mfn_list: the list in use, or the builder's where the tree keeps its leaves there."""
        if self.d.era.linear:
            return self.shape.area
        assert self.shape.leaf_va is not None
        return int(self.shape.leaf_va[:1].view(np.uint64)[0])

    def _vmcoreinfo(self) -> bytes:
        """The guest kernel's names as kdump publishes them."""
        d = self.d
        lines = [f"OSRELEASE={d.kernel}", "PAGESIZE=4096"]
        lines += [f"SYMBOL({name})={va:x}" for name, va in self.kernel.symbols.items()]
        if d.width.bits == 32:
            lines.append("CONFIG_X86_PAE=y")
        return ("\n".join(lines) + "\n").encode("ascii")
