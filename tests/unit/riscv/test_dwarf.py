"""Types from debug information, against the compiler's own offsetof and sizeof of the same source."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from gdb_p2m.errors import NotUnderstood
from gdb_p2m.symbols.dwarf import DwarfTypes
from gdb_p2m.symbols.elf_image import parse_elf
from gdb_p2m.symbols.xen_facts import XenFacts

SOURCE = r"""
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
struct list_head { struct list_head *next, *prev; };
typedef enum { p2m_invalid, p2m_ram_rw, p2m_mmio_direct_io, p2m_ext_storage, p2m_map_foreign_rw = 7,
               p2m_map_foreign_ro, p2m_first_external = p2m_ext_storage } p2m_type_t;
struct md_t { p2m_type_t type : 4; };
struct gstage_mode_desc { unsigned char mode; unsigned int paging_levels; char name[8]; };
struct domain;
struct page_info {
    struct list_head list;
    unsigned long count_info;
    union {
        struct { unsigned long type_info; } inuse;
        struct { unsigned int used_entries; } md;
        union { struct { unsigned long first : 5; _Bool flush : 1; }; unsigned long val; } free;
    } u;
    union { struct { struct domain *domain; } inuse; struct { struct page_info *pg; } md; } v;
    union { uint32_t tlbflush_timestamp; };
};
typedef const volatile struct p2m_domain {
    long lock[3]; struct list_head pages; struct page_info *root;
#ifdef EMBEDDED
    struct gstage_mode_desc mode;
#else
    const struct gstage_mode_desc *mode;
#endif
    struct domain *domain; unsigned long max_mapped_gfn, lowest_mapped_gfn;
} p2m_t;
struct arch_domain { int x; struct { struct { p2m_t p2m; } deep; }; struct p2m_domain p2m; };
struct domain { uint16_t domain_id; char pad[100]; struct domain *next_in_list; unsigned int tot_pages;
                struct arch_domain arch; };
struct page_info *frametable_virt_start; static long hidden = 5;
struct domain d; struct md_t m; p2m_t q;
#define O(t, m) printf("O " #t "." #m " %zu\n", offsetof(struct t, m))
int main(void) {
    O(page_info, list); O(page_info, count_info); O(page_info, u.inuse.type_info); O(page_info, u.md.used_entries);
    O(page_info, v.md.pg); O(page_info, v.inuse.domain); O(page_info, u.free.val); O(page_info, tlbflush_timestamp);
    O(domain, domain_id); O(domain, next_in_list); O(domain, tot_pages); O(domain, arch.p2m); O(domain, arch.p2m.root);
    O(domain, arch.deep.p2m.pages); O(p2m_domain, mode); O(p2m_domain, domain); O(p2m_domain, lowest_mapped_gfn);
    O(gstage_mode_desc, paging_levels); O(gstage_mode_desc, name);
    printf("S page_info %zu\nS md_t %zu\nS p2m_t %zu\n", sizeof(struct page_info), sizeof(m), sizeof(q));
    printf("H hidden %p\n", (void *)&hidden);
    return hidden != 5 || d.domain_id;
}
"""


@pytest.fixture(scope="module", params=["-gdwarf-5", "-gdwarf-4", "-gdwarf-3", "-gdwarf-2", "-gdwarf-5 -DEMBEDDED"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[DwarfTypes, list[str]]:
    """(types, what the program itself prints) for each version of the format."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here")
    folder = tmp_path_factory.mktemp("dwarf")
    (folder / "p2m.c").write_text(SOURCE)
    binary = folder / "types"
    run = [compiler, *request.param.split(), "-gstrict-dwarf", "-no-pie", "-o", str(binary), str(folder / "p2m.c")]
    if subprocess.run(run, capture_output=True, check=False).returncode:
        pytest.skip(f"{compiler} cannot do {request.param}")
    printed = subprocess.run([str(binary)], capture_output=True, text=True, check=True).stdout
    return DwarfTypes(parse_elf(binary.read_bytes(), str(binary))), printed.splitlines()


def test_offsets_and_sizes_are_the_compilers(built: tuple[DwarfTypes, list[str]]) -> None:
    types, printed = built
    for line in printed:
        what, name, value = line.split()
        if what == "O":
            assert types.offset(name) == int(value), name
        elif what == "S":
            assert types.size(name) == int(value), name


