"""Predictions for `check --against`: the model's algorithm, from a description or from what is in the dump.

This is where the model and the decoders meet: the model says what the kernel would have built, the dump
what it starts from (memory map, initial size, how far boot has come).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gdb_p2m.commands.model import description_text
from gdb_p2m.errors import NotUnderstood
from gdb_p2m.guest import LinuxGuest
from gdb_p2m.layout.e820 import ISA_END, ISA_START
from gdb_p2m.layout.x86_pv import SIF_INITDOMAIN
from gdb_p2m.mapping import KIND_BY_WORD
from gdb_p2m.model.boot import BootPlan, make_plan
from gdb_p2m.model.description import MAX_PAGES, Description, E820Entry, E820Kind, parse
from gdb_p2m.model.eras import ERA_BY_NAME
from gdb_p2m.model.leaves import PRIVATE, Leaves
from gdb_p2m.model.linear import area_entries, leaves_of_list, value_at_rebuild
from gdb_p2m.model.pieces import Fate, PieceMap
from gdb_p2m.model.stages import p2m_of
from gdb_p2m.model.tree import shape_leaves
from gdb_p2m.rules.predicted import Prediction, Stretches
from gdb_p2m.structures.e820 import E820Map, E820Range, read_e820
from gdb_p2m.structures.era import LINEAR, TREE, TREE_IDENTITY, TREE_MID_IDENTITY, era_of
from gdb_p2m.structures.remap import read_chain
from gdb_p2m.structures.stage import stage_of
from gdb_p2m.structures.xen_pages import start_info
from gdb_p2m.units import PAGE_SHIFT
from gdb_p2m.views.leaves import Backing, BackingArray

FROM_DUMP = ("e820", "dump")
"""Values of --against that are no file names."""
MAX_DISPLACED = 1 << 26
"""256 GiB of memory below holes: more is no machine's map, and would only cost time."""
