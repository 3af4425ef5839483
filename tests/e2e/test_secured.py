"""A secured lab and a secured `hopwall up`: all works, and no secret is where others can look."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hopwall_cli.lab import topology as topo
from hopwall_cli.lab.lab import Lab
from hopwall_cli.pki import tokens
from hopwall_cli.pki.folder import PkiFolder
from tests.e2e.test_up import HOPWALL, Machine
from tests.support.netns import Netns

pytestmark = [pytest.mark.e2e, pytest.mark.kernel]

PROFILE = """\
kind: Profile
metadata: {name: open}
spec: {ingress: [{action: Allow}], egress: [{action: Allow}]}
"""


def secrets_of(folder: Path) -> list[bytes]:
    """Return what must be nowhere: seeds, tokens, and the insides of keys."""
    found: list[bytes] = []
    for path in folder.rglob("*"):
        if path.name in ("nats.nk", "token"):
            found.append(path.read_bytes().strip())
        elif path.suffix == ".key":
            lines = path.read_bytes().splitlines()
            found.append(lines[len(lines) // 2])
    assert len(found) >= 8
    assert all(len(secret) > 40 for secret in found)
    return found


def places_to_look(pids: list[int], *folders: Path) -> dict[str, bytes]:
    """Return what others see of the processes, and every file of these folders."""
    paths = [Path(f"/proc/{pid}/{name}") for pid in pids for name in ("cmdline", "environ")]
    for folder in folders:
        # Unlike `rglob` it does not mind what goes meanwhile.
        paths += [Path(where) / name for where, _, names in os.walk(folder) for name in names]
    seen: dict[str, bytes] = {}
    for path in paths:
        # Agents start tools, and the server replaces files of its store.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            seen[str(path)] = path.read_bytes()
    return seen


def assert_clean(secrets: list[bytes], seen: dict[str, bytes]) -> None:
    """Show that no secret is in any of the places."""
    assert [place for place, text in seen.items() for secret in secrets if secret in text] == []


async def test_a_secured_lab_works_and_shows_no_secret() -> None:
    """Traffic, policy and status under credentials; argv, environments, logs and stores hold none."""
    async with Lab("secured", hosts=2) as lab:
        assert lab.pki is not None
        await lab.client.apply([topo.open_profile("open")])
        await lab.add(*topo.spread(tuple(lab.hosts), 1, profiles=("open",)))
        await lab.declare()
        assert all((await lab.matrix()).values())
        pids = [child.pid for child in lab.services.values()]
        assert len(pids) == 3 + 2
        secrets = secrets_of(lab.pki.path)
        seen = places_to_look(pids, lab.folder.path / "log", lab.folder.path / "nats")
        assert any("nats-server.conf" in place for place in seen)
        assert any(b"--nats-nkey-file" in text for text in seen.values())
        assert_clean(secrets, seen)
        logs = b"".join(text for place, text in seen.items() if "/log/" in place)
        assert b"ermissions violation" not in logs.replace(b"Permissions", b"permissions")
        hosts = await lab.client.request("GET", "/v1/hosts")
        assert [host["inSync"] for host in hosts["items"]] == [True, True]


async def test_a_host_whose_credential_is_revoked_is_cut_off_and_filters_on() -> None:
    """After the server has read its configuration again the host's link ends; its kernel stays as it was."""
    async with Lab("revoked", hosts=2) as lab:
        assert lab.pki is not None
        await lab.client.apply([topo.open_profile("open")])
        await lab.add(*topo.spread(tuple(lab.hosts), 1, profiles=("open",)))
        await lab.declare()
        rules = await lab.rules("h2")
        lab.pki.revoke(["h2"])
        lab.services["nats"].signal(signal.SIGHUP)
        log = lab.folder.log("dataplane-h2")
        async with asyncio.timeout(60):
            while b"disconnected" not in log.read_bytes():
                await asyncio.sleep(0.1)
        assert all((await lab.matrix()).values())
        assert await lab.rules("h2") == rules


class SecuredMachine(Machine):
    """One machine with `hopwall up --pki`."""

    def __init__(self, ns: Netns, folder: Path) -> None:
        super().__init__(ns, folder)
        self.pki = PkiFolder(folder / "pki")

    def run(self, *argv: str, text: str = "") -> str:
        """Run a `hopwall` command as the admin, over TLS."""
        flags = ["--server", "https://127.0.0.1:8080", "--ca", str(self.pki.path / "ca.crt")]
        flags += ["--token-file", str(self.pki.admin_token)]
        return self.ns.run([*HOPWALL, *flags, *argv], text=text, timeout_s=60)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[SecuredMachine]:
    """Make a machine and a set-up for it."""
    with Netns("upsec") as ns:
        one = SecuredMachine(ns, tmp_path)
        one.ns.run([*HOPWALL, "pki", "init", "--folder", str(one.pki.path), "--host", "me"])
        yield one


def test_up_with_a_set_up(machine: SecuredMachine) -> None:
    """One command made it, one runs it: TLS, tokens with roles, an open listen address, no secret shown."""
    log = machine.folder / "up.log"
    with machine.up("--pki", str(machine.pki.path)):
        machine.run("apply", "-f", "-", "--wait", "programmed", text=PROFILE)
        hosts = json.loads(machine.run("hosts", "-o", "json"))["items"]
        assert [host["host"] for host in hosts] == ["me"]
        token = tokens.create(machine.pki.tokens, "rita", "reader")
        (machine.folder / "rita").write_text(token)
        flags = ["--server", machine.server, "--token-file", str(machine.folder / "rita")]
        for _ in range(50):
            done = hopwall(machine, *flags, "get", "profiles")
            if done.returncode == 0:
                break
        assert "open" in done.stdout
        refused = hopwall(machine, *flags, "delete", "profile", "open")
        assert refused.returncode == 1
        assert "rita (reader) may not delete Profile: it takes the role admin." in refused.stderr
        bare = hopwall(machine, "--server", machine.server, "get", "profiles")
        assert "wants a token" in bare.stderr
        secrets = [*secrets_of(machine.pki.path), token.encode()]
        pids = [pid for pid in machine.ns_pids() if pid != os.getpid()]
        assert len(pids) >= 5
        assert_clean(secrets, places_to_look(pids, machine.folder / "nats"))
    assert not any(secret in log.read_bytes() for secret in secrets)
    assert re.search(r"ready: the REST API answers at unix://", log.read_text())


def hopwall(machine: SecuredMachine, *argv: str) -> "subprocess.CompletedProcess[str]":
    """Run a `hopwall` command that may fail."""
    return subprocess.run(
        machine.ns.command([sys.executable, "-m", "hopwall_cli", *argv]),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_up_wants_a_credential_for_its_host(machine: SecuredMachine) -> None:
    """A host that is not in the set-up is named, with the command that adds it."""
    argv = ["up", "--pki", str(machine.pki.path), "--host", "other", "--state-dir", "/nowhere/x"]
    done = hopwall(machine, *argv)
    assert done.returncode == 1
    assert "host other has no credential" in done.stderr
    assert "hopwall pki issue" in done.stderr
