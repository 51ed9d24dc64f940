"""The one template environment: everything that comes from a dump is escaped, everywhere, by default."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def environment() -> Environment:
    """Templates of gdb_p2m/render/templates and gdb_p2m/report/templates, autoescaped; unknown names are errors."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loaders = [PackageLoader("gdb_p2m", "render/templates"), PackageLoader("gdb_p2m", "report/templates")]
    return Environment(
        loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
