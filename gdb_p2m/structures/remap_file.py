"""A remap chain in a file: JSON, so that people and other tools can read it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from gdb_p2m.errors import NotUnderstood, P2mError
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.sources.base import contiguous_groups
from gdb_p2m.spaces.words import MAX_MFN_BITS
from gdb_p2m.structures.remap import MAX_CHUNKS, Chain, Chunk
from gdb_p2m.units import Mfn, Pfn

SCHEMA = "gdb-p2m/remap-chain/1"
MAX_BYTES = 256 << 20


def save_chain(path: str, chain: Chain, guest: LinuxGuest) -> None:
    """Write `chain`. Raises P2mError when the file cannot be written."""
    chunks = [
        {
            "mfn": c.mfn,
            "next": c.next_mfn,
            "target_pfn": c.target_pfn,
            "size": c.size,
            "mfns": [[int(c.mfns[a]), n] for a, n in contiguous_groups(c.mfns)],
        }
        for c in chain.chunks
    ]
    document = {"schema": SCHEMA, "release": guest.names.release, "head": chain.head, "chunks": chunks}
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(document, file)
            file.write("\n")
    except OSError as e:
        raise P2mError(f"{path}: cannot be written: {e.strerror}") from None


def load_chain(path: str) -> Chain:
    """Read a saved chain. Raises P2mError (no such file), NotUnderstood (truncated, not a chain)."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_BYTES)
    except OSError as e:
        raise P2mError(f"{path}: cannot be read: {e.strerror}") from None
    except UnicodeDecodeError:
        raise NotUnderstood(f"{path}: not a saved remap chain (it is not text)") from None
    try:
        document = json.loads(text)
        if document["schema"] != SCHEMA:
            raise NotUnderstood(f"{path}: schema {document['schema']!r}, not {SCHEMA}")
        chunks = tuple(_chunk(c) for c in document["chunks"][:MAX_CHUNKS])
        return Chain(None, int(document["head"]), "planned", chunks)
    except (ValueError, KeyError, TypeError, IndexError) as e:
        raise NotUnderstood(
            f"{path}: not a whole saved remap chain ({e})", hint="save it again with `remap --save` at xen_remap_memory"
        ) from None


def _chunk(c: dict[str, Any]) -> Chunk:
    parts = []
    for first, count in c["mfns"]:
        if not (0 <= first < 1 << MAX_MFN_BITS and 0 < count <= 4096):
            raise ValueError(f"frames {first}+{count} are impossible")
        parts.append(np.arange(first, first + count, dtype=np.int64))
    mfns = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    if len(mfns) != c["size"]:
        raise ValueError(f"the record at MFN {c['mfn']:#x} says {c['size']} pages but lists {len(mfns)}")
    return Chunk(Mfn(int(c["mfn"])), int(c["next"]), Pfn(int(c["target_pfn"])), int(c["size"]), mfns)
