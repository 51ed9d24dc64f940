"""`set p2m ...` and `show p2m ...`: what a live session needs once and not on every command."""

from __future__ import annotations

import os

import gdb
from gdb_p2m.gdbui.session import Machine
from gdb_p2m.progress import Progress, no_progress
from gdb_p2m.target import Target

BULK_VARIABLE = "GDB_P2M_PMEMSAVE"
"""Environment: 0 or off forbids pmemsave from the start."""


class FileSetting(gdb.Parameter):  # type: ignore[misc]
    """A file name, empty for none."""

    def __init__(self, word: str, what: str) -> None:
        self.set_doc = f"Set the {what} that p2m uses where a command names none."
        self.show_doc = f"Show the {what} that p2m uses where a command names none."
        self.__doc__ = "Empty: names come from the memory itself. `p2m open` has options of its own."
        super().__init__(f"p2m {word}", gdb.COMMAND_DATA, gdb.PARAM_OPTIONAL_FILENAME)
        self.what = what
        self.value = ""

    def get_set_string(self) -> str:
        """Nothing is printed."""
        return ""

    def get_show_string(self, value: str) -> str:
        """For `show`."""
        return f"The {self.what} is {value or 'not set'}."

    @property
    def path(self) -> str | None:
        """The file, or None."""
        return os.path.expanduser(self.value) if self.value else None


class BulkSetting(gdb.Parameter):  # type: ignore[misc]
    """Whether QEMU may write large stretches of memory into temporary files for us."""

    set_doc = "Set whether p2m lets QEMU write large stretches of memory into temporary files (pmemsave)."
    show_doc = "Show whether p2m lets QEMU write large stretches of memory into temporary files (pmemsave)."

    def __init__(self) -> None:
        self.__doc__ = "Off: everything is read by packets. On: pmemsave where QEMU and GDB see the same files."
        super().__init__("p2m pmemsave", gdb.COMMAND_DATA, gdb.PARAM_BOOLEAN)
        self.value = os.environ.get(BULK_VARIABLE, "on").lower() not in ("0", "off", "no")

    def get_set_string(self) -> str:
        """Nothing is printed."""
        return ""

    def get_show_string(self, value: str) -> str:
        """For `show`."""
        return f"Whether p2m may use pmemsave is {value}."


class Settings:
    """All of them, registered."""

    def __init__(self) -> None:
        gdb.Command("set p2m", gdb.COMMAND_DATA, gdb.COMPLETE_NONE, True)
        gdb.Command("show p2m", gdb.COMMAND_DATA, gdb.COMPLETE_NONE, True)
        self.kernel = FileSetting("kernel", "guest kernel's file (vmlinux, System.map or vmlinuz)")
        self.xen = FileSetting("xen", "hypervisor's file (xen-syms)")
        self.pmemsave = BulkSetting()

    def target(
        self,
        machine: Machine,
        kernel: str | None = None,
        xen: str | None = None,
        progress: Progress = no_progress,
    ) -> Target:
        """The target with the verb's symbol files, else those of `p2m open`, else those of `set p2m`."""
        return machine.target(
            kernel or machine.kernel or self.kernel.path, xen or machine.xen or self.xen.path, progress
        )

    def values(self) -> tuple[str, str, bool]:
        """For `restore`."""
        return self.kernel.value or "", self.xen.value or "", bool(self.pmemsave.value)

    def restore(self, values: tuple[str, str, bool]) -> None:
        """Set all as they were."""
        self.kernel.value, self.xen.value, self.pmemsave.value = values
