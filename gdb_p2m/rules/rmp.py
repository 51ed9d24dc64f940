"""RMP: the remap chain of early boot."""

from __future__ import annotations

import numpy as np

from gdb_p2m.errors import NotFound, P2mError
from gdb_p2m.mapping import Kind
from gdb_p2m.rules.base import CannotCheck, Findings, NotApplicable, Rule, RuleContext
from gdb_p2m.structures.remap import Chain, read_chain, remap_size
from gdb_p2m.structures.remap_file import load_chain
from gdb_p2m.structures.remap_verify import verify_chain

SOURCE = "Linux arch/x86/xen/setup.c, xen_remap_memory(); xen: Delay remapping memory of pv-domain (3.19)"


def _chain(ctx: RuleContext, found: Findings) -> Chain:
    """The chain while it is there; NotApplicable before it is planned and after it was used."""
    try:
        chain = read_chain(ctx.guest)
    except NotFound:
        raise NotApplicable("the kernel names no xen_remap_mfn: no remap chain (before 3.19), or no symbol") from None
    except P2mError as e:
        raise CannotCheck(e.message) from None
    if chain.state == "done":
        raise NotApplicable("remapping is done, the chain was freed with init data")
    if chain.state == "empty":
        raise NotApplicable("the chain is empty: nothing to remap, or all of it was remapped")
    if chain.unread:
        found.could_not_read(chain.end)
    return chain


def _own_page(ctx: RuleContext, found: Findings) -> None:
    for c in _chain(ctx, found).chunks:
        if not len(c.mfns):
            continue
        found.look()
        if int(c.mfns[0]) != c.mfn:
            found.add(
                {"mfn": c.mfn, "address": c.address + 24},
                f"{c.mfn:#x}",
                f"{int(c.mfns[0]):#x}",
                f"the record at MFN {c.mfn:#x} lists MFN {int(c.mfns[0]):#x} first: the kernel would stop with BUG",
            )


def _sizes(ctx: RuleContext, found: Findings) -> None:
    most = remap_size(ctx.guest)
    for c in _chain(ctx, found).chunks:
        found.look()
        if not 1 <= c.size <= most:
            found.add(
                {"mfn": c.mfn, "address": c.address + 16},
                f"1..{most}",
                f"{c.size}",
                f"the record at MFN {c.mfn:#x} has size {c.size}, possible are 1..{most}",
            )


def _ends(ctx: RuleContext, found: Findings) -> None:
    chain = _chain(ctx, found)
    found.look(len(chain.chunks) + 1)
    if chain.end and not chain.unread:
        at = chain.chunks[-1].address if chain.chunks else chain.head_address or 0
        found.add(
            {"address": at},
            "a next record, or INVALID at the end",
            chain.end,
            f"the remap chain does not end with INVALID: {chain.end}",
        )


def _no_overlap(ctx: RuleContext, found: Findings) -> None:
    chain = _chain(ctx, found)
    mfns = np.concatenate([c.mfns for c in chain.chunks]) if chain.chunks else np.zeros(0, dtype=np.int64)
    found.look(len(mfns))
    ordered = np.sort(mfns)
    for mfn in np.unique(ordered[1:][ordered[1:] == ordered[:-1]]).tolist():
        found.add({"mfn": mfn}, "every frame listed once", "twice", f"MFN {mfn:#x} is listed twice in the remap chain")
    spans = sorted((int(c.target_pfn), int(c.target_pfn) + len(c.mfns), c) for c in chain.chunks if len(c.mfns))
    reach = 0
    for start, end, c in spans:
        if start < reach:
            found.add(
                {"pfn": start, "mfn": c.mfn},
                f"targets from {reach:#x} on",
                f"{start:#x}",
                f"the targets of the record at MFN {c.mfn:#x} ({start:#x}..{end - 1:#x}) overlap another record's",
            )
        reach = max(reach, end)


