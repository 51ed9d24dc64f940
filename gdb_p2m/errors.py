"""What can go wrong, as types that keep their evidence apart.

"Cannot read" is never "wrong", and neither is ever 0 or None: every exception
says which address or structure it is about, what was found there, and, where
we know, what the user can try.
"""

from __future__ import annotations


class P2mError(Exception):
    """Base of all errors that are shown to the user as one clear message.

    hint: what to try next, printed on a line of its own.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  try: {self.hint}"


class Unreadable(P2mError):
    """Bytes that the source does not hold: not RAM, filtered out, truncated or refused.

    address: machine address of the first byte that could not be read.
    reason: why, without the address ("not in the dump", "filtered by makedumpfile", ...).
    """

    def __init__(self, address: int, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"machine address {address:#x}: {reason}", hint=hint)
        self.address = address
        self.reason = reason


class Untranslatable(P2mError):
    """A virtual (or guest) address that the page table in use does not map, or maps nonsensically.

    steps: what was read on the way (spaces.radix.Step), the last one is where it ended.
    unreadable: True when a table on the way is missing from the source, so that the answer is
    unknown rather than "not mapped".
    """

    def __init__(
        self, message: str, *, steps: tuple[object, ...] = (), unreadable: bool = False, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.steps = steps
        self.unreadable = unreadable


class NotUnderstood(P2mError):
    """The bytes are there but are not what the layout documents."""


class NotFound(P2mError):
    """A thing that the verb needs (symbol, structure, root, domain) is not in this memory."""


class NotSupported(P2mError):
    """Understood, but beyond what this program can decode; says what it was."""


class UsageError(P2mError):
    """The command line makes no sense for this input (exit code 2)."""
