# Sourced by scripts/demo and scripts/test: installs what is missing, and says what it could not.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

say() { printf '\033[1m== %s\033[0m\n' "$*" | { [ -t 1 ] && cat || sed 's/\x1b\[[0-9;]*m//g'; }; }
fail() { printf 'setup: %s\n' "$@" >&2; exit 3; }

# as_root CMD...: apt needs root; sudo serves where there is one.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else fail "cannot install packages: not root and no sudo" "as root run: $*"; fi
}

# need COMMAND PACKAGE [COMMAND PACKAGE]...: apt packages of commands that are not there.
need() {
  local missing=()
  while [ $# -gt 0 ]; do
    command -v "$1" >/dev/null || missing+=("$2")
    shift 2
  done
  [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
}

install_packages() {
  say "installing with apt: $*"
  local log; log=$(mktemp)
  local get=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 --no-install-recommends)
  if ! as_root "${get[@]}" install "$@" >"$log" 2>&1; then
    # Package lists that are missing or old are the usual reason.
    as_root "${get[@]}" update >>"$log" 2>&1 || true
    as_root "${get[@]}" install "$@" >>"$log" 2>&1 || { tail -n 15 "$log" >&2; fail "apt could not install: $*"; }
  fi
  rm -f "$log"
}

# The Python that GDB embeds and the venv's must be the same, or numpy does not load inside GDB.
gdb_python() {
  gdb -nx -batch -ex 'python import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null | tail -n 1
}

choose_python() {
  local version; version=$(gdb_python)
  local candidate
  for candidate in "/usr/bin/python$version" "$(command -v "python$version")" /usr/bin/python3 "$(command -v python3)"; do
    if [ -x "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"; return
    fi
  done
  fail "no Python 3.11 or newer was found"
}

# make_venv: .venv with the project and what its tests need; again only when pyproject.toml or Python change.
make_venv() {
  need gdb gdb python3 python3
  local python; python=$(choose_python)
  "$python" -c 'import venv, ensurepip' 2>/dev/null || install_packages python3-venv
  local want; want="$("$python" -V) $(sha256sum <"$root/pyproject.toml")"
  if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.made-from" 2>/dev/null)" = "$want" ]; then return; fi
  say "making .venv with $python and installing the project (editable) into it"
  rm -rf "$venv"
  "$python" -m venv "$venv" || fail "cannot make $venv" "is python3-venv installed?"
  local log; log=$(mktemp)
  "$venv/bin/python" -m pip install -q --disable-pip-version-check -e "$root[dev]" >"$log" 2>&1 ||
    { tail -n 15 "$log" >&2; fail "pip could not install the project's dependencies"; }
  rm -f "$log"
  echo "$want" >"$venv/.made-from"
}
