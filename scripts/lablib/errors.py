"""What ends a command early: one message, what to do about it, and the exit code."""

from __future__ import annotations


class LabError(Exception):
    """The lab cannot do what was asked (exit code 3).

    message says what was missing or went wrong, hint what the user can do about it.
    """

    exit_code = 3

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  try: {self.hint}"


class UsageError(LabError):
    """The command line makes no sense (exit code 2)."""

    exit_code = 2
