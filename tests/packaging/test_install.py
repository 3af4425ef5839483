"""What packaging/install.sh lays down fits together: units, users, folders, settings, credentials."""

import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hopwall_api.settings import ApiSettings
from hopwall_calc.settings import CalcSettings
from hopwall_cli.pki.folder import PkiFolder
from hopwall_dataplane.settings import DataplaneSettings
from tests.support.unit import FOLDER, Unit

PACKAGING = FOLDER.parent
ROOT = PACKAGING.parent
INSTALL = (PACKAGING / "install.sh").read_text()
SETTINGS: dict[str, type[Any]] = {
    "api": ApiSettings,
    "calc": CalcSettings,
    "dataplane": DataplaneSettings,
}
UNITS = sorted(FOLDER.iterdir())
HERE, OTHER = socket.gethostname(), "another-host"


def test_every_unit_is_installed() -> None:
    """Each unit stands in the list of what is installed where everything is."""
    [listed] = re.findall(r"all\) lock=cli units=\((.*?)\)", INSTALL)
    assert {f"hopwall-{name}.service" for name in listed.split()} == {p.name for p in UNITS}


def test_systemd_knows_every_word_of_the_units() -> None:
    """A word that systemd does not know is no error to it: what it was to forbid stays allowed."""
    asked = ["systemd-analyze", "verify", *map(str, UNITS)]
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stderr.splitlines()
    absent = [line for line in said if "/opt/hopwall/bin/" in line and "not executable" in line]
    assert {line.partition(":")[0] for line in absent} == {path.name for path in UNITS}
    ours = [line for line in said if "hopwall" in line]
    assert ours == absent


@pytest.mark.parametrize("unit", [path.stem for path in UNITS])
def test_variables_within_words_have_braces(unit: str) -> None:
    """systemd leaves `word$NAME` as it stands, and expands `word${NAME}`."""
    lines = [
        v for key in ("ExecStart", "ExecReload") for v in Unit.read(unit).settings.get(key, [])
    ]
    assert lines
    assert not [line for line in lines if re.search(r"\S\$\w", line)]


def settings_of(name: str) -> dict[str, str]:
    """Return what an env file sets."""
    text = (PACKAGING / "env" / f"{name}.env").read_text().replace("@HOST@", HERE)
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_known(name: str) -> None:
    """No line of an env file is one that the service does not read; its unit reads that file."""
    fields = {f"HOPWALL_{field.upper()}" for field in SETTINGS[name].__struct_fields__}
    assert set(settings_of(name)) <= fields
    assert f"-/etc/hopwall/{name}.env" in Unit.read(f"hopwall-{name}").words("EnvironmentFile")


def test_each_user_has_its_own_credentials_and_no_others(tmp_path: Path) -> None:
    """After tmpfiles.d every file a service is told of is its user's; what is nobody's stays root's."""
    pki = PkiFolder(tmp_path / "etc/hopwall/pki")
    pki.make(hosts=[HERE, OTHER])
    sysusers = ["systemd-sysusers", f"--root={tmp_path}", f"{PACKAGING}/sysusers.d/hopwall.conf"]
    subprocess.run(sysusers, check=True, capture_output=True)
    tmpfiles = ["systemd-tmpfiles", f"--root={tmp_path}", "--create"]
    subprocess.run([*tmpfiles, f"{PACKAGING}/tmpfiles.d/hopwall.conf"], check=True)
    passwd = (tmp_path / "etc/passwd").read_text()
    uids = {name: int(uid) for name, uid in re.findall(r"^(\S+?):x:(\d+):", passwd, re.M)}
    for name in SETTINGS:
        uid = uids[Unit.read(f"hopwall-{name}").one("User")]
        paths = [v for v in settings_of(name).values() if v.startswith("/etc/hopwall/pki")]
        assert len(paths) >= 2
        assert {(tmp_path / path[1:]).stat().st_uid for path in paths} == {uid}
    assert (pki.path / "nats/server.key").stat().st_uid == uids["hopwall-nats"]
    for name in ("ca.key", "admin/token", "auditor/nats.nk", f"hosts/{OTHER}/nats.nk"):
        assert (pki.path / name).stat().st_uid == os.getuid()
    folders = [path for path in pki.path.rglob("*") if path.is_dir()]
    assert {path.stat().st_uid for path in folders} == {os.getuid()}


@pytest.mark.parametrize("script", ["packaging/install.sh", "tools/setup.sh"])
def test_who_is_not_root_is_told_so_at_once(script: str) -> None:
    """One sentence, before anything is touched."""
    text = (ROOT / script).read_text()
    argv = ["setpriv", "--reuid=65534", "--clear-groups", "bash", "-c", text, "/usr/bin/x"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, cwd="/")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"(install|setup): run this as root: [^\n]+\.\n", done.stderr)
