"""The toolstack's files as dom0 will have them: what was unpacked, less what no program of dom0's needs."""

from __future__ import annotations

import lzma
from pathlib import Path

from . import packages
from .elf import Linkage, linkage
from .errors import LabError

MODULE_ORDER = f"{packages.MODULES}/order"


def arrange(directory: Path, xen: str) -> None:
    """Turn unpacked packages into the toolstack's part of dom0's file system, in place.

    xen: the hypervisor's version. Raises LabError when a program, a library or a module is missing.
    """
    programs = [directory / name.format(version=xen) for name in packages.PROGRAMS]
    missing = [path.name for path in programs if not path.is_file()]
    if missing:
        raise LabError(f"the packages have no program {' or '.join(missing)}")
    _keep(directory / "usr", set(programs))
    opened = [name.format(version=xen) for name in packages.OPENED_LIBRARIES]
    _arrange_libraries(directory / packages.LIBRARIES, programs, opened)
    _arrange_modules(directory / packages.MODULES)


def _keep(directory: Path, kept: set[Path]) -> None:
    for path in list(directory.rglob("*")):
        if path.is_file() and path not in kept:
            path.unlink()


def _arrange_libraries(directory: Path, programs: list[Path], opened: list[str]) -> None:
    """Give the libraries that are needed the name they are looked for by, and remove the others.

    In a package that name is a symbolic link, which was not unpacked; the file itself says the name too.
    """
    known: dict[str, tuple[Path, Linkage]] = {}
    for path in directory.iterdir():
        if link := linkage(path):
            known[link.soname or path.name] = (path, link)
    wanted = list(opened)
    for program in programs:
        if link := linkage(program):
            wanted += link.needed
    needed: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in needed:
            continue
        if name not in known:
            raise LabError(f"the packages have no library {name}, which dom0's programs need")
        needed.add(name)
        wanted += known[name][1].needed
    for name, (path, _) in known.items():
        if name in needed:
            path.rename(directory / name)
    _keep(directory, {directory / name for name in needed})


def _arrange_modules(directory: Path) -> None:
    """Decompress the modules dom0 loads and write their order; what is built into the kernel has no file."""
    packed = {_module_name(path.name): path for path in directory.iterdir()}
    if not (directory / packages.BUILT_IN).is_file():
        raise LabError(f"the kernel's packages have no {packages.BUILT_IN}")
    lines = (directory / packages.BUILT_IN).read_text().splitlines()
    built_in = {_module_name(line.rpartition("/")[2]) for line in lines}
    contents: dict[str, bytes] = {}

    def add(file_name: str) -> None:
        """A module after those it depends on."""
        name = _module_name(file_name)
        if name in contents or name in built_in:
            return
        if name not in packed:
            raise LabError(f"the kernel's packages have no module {file_name}")
        data = packed[name].read_bytes()
        data = lzma.decompress(data) if packed[name].suffix == ".xz" else data
        for other in _depends(data):
            add(other)
        contents[name] = data

    for name in packages.DOM0_MODULES:
        add(name)
    _keep(directory, set())
    for name, data in contents.items():
        (directory / f"{name}.ko").write_bytes(data)
    (directory / "order").write_text("".join(f"{name}\n" for name in contents))


def _module_name(file_name: str) -> str:
    """What the kernel calls the module of a file, such as xen-evtchn.ko.xz."""
    return file_name.partition(".")[0].replace("-", "_")


def _depends(module: bytes) -> list[str]:
    """What a module says that it depends on: the line `depends=` in its .modinfo section."""
    at = module.find(b"\0depends=")
    if at < 0:
        return []
    text = module[at + len(b"\0depends=") : module.index(b"\0", at + 1)].decode()
    return [name for name in text.split(",") if name]