def _not_yet_moved(ctx: RuleContext, found: Findings) -> None:
    """Targets missing, sources identity; where a frame comes from is what M2P still says."""
    chain = _chain(ctx, found)
    mapping = ctx.mapping
    for c in chain.chunks:
        start, count = int(c.target_pfn), len(c.mfns)
        if not count or start + count > mapping.limit:
            continue
        kinds, _ = mapping.expand(start, start + count)
        found.look(count)
        for i in np.flatnonzero(kinds != Kind.MISSING).tolist():
            word = Kind(int(kinds[i])).word
            found.add(
                {"pfn": start + i, "mfn": int(c.mfns[i])},
                "missing, until it is remapped",
                word,
                f"target PFN {start + i:#x} of the record at MFN {c.mfn:#x} is {word} already",
            )
        sources, read = ctx.m2p.lookup(c.mfns)
        if not read.all():
            found.could_not_read(
                f"M2P of {int(np.count_nonzero(~read))} frames cannot be read: their source PFN is unknown"
            )
        for i in np.flatnonzero(read & (sources < np.uint64(mapping.limit))).tolist():
            pfn = int(sources[i])
            run = mapping.lookup(pfn)
            found.look()
            if run is None or run.kind is not Kind.IDENTITY:
                word = "nothing" if run is None else run.kind.word
                found.add(
                    {"pfn": pfn, "mfn": int(c.mfns[i])},
                    "identity, since the plan was made",
                    word,
                    f"source PFN {pfn:#x} of MFN {int(c.mfns[i]):#x} is {word}",
                )


def _carried_out(ctx: RuleContext, found: Findings) -> None:
    if ctx.recorded_chain is None:
        raise NotApplicable("no chain was recorded before (check --remap-chain FILE, from remap --save)")
    try:
        result = verify_chain(load_chain(ctx.recorded_chain), ctx.mapping, ctx.m2p)
    except P2mError as e:
        raise CannotCheck(e.message) from None
    found.look(result.pages)
    if result.m2p_unread:
        found.could_not_read(f"M2P of {result.m2p_unread:,} frames cannot be read")
    for d in result.differences:
        found.add({"pfn": d.pfn, "mfn": d.expected}, f"MFN {d.expected:#x}", d.found, d.message)


RMP_RULES = (
    Rule(
        "RMP-001",
        "mfns[0] is the record's own page",
        "error",
        "boot, linear",
        SOURCE,
        "Each record lies in the first page of the chunk that it describes, so its first MFN is that page. The kernel "
        "stops with BUG otherwise.",
        _own_page,
    ),
    Rule(
        "RMP-002",
        "1 <= size <= REMAP_SIZE",
        "error",
        "boot, linear",
        SOURCE,
        "A record is one page: three words and up to P2M_PER_PAGE - 3 = 509 MFNs.",
        _sizes,
    ),
    Rule(
        "RMP-003",
        "the chain ends with INVALID, without a cycle",
        "error",
        "boot, linear",
        SOURCE,
        "xen_remap_memory follows next_area_mfn until it is INVALID_P2M_ENTRY.",
        _ends,
    ),
    Rule(
        "RMP-004",
        "no MFN is listed twice, targets do not overlap",
        "error",
        "boot, linear",
        SOURCE,
        "A frame can move to one place only, and a place can take one frame only.",
        _no_overlap,
    ),
    Rule(
        "RMP-005",
        "sources are identity and targets missing until the remap is done",
        "error",
        "boot, linear",
        SOURCE,
        "While the plan is made the sources become identity (the hole they lie in); the targets stay missing until "
        "xen_remap_memory fills them.",
        _not_yet_moved,
    ),
    Rule(
        "RMP-006",
        "after the remap P2M[target + i] is the recorded MFN",
        "error",
        "after boot, linear",
        SOURCE,
        "A chain saved at xen_remap_memory says what the finished P2M and M2P must hold.",
        _carried_out,
    ),
)
