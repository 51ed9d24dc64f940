"""gdb-p2m: decode and check the physical-to-machine maps of Xen guests."""

__version__ = "0.1.0"
