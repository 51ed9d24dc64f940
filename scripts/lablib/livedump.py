"""placeholder"""
from pathlib import Path

from .labs import Lab
from .progress import Progress


def by_pieces(lab: Lab, file: Path, progress: Progress) -> None:
    raise NotImplementedError
