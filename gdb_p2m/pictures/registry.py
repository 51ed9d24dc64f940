"""Which drawing a view has."""

from __future__ import annotations

from gdb_p2m.pictures.gstage import gstage_picture
from gdb_p2m.pictures.model import Options, Picture
from gdb_p2m.pictures.pv import pv_picture
from gdb_p2m.pictures.skeleton import skeleton_of
from gdb_p2m.views.base import View
from gdb_p2m.views.gstage import GstageView


def picture_of(view: View, options: Options) -> Picture:
    """The picture of a view. Raises NotSupported for views without a structure, P2mError as the view does."""
    if isinstance(view, GstageView):
        return gstage_picture(view, options)
    return pv_picture(skeleton_of(view), options)
