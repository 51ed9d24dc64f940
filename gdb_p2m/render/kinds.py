"""How kinds look in drawings: a colour that people with any colour vision can tell apart, a pattern, a letter.

Colours after Okabe and Ito, "Color Universal Design" (2008). Nothing is told by colour alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from gdb_p2m.mapping import Kind


@dataclass(frozen=True, slots=True)
class Look:
    """light, dark: colours of the two themes. pattern: of templates/picture.svg.j2. letter, words: for labels."""

    light: str
    dark: str
    pattern: str
    letter: str
    words: str


LOOKS = {
    Kind.MFN: Look("#0072b2", "#4ba3db", "solid", "M", "a machine frame of the guest"),
    Kind.FOREIGN: Look("#c98500", "#f0b441", "diagonal", "F", "a frame of another domain"),
    Kind.IDENTITY: Look("#00805c", "#2cc19a", "dots", "I", "mapped 1:1"),
    Kind.MISSING: Look("#8a8f98", "#7d8590", "empty", "-", "no frame"),
    Kind.UNREADABLE: Look("#a04f86", "#e08fc0", "upright", "?", "the page that would say it is not in the dump"),
    Kind.CORRUPT: Look("#c43e00", "#ff7a45", "cross", "!", "it is there and makes no sense"),
    Kind.RAM_RW: Look("#0072b2", "#4ba3db", "solid", "R", "RAM of the domain"),
    Kind.MMIO_DIRECT_IO: Look("#00805c", "#2cc19a", "dots", "D", "a device of the machine"),
    Kind.MAP_FOREIGN_RW: Look("#c98500", "#f0b441", "diagonal", "W", "a frame of another domain, writable"),
    Kind.MAP_FOREIGN_RO: Look("#3a86c8", "#8cc8f5", "level", "O", "a frame of another domain, read-only"),
    Kind.INVALID: Look("#8a8f98", "#7d8590", "empty", "-", "nothing is mapped"),
}
MIXED = Look("#5b6068", "#aab1bb", "grid", "*", "several kinds: too many changes to draw each")
"""Stretches that stand for many short ones."""
