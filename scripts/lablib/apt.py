"""apt with a private tree: any suite, without touching the system's apt or dpkg state."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from .errors import LabError
from .sources import read_sources, sources_for

# Read after the system's own configuration, so proxies, credentials and keys are those of the machine.
# The hooks are cleared because some machines delete or announce things in system directories after an update.
# An empty dpkg status: what is installed here must not matter for what is downloaded.
_CONFIGURATION = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Default-Release;
#clear APT::Architectures;
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::Etc::sourcelist "{root}/etc/none.list";
Dir::Etc::sourceparts "{root}/etc/sources";
Dir::Etc::preferences "{root}/etc/none";
Dir::Etc::preferencesparts "{root}/etc/preferences";
Dir::State "{root}/state";
Dir::State::status "{root}/state/status";
Dir::Cache "{root}/cache";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
"""
# What --print-uris prints for a package: 'where from' file name, size, digest (not always SHA256).
_URI = re.compile(r"^'[^']*' (\S+\.deb) (\d+)(?: SHA256:(\w+))?", re.MULTILINE)
_DIRECTORIES = ("etc/sources", "etc/preferences", "state/lists/partial", "cache/archives/partial")


@dataclass(frozen=True)
class Package:
    """A package file that can be downloaded.

    size: bytes. sha256: lower-case hexadecimal, empty when apt knows another digest only.
    """

    name: str
    version: str
    filename: str
    size: int
    sha256: str


class PrivateApt:
    """apt-get and apt-cache for one suite, with all state below `root`."""

    def __init__(self, suite: str, root: Path) -> None:
        for program in ("apt-get", "apt-cache", "apt-config", "dpkg-deb"):
            if shutil.which(program) is None:
                raise LabError(
                    f"{program} is not installed: only Debian and its derivatives can download packages"
                )
        self.suite = suite
        self.root = root
        for directory in _DIRECTORIES:
            (root / directory).mkdir(parents=True, exist_ok=True)
        (root / "state/status").touch()
        self._configuration = root / "apt.conf"
        self._configuration.write_text(_CONFIGURATION.format(root=root))
        configured = read_sources(*_system_source_paths())
        (root / "etc/sources/lab.sources").write_text(sources_for(suite, configured))
        self._update_said = ""

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [program, "-q", "-c", str(self._configuration), *arguments]

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(program, *arguments),
            capture_output=True,
            text=True,
            env=_environment(),
            check=False,
        )

    def update(self) -> str:
        """Fetch the package lists; returns what apt complained about, empty when all went well.

        An archive that cannot be reached is only a warning to apt. It is to us too: whether the packages can
        be found after all is seen when they are looked for, and then this text is shown.
        """
        done = self._run("apt-get", "update")
        complaints = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:", "Err"))]
        self._update_said = "\n".join(complaints)
        return self._update_said

    def names(self, prefix: str) -> list[str]:
        """All package names of the suite with this prefix."""
        return self._run("apt-cache", "pkgnames", prefix).stdout.split()

    def record(self, name: str) -> dict[str, str]:
        """The index entry of the version apt would install: field name to value; empty when there is none."""
        text = self._run("apt-cache", "show", "--no-all-versions", name).stdout.strip()
        pairs = (line.partition(":") for line in text.splitlines() if not line.startswith(" "))
        return {field: value.strip() for field, _, value in pairs}

    def locate(self, name: str) -> Package | None:
        """What downloading `name` would fetch; None when the suite does not have it."""
        record = self.record(name)
        if not record:
            return None
        done = self._run("apt-get", "download", "--print-uris", name)
        match = _URI.search(done.stdout)
        if match is None:
            raise self.cannot(f"cannot find out where package {name} is", done.stderr)
        return Package(name, record["Version"], match[1], int(match[2]), match[3])

    def closure(self, names: list[str]) -> list[Package]:
        """The named packages and all they depend on, recommendations left out, in no particular order."""
        done = self._run("apt-get", "install", "--print-uris", "--yes", "--no-install-recommends", *names)
        if done.returncode != 0:
            raise self.cannot(f"cannot find {', '.join(names)} and all they need", done.stderr)
        found = []
        for filename, size, digest in _URI.findall(done.stdout):
            name, version, _ = filename.split("_")
            found.append(Package(name, unquote(version), filename, int(size), digest))
        return found

    def download(self, packages: list[Package], into: Path, seen: Callable[[int], None]) -> None:
        """Download packages into a directory, telling `seen` the bytes so far; apt checks the digests."""
        wanted = [f"{package.name}={package.version}" for package in packages]
        process = subprocess.Popen(
            self._command("apt-get", "download", *wanted),
            cwd=into,
            env=_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                while process.poll() is None:
                    seen(sum(path.stat().st_size for path in into.glob("*.deb")))
                    time.sleep(0.1)
            except BaseException:  # Ctrl-C too: apt must not go on writing into a directory we remove
                process.terminate()
                raise
            said = process.stderr.read() if process.stderr else ""
        missing = [package.name for package in packages if not (into / package.filename).is_file()]
        if process.returncode != 0 or missing:
            raise self.cannot(f"cannot download {', '.join(missing)}", said)

    def cannot(self, what: str, said: str = "") -> LabError:
        """An error about this suite with everything apt said about it, now and during the update."""
        texts = [text.strip() for text in (self._update_said, said) if text.strip()]
        answer = "\n".join(dict.fromkeys("\n".join(texts).splitlines())) or "nothing"
        indented = answer.replace("\n", "\n    ")
        return LabError(
            f"{what} from suite {self.suite}; apt said:\n    {indented}",
            hint=f"the network, the machine's apt sources, and `apt-get -c {self._configuration} update`",
        )


def _environment() -> dict[str, str]:
    """apt's messages in English whatever the user's language is: they are searched."""
    return {**os.environ, "LC_ALL": "C"}


def _system_source_paths() -> tuple[Path, Path]:
    """Where this machine's apt is told to look for sources."""
    done = subprocess.run(
        ["apt-config", "shell", "list", "Dir::Etc::sourcelist/f", "parts", "Dir::Etc::sourceparts/d"],
        capture_output=True,
        text=True,
        env=_environment(),
        check=False,
    )
    found = dict(re.findall(r"^(\w+)='(.*)'$", done.stdout, re.MULTILINE))
    parts = Path(found.get("parts", "/etc/apt/sources.list.d"))
    return Path(found.get("list", "/etc/apt/sources.list")), parts
