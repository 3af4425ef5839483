#!/usr/bin/env bash
# Set up what is missing: Debian packages, a virtual environment in .venv, the locked Python packages.
# Says what it installs; does nothing when all is there. Debian packages and PyPI only. One at a time on a machine; what
# an earlier one left half done is done anew.
# Usage: setup.sh [--run] [LOCK...]: with --run no Debian package that the tests alone need; LOCK for what is pinned in
# locks/LOCK.lock beside locks/dev.lock.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '==> %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "run this as root: network namespaces, iptables and routes need it."
python=${PYTHON:-python3}
# Where the tools are, whatever the shell of root was told.
PATH="$PATH:/usr/sbin:/sbin"

for_tests=yes
if [ "${1:-}" = --run ]; then
  for_tests=no
  shift
fi

exec 9>/run/hopwall-setup.lock
if ! flock -n 9; then
  say "another set-up runs on this machine: waiting until it has ended"
  flock 9
fi

# ---------------------------------------------------------------- Debian packages
missing=()
need() { # need PACKAGE COMMAND...
  local package=$1 tool
  shift
  for tool in "$@"; do
    command -v "$tool" >/dev/null || { missing+=("$package"); return; }
  done
}
[ -n "${PYTHON:-}" ] || need python3 python3
need iptables iptables-nft-restore ip6tables-nft-restore iptables-legacy-restore
need iproute2 ip
need ipset ipset
need bird2 bird
if [ "$for_tests" = yes ]; then
  need nftables nft # damage that only nft can do
  need e2fsprogs mkfs.ext4 # a disk whose power is cut
  # Other BGP daemons, which ours is held against.
  need frr vtysh
  need gobgpd gobgpd gobgp
  need exabgp exabgp exabgpcli
  need systemd systemd-analyze # reads the units; nothing of it is started
fi
[ -x .venv/bin/python ] || rm -f .setup/venv
if [ ! -e .setup/venv ] && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  missing+=(python3-venv)
fi

deny=/usr/sbin/policy-rc.d
deny_text='#!/bin/sh
# Made by the set-up of Hopwall while it installs packages: nothing they bring starts by itself.
exit 101'
# One that was killed could not take it away.
if [ "$(cat "$deny" 2>/dev/null)" = "$deny_text" ]; then rm -f "$deny"; fi

install_packages() { # install_packages PACKAGE...
  command -v apt-get >/dev/null || fail "install these packages by hand: $*"
  export DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes
  # A BGP daemon of the system's own is not wanted.
  if [ ! -e "$deny" ]; then
    trap 'rm -f "$deny"' EXIT
    printf '%s\n' "$deny_text" >"$deny"
    chmod 755 "$deny"
  fi
  local apt=(apt-get -qq -o DPkg::Lock::Timeout=300)
  dpkg --configure -a >/dev/null || fail "dpkg cannot end what it began: look at 'dpkg --configure -a'."
  "${apt[@]}" update || fail "apt-get update failed (above): the package lists cannot be read."
  "${apt[@]}" install -y --no-install-recommends "$@" >/dev/null || fail "apt-get install failed (above): $*"
  # Nor at the next boot. Where systemd itself is new, BIRD may have come before it.
  local package units=()
  for package in "$@"; do
    case $package in
      bird2 | systemd) units+=(bird) ;;
      frr | gobgpd | exabgp) units+=("$package") ;;
    esac
  done
  if [ "${#units[@]}" -gt 0 ] && command -v systemctl >/dev/null; then
    systemctl disable --quiet "${units[@]}" 2>/dev/null || true
  fi
}
if [ "${#missing[@]}" -gt 0 ]; then
  say "installing Debian packages (a minute or two): ${missing[*]}"
  install_packages "${missing[@]}"
fi

# ---------------------------------------------------------------- Python packages
command -v "$python" >/dev/null || fail "$python is not there: set PYTHON to a Python of 3.11 or newer."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "$("$python" --version) is too old: Python 3.11 or newer is needed (set PYTHON=/path/to/it)."
# Half an environment looks like a whole one: the mark is taken away before anything changes, and comes last.
if [ ! -e .setup/venv ]; then
  say "making a virtual environment in .venv ($("$python" --version))"
  rm -rf .venv .setup
  "$python" -m venv .venv
  mkdir -p .setup
  touch .setup/venv
fi
pip() { .venv/bin/python -m pip --quiet --disable-pip-version-check install "$@"; }
install_locked() { # install_locked LOCK: unless it has been installed as it is now
  local lock=locks/$1.lock stamp=.setup/$1 wanted
  wanted=$(cat "$lock" pyproject.toml | sha256sum | cut -d' ' -f1)
  [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || return 0
  say "installing $(grep -c '^[a-z0-9].*==' "$lock") Python packages from PyPI, as pinned in $lock"
  rm -f .setup/venv
  pip --require-hashes -r "$lock"
  if [ "$1" = dev ]; then
    pip --no-deps --no-build-isolation -e .
  fi
  printf '%s\n' "$wanted" >"$stamp"
  touch .setup/venv
  say "set up"
}
for name in dev "$@"; do
  install_locked "$name"
done
