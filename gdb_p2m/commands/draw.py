"""Verb `draw`: the structure as a picture, like the kernel's own drawing, with this memory's values."""

from __future__ import annotations

import argparse
import locale
import shutil
import sys

from gdb_p2m.commands.base import Context, Report, Verb
from gdb_p2m.commands.output_files import output_file, refuse_to_overwrite
from gdb_p2m.errors import UsageError
from gdb_p2m.pictures.model import DEFAULT_BOXES, DEFAULT_ROWS, Options, Picture
from gdb_p2m.pictures.registry import picture_of
from gdb_p2m.units import parse_number
from gdb_p2m.views.base import View


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("at", nargs="*", metavar="N", help="PFNs (GFNs) whose pages are opened in any case")
    parser.add_argument("--width", metavar="COLUMNS", help="of the text (default: the terminal's, 80 without one)")
    parser.add_argument("--ascii", action="store_true", help="draw with - | + / \\ only, as the kernel's comment does")
    parser.add_argument(
        "--boxes", metavar="COUNT", default=str(DEFAULT_BOXES), help=f"pages opened per level (default {DEFAULT_BOXES})"
    )
    parser.add_argument(
        "--rows", metavar="COUNT", default=str(DEFAULT_ROWS), help=f"rows per page (default {DEFAULT_ROWS})"
    )
    parser.add_argument("--svg", metavar="OUT", help="write the picture as SVG there, instead of text")
    parser.add_argument("--force", action="store_true", help="overwrite OUT of --svg when it is there")


def run(ctx: Context, args: argparse.Namespace) -> Report:
    """Draw the chosen view."""
    view = ctx.views.get(args.view)
    picture = picture_of(view, options_of(args, view, ctx.word))
    report = Report(picture.json())
    if args.svg is not None:
        _write_svg(ctx, picture, args.svg, args.force)
        report.text("\n".join([f"{args.svg}: {picture.title}: {len(picture.boxes)} boxes", *picture.folded]))
        return report
    if getattr(args, "format", "text") == "text":
        from gdb_p2m.render.picture_text import picture_text

        report.text(picture_text(picture, _width(args.width), args.ascii or not _shows_lines(args)))
    return report


def options_of(args: argparse.Namespace, view: View, word: str) -> Options:
    """How much is drawn. Raises UsageError for numbers out of range."""
    at = tuple(parse_number(n) for n in args.at)
    for number in at:
        if number >= view.limit:
            raise UsageError(f"{word} {number:#x} is out of range: view {view.name} covers 0..{view.limit - 1:#x}")
    return Options(_at_least_one("--boxes", args.boxes), _at_least_one("--rows", args.rows), at)


def _at_least_one(option: str, text: str) -> int:
    count = parse_number(text)
    if not 1 <= count <= 1 << 16:
        raise UsageError(f"{option} {text}: a number from 1 to 65536")
    return count


def _width(given: str | None) -> int:
    if given is None:
        return shutil.get_terminal_size().columns
    return parse_number(given)


def _shows_lines(args: argparse.Namespace) -> bool:
    """Whether what the text goes to can show line-drawing characters: files can, terminals of old locales cannot."""
    if getattr(args, "output", "-") != "-":
        return True
    encoding = getattr(sys.stdout, "encoding", None) or locale.getpreferredencoding(False)
    try:
        "─│►…".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _write_svg(ctx: Context, picture: Picture, out: str, force: bool) -> None:
    """The picture as a file of its own. Raises UsageError, P2mError."""
    from gdb_p2m.render.picture_svg import picture_svg

    refuse_to_overwrite(ctx, out, force)
    with output_file(out) as file:
        file.write(picture_svg(picture).encode())


VERB = Verb(
    "draw",
    "the structure as a picture in text or SVG, with this memory's values",
    "Draws the pages that make up the chosen view, from the root to the leaves: shared pages once, with the number of "
    "slots that lead to them; leaves in which kinds meet opened, with the first and last entry of each kind; what "
    "is alike as stacks. It says what it folded. On RISC-V: the root's four pages, tables, superpages, metadata.",
    "0x8110 --width 80",
    configure,
    run,
)
