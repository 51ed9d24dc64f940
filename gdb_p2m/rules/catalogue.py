"""All rules, in the order in which they are listed and run."""

from __future__ import annotations

from gdb_p2m.rules.base import Rule
from gdb_p2m.rules.dmp import DMP_RULES
from gdb_p2m.rules.ent import ENT_RULES
from gdb_p2m.rules.fll import FLL_RULES
from gdb_p2m.rules.gst import GST_RULES
from gdb_p2m.rules.lin import LIN_RULES
from gdb_p2m.rules.m2p import M2P_RULES
from gdb_p2m.rules.pre import PRE_RULES
from gdb_p2m.rules.rmp import RMP_RULES
from gdb_p2m.rules.sif import SIF_RULES
from gdb_p2m.rules.tre import TRE_RULES

CATALOGUE: tuple[Rule, ...] = (
    *ENT_RULES,
    *TRE_RULES,
    *LIN_RULES,
    *FLL_RULES,
    *M2P_RULES,
    *SIF_RULES,
    *RMP_RULES,
    *PRE_RULES,
    *GST_RULES,
    *DMP_RULES,
)
BY_ID = {rule.id: rule for rule in CATALOGUE}