def test_enumerators_have_their_values(built: tuple[DwarfTypes, list[str]]) -> None:
    types, _ = built
    assert [types.number(n) for n in ("p2m_invalid", "p2m_ext_storage", "p2m_first_external")] == [0, 3, 3]
    assert (types.number("p2m_map_foreign_rw"), types.number("p2m_map_foreign_ro")) == (7, 8)


def test_what_is_not_there_is_none(built: tuple[DwarfTypes, list[str]]) -> None:
    types, _ = built
    assert types.offset("page_info.v.md.nothing") is None
    assert types.offset("no_such_struct.member") is None
    assert types.size("no_such_struct") is None
    assert types.number("p2m_no_such_type") is None
    assert types.symbol("no_such_variable") is None
    assert types.offset("page_info") is None


def test_a_path_never_goes_through_a_pointer(built: tuple[DwarfTypes, list[str]]) -> None:
    types, _ = built
    assert types.offset("page_info.v.md.pg.count_info") is None
    assert types.offset("p2m_domain.root.list") is None


def test_members_say_what_they_are(built: tuple[DwarfTypes, list[str]]) -> None:
    types, _ = built
    assert types.member_kind("p2m_domain.mode") in ("pointer", "struct")
    assert types.member_kind("p2m_domain.root") == "pointer"
    assert types.member_kind("page_info.u") == "union"
    assert types.member_kind("page_info.count_info") == "number"
    assert types.member_size("page_info.u.md.used_entries") == 4
    assert types.member_size("domain.domain_id") == 2


def test_variables_have_their_addresses(built: tuple[DwarfTypes, list[str]]) -> None:
    types, printed = built
    address = next(int(line.split()[2], 16) for line in printed if line.startswith("H "))
    symbol = types.symbol("hidden")
    assert symbol is not None and symbol.address == address
    assert types.symbol("frametable_virt_start") is not None


def test_the_facts_of_xen_come_from_it_and_the_mode_by_its_type(
    built: tuple[DwarfTypes, list[str]], request: pytest.FixtureRequest
) -> None:
    types, _ = built
    facts = XenFacts([], types)
    embedded = types.member_kind("p2m_domain.mode") == "struct"
    assert facts.mode_form == ("embedded" if embedded else "pointer")
    assert facts.metadata.name == "md_t"
    assert facts.number("p2m_map_foreign_rw") == 7
    assert all(f.source.startswith("DWARF") for f in facts.all())


def test_an_absent_name_costs_no_reading_of_units(built: tuple[DwarfTypes, list[str]]) -> None:
    types, _ = built
    before = types._next_unit
    began = time.monotonic()
    for i in range(200):
        assert types.size(f"absent_struct_{i}") is None
    assert types._next_unit == before
    assert time.monotonic() - began < 2


def test_damaged_debug_information_is_one_kind_of_error_and_ends(built: tuple[DwarfTypes, list[str]]) -> None:
    types, _ = built
    data = bytes(types._elf.data)
    info = types._elf.section(".debug_info")
    abbrev = types._elf.section(".debug_abbrev")
    assert info is not None and abbrev is not None
    for section in (info, abbrev):
        for at in range(section.offset, section.offset + min(section.size, 400), 7):
            broken = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
            began = time.monotonic()
            try:
                answer = DwarfTypes(parse_elf(broken, "broken")).offset("page_info.v.md.pg")
            except NotUnderstood:
                answer = None
            assert answer is None or isinstance(answer, int)  # a changed number is a number
            assert time.monotonic() - began < 10


def test_a_file_cut_short_is_an_error_and_not_an_answer(built: tuple[DwarfTypes, list[str]]) -> None:
    types, _ = built
    data = bytes(types._elf.data)
    info = types._elf.section(".debug_info")
    assert info is not None
    cut = data[: info.offset + 20] + bytes(info.size - 20) + data[info.offset + info.size :]
    try:
        assert DwarfTypes(parse_elf(cut, "cut")).offset("page_info.v.md.pg") is None
    except NotUnderstood as e:
        assert "cut" in e.message


def test_a_loop_of_typedefs_ends(tmp_path: Path) -> None:
    class Die:
        tag = "DW_TAG_typedef"
        attributes = {"DW_AT_type": None}  # noqa: RUF012

        def get_DIE_from_attribute(self, name: str) -> Die:
            return self

    from gdb_p2m.symbols.dwarf import _plain

    with pytest.raises(NotUnderstood, match="without end"):
        _plain(Die())  # type: ignore[arg-type]
