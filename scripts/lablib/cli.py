"""The command line: run one verb, errors to exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .errors import LabError
from .options import parser
from .progress import Progress


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    parsed = parser().parse_args(arguments)
    progress = Progress()
    try:
        code: int | None = parsed.verb(parsed, progress)
        sys.stdout.flush()
    except LabError as error:
        progress.clear()
        print(f"lab: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `lab console | head`: nobody reads any more, which is no failure of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # the error says which file: a full disk, a directory we may not write to
        progress.clear()
        print(f"lab: {error}", file=sys.stderr)
        return LabError.exit_code
    except KeyboardInterrupt:
        progress.clear()
        print("lab: interrupted", file=sys.stderr)
        return 130
    else:
        return code or 0
    return 0
