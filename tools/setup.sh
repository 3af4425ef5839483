#!/usr/bin/env bash
# Set up what is missing: Debian packages, a virtual environment in .venv, the locked Python packages.
# Says what it installs; does nothing when all is there. Debian packages and PyPI only.
# Usage: setup.sh [--run] [LOCK...]: with --run no Debian package that the tests alone need; LOCK for what is pinned in
# locks/LOCK.lock beside locks/dev.lock.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '==> %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "run this as root: network namespaces, iptables and routes need it."
python=${PYTHON:-python3}
command -v "$python" >/dev/null || fail "$python is not installed: apt-get install python3 (3.11 or newer)."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "$("$python" --version) is too old: Python 3.11 or newer is needed (set PYTHON=/path/to/it)."

for_tests=yes
if [ "${1:-}" = --run ]; then
  for_tests=no
  shift
fi

# ---------------------------------------------------------------- Debian packages
missing=()
need() { # need PACKAGE COMMAND...
  local package=$1 tool
  shift
  for tool in "$@"; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "$tool" >/dev/null || { missing+=("$package"); return; }
  done
}
need iptables iptables-nft-restore ip6tables-nft-restore iptables-legacy-restore
need iproute2 ip
need ipset ipset
need bird2 bird
if [ "$for_tests" = yes ]; then
  need nftables nft # damage that only nft can do
  # Other BGP daemons, which ours is held against.
  need frr vtysh
  need gobgpd gobgpd gobgp
  need exabgp exabgp exabgpcli
  need systemd systemd-analyze # reads the units; nothing of it is started
fi
if [ ! -x .venv/bin/python ] && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  missing+=(python3-venv)
fi
if [ "${#missing[@]}" -gt 0 ]; then
  say "installing Debian packages: ${missing[*]}"
  command -v apt-get >/dev/null || fail "install these packages by hand: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  # Nothing that is installed here starts by itself: a BGP daemon of the system's own is not wanted.
  deny=/usr/sbin/policy-rc.d
  if [ ! -e "$deny" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$deny"
    chmod 755 "$deny"
    trap 'rm -f "$deny"' EXIT
  fi
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  if command -v systemctl >/dev/null; then
    for package in "${missing[@]}"; do
      case $package in
        bird2) systemctl disable --quiet bird 2>/dev/null || true ;;
        frr | gobgpd | exabgp) systemctl disable --quiet "$package" 2>/dev/null || true ;;
      esac
    done
  fi
fi

# ---------------------------------------------------------------- Python packages
if [ ! -x .venv/bin/python ]; then
  say "making a virtual environment in .venv ($("$python" --version))"
  "$python" -m venv .venv
  rm -rf .setup
fi
install_locked() { # install_locked LOCK: unless it has been installed as it is now
  local lock=locks/$1.lock stamp=.setup/$1 wanted
  wanted=$(cat "$lock" pyproject.toml | sha256sum | cut -d' ' -f1)
  [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || return 0
  say "installing $(grep -c '^[a-z0-9].*==' "$lock") Python packages from PyPI, as pinned in $lock"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
  if [ "$1" = dev ]; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
  fi
  mkdir -p .setup
  printf '%s\n' "$wanted" >"$stamp"
  say "set up"
}
for lock in dev "$@"; do
  install_locked "$lock"
done
