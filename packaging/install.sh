#!/usr/bin/env bash
# Install this checkout in /opt/hopwall, with its systemd units, users, folders and settings. It enables and starts
# nothing. What is in /etc/hopwall already stays; run again, it installs the checkout as it is now.
# Usage: install.sh [host]: with `host` what a machine with workloads needs, without nats, api and calc.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '==> %s\n' "$*"; }
fail() { printf 'install: %s\n' "$*" >&2; exit 1; }

case "${1:-all}" in
  all) lock=cli units=(wall dataplane bird nats api calc) settings=(dataplane api calc) ;;
  host) lock=dataplane units=(wall dataplane bird) settings=(dataplane) ;;
  *) fail "$1: say nothing, or host." ;;
esac
[ "$(id -u)" = 0 ] || fail "run this as root: it installs units and makes users."
python=${PYTHON:-python3}
missing=()
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || fail "$python must be Python 3.11 or newer."
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
PATH="$PATH:/usr/sbin:/sbin" command -v iptables-nft-restore >/dev/null || missing+=(iptables)
command -v systemctl >/dev/null || missing+=(systemd)
[ "${#missing[@]}" = 0 ] || fail "missing: apt-get install --no-install-recommends ${missing[*]}"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
pip() { # pip VENV WORD...
  local venv=$1
  shift
  "$venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"
}
say "installing Python packages in /opt/hopwall, as pinned in locks/$lock.lock"
"$python" -m venv "$scratch/build"
pip "$scratch/build" install --require-hashes -r locks/build.lock
pip "$scratch/build" wheel --no-deps --no-build-isolation --wheel-dir "$scratch" .
[ -x /opt/hopwall/bin/python ] || "$python" -m venv /opt/hopwall
pip /opt/hopwall install --require-hashes -r "locks/$lock.lock"
pip /opt/hopwall install --no-deps --force-reinstall "$scratch"/*.whl
ln -sf /opt/hopwall/bin/hopwall /usr/local/bin/hopwall

say "installing users, folders, units and settings"
install -D -m 644 packaging/sysusers.d/hopwall.conf /etc/sysusers.d/hopwall.conf
install -D -m 644 packaging/tmpfiles.d/hopwall.conf /etc/tmpfiles.d/hopwall.conf
for unit in "${units[@]}"; do
  install -D -m 644 "packaging/systemd/hopwall-$unit.service" "/etc/systemd/system/hopwall-$unit.service"
done
install -d /usr/share/doc/hopwall
cp -r docs/guides /usr/share/doc/hopwall/
systemd-sysusers hopwall.conf
systemd-tmpfiles --create hopwall.conf
for name in "${settings[@]}"; do
  [ -e "/etc/hopwall/$name.env" ] || sed "s/@HOST@/$(hostname)/" "packaging/env/$name.env" >"/etc/hopwall/$name.env"
done
if [ "$lock" = cli ] && [ ! -e /etc/hopwall/nats.conf ]; then
  install -m 644 services/runtime/nats.conf /etc/hopwall/nats.conf
fi
systemctl daemon-reload
say "installed: what comes next is in docs/guides/running.md, \"With systemd\""
