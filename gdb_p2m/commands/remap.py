"""Verb `remap`: the remap chain, chunk by chunk; --save and --verify across boot."""

from __future__ import annotations

import argparse
from typing import Any

from gdb_p2m.commands.base import Cell, Context, Report, Verb, hexa
from gdb_p2m.errors import P2mError, UsageError
from gdb_p2m.sources.base import contiguous_groups
from gdb_p2m.structures.remap import Chain, Chunk, read_chain
from gdb_p2m.structures.remap_file import load_chain, save_chain
from gdb_p2m.structures.remap_verify import verify_chain
from gdb_p2m.units import PAGE_SHIFT, FrameArray, human_size

SHOWN = 24
"""Chunks that are printed one by one; --all prints every one."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("--save", metavar="FILE", help="write the chain to FILE (JSON), to be verified after boot")
    parser.add_argument("--verify", metavar="FILE", help="prove that a chain saved before was carried out")
    parser.add_argument("--all", action="store_true", help="text: print every chunk, however many there are")


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """Show, save or verify."""
    if args.save and args.verify:
        raise UsageError("--save and --verify exclude each other: one is for before the remapping, one for after")
    if args.verify:
        return _verify(ctx, args.verify)
    chain = read_chain(ctx.guest)
    if args.save:
        if chain.state != "planned" or chain.end:
            raise P2mError(
                f"there is no whole chain to save: {chain.end or _state_text(chain)}",
                hint="stop at xen_remap_memory (p2m boot xen_remap_memory), where the chain is complete",
            )
        save_chain(args.save, chain, ctx.guest)
    report = Report(chain_json(ctx, chain))
    _text(report, chain, args)
    return report


def chain_json(ctx: Context, chain: Chain) -> dict[str, Any]:
    """The chain as JSON."""
    return {
        "schema": "gdb-p2m/remap/1",
        "domain": ctx.guest.id,
        "state": chain.state,
        "head_address": chain.head_address,
        "head": chain.head,
        "end": chain.end,
        "pages": chain.pages,
        "chunks": [
            {
                "mfn": c.mfn,
                "next": c.next_mfn,
                "target_pfn": c.target_pfn,
                "size": c.size,
                "mfns": [[int(c.mfns[a]), n] for a, n in contiguous_groups(c.mfns)],
            }
            for c in chain.chunks
        ],
    }


def _state_text(chain: Chain) -> str:
    return {
        "done": "Remapping is done: the chain was freed with the kernel's init data.",
        "empty": "The chain is empty (xen_remap_mfn is INVALID): nothing to remap, or all of it was remapped.",
        "planned": f"{len(chain.chunks):,} records move {chain.pages:,} pages, {human_size(chain.pages << PAGE_SHIFT)}.",
    }[chain.state]


def _text(report: Report, chain: Chain, args: argparse.Namespace) -> None:
    if chain.state == "planned":
        shown = chain.chunks if args.all else chain.chunks[:SHOWN]
        report.text("\n".join(_drawing(chain, shown)))
        rows: list[list[Cell]] = [_row(i, c) for i, c in enumerate(shown)]
        headers = ["#", "record at", "MFN", "target PFNs", "pages", "frames", "next MFN"]
        report.table(headers, rows, align="rrrlrlr")
        if len(shown) < len(chain.chunks):
            report.text(f"... and {len(chain.chunks) - len(shown):,} chunks more (--all prints them)")
    report.text(_state_text(chain))
    if chain.end:
        report.text(f"The chain is broken: {chain.end}")
    if args.save:
        report.text(f"Saved to {args.save}; after boot: remap --verify {args.save}")


def _row(i: int, c: Chunk) -> list[Cell]:
    last = c.target_pfn + max(c.size, 1) - 1
    return [
        i,
        hexa(c.address),
        hexa(c.mfn),
        f"{c.target_pfn:#x}..{last:#x}",
        c.size,
        frames_text(c.mfns),
        hexa(c.next_mfn),
    ]


def frames_text(mfns: FrameArray) -> str:
    """Frames in runs, the first three: 0x3009f..0x300ff, ..."""
    parts = []
    groups = list(contiguous_groups(mfns))
    for a, n in groups[:3]:
        parts.append(f"{int(mfns[a]):#x}" + (f"..{int(mfns[a + n - 1]):#x}" if n > 1 else ""))
    return ", ".join(parts) + (f", ... ({len(groups)} runs)" if len(groups) > 3 else "")


def _drawing(chain: Chain, shown: tuple[Chunk, ...]) -> list[str]:
    """The chain as arrows: head -> record -> record -> INVALID."""
    lines = [f"xen_remap_mfn = {chain.head:#x}"]
    for c in shown[:8]:
        lines.append(f"  -> [MFN {c.mfn:#x}: {c.size} pages to PFN {c.target_pfn:#x}]")
    if len(chain.chunks) > 8:
        lines.append(f"  -> ... {len(chain.chunks) - 8:,} records more")
    lines.append(f"  -> {'BROKEN: ' + chain.end if chain.end else 'INVALID (end)'}")
    return lines


def _verify(ctx: Context, path: str) -> Report:
    """RMP-006 against a saved chain."""
    recorded = load_chain(path)
    result = verify_chain(recorded, ctx.views.own().mapping(), ctx.m2p)
    data = {
        "schema": "gdb-p2m/remap-verify/1",
        "domain": ctx.guest.id,
        "file": path,
        "pages": result.pages,
        "p2m_agrees": result.p2m_agrees,
        "m2p_agrees": result.m2p_agrees,
        "m2p_unread": result.m2p_unread,
        "differences": [
            {"pfn": d.pfn, "expected_mfn": d.expected, "found": d.found, "message": d.message}
            for d in result.differences
        ],
    }
    sound = result.p2m_agrees == result.m2p_agrees == result.pages
    report = Report(data, exit_code=0 if sound else 1)
    report.table(
        ["what", "agrees", "of"],
        [
            ["P2M[target + i] = mfns[i]", result.p2m_agrees, result.pages],
            ["M2P[mfns[i]] = target + i", result.m2p_agrees, result.pages],
        ],
        f"Chain of {path}",
        "lrr",
    )
    for d in result.differences:
        report.text(d.message)
    verdict = "Every page was remapped as planned." if sound else "The finished P2M differs from the plan (RMP-006)."
    report.text(verdict)
    return report


VERB = Verb(
    "remap",
    "the remap chain of early boot, chunk by chunk",
    "Early in boot the kernel writes the plan of what memory moves where into the memory that moves. Stopped at "
    "xen_remap_memory, remap shows the chain; --save keeps it and, after boot, --verify proves that it was carried out. "
    "Later the chain is freed with the kernel's init data.",
    "",
    configure,
    run,
)
