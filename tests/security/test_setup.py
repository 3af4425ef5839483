"""A secured set-up as files, and what runs with it: nothing secret where others look."""

import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from hopwall_api.access.tokens import read_tokens
from hopwall_api.settings import ApiSettings
from hopwall_calc.settings import CalcSettings
from hopwall_cli.errors import Failure
from hopwall_cli.main import main
from hopwall_cli.nats_server import binary
from hopwall_cli.pki import tokens
from hopwall_cli.pki.folder import PkiError, PkiFolder
from hopwall_cli.pki.nats_conf import security_conf
from hopwall_dataplane.settings import DataplaneSettings
from hopwall_model.permissions import User, permissions
from hopwall_model.topics import Role
from hopwall_runtime.config import ConfigError
from tests.security.conftest import API, AUDITOR, CALC, H1, H2

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]


def test_secrets_are_for_their_owner_alone(pki: PkiFolder) -> None:
    """Keys, seeds and tokens have mode 0600; what all may read holds none of them."""
    files = [path for path in pki.path.rglob("*") if path.is_file()]
    secret = {p for p in files if p.suffix in (".key", ".nk") or p.name in ("tokens.json", "token")}
    assert len(secret) == 1 + 3 + 5 + 1 + 1
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
    for path in set(files) - secret:
        text = path.read_text()
        assert "PRIVATE KEY" not in text
        assert not re.search(r"\bSU[A-Z2-7]{56}\b|hopwall_[a-z2-7]{10}_", text), path
    assert "PRIVATE" not in pki.tokens.read_text()
    assert pki.admin_token.read_text().strip() not in pki.tokens.read_text()


def test_one_processs_folder_has_no_others_secret(pki: PkiFolder) -> None:
    """Each process has its own seed, and the authority's key is in none of their folders."""
    seeds = [(pki.folder_of(u) / "nats.nk").read_text() for u in (API, CALC, AUDITOR, H1, H2)]
    assert len(set(seeds)) == len(seeds)
    assert [p.parent for p in pki.path.rglob("ca.key")] == [pki.path]


def test_a_set_up_is_not_overwritten(pki: PkiFolder) -> None:
    """Making it again is refused and changes nothing."""
    before = {path: path.read_bytes() for path in pki.path.rglob("*") if path.is_file()}
    with pytest.raises(PkiError, match="pki issue"):
        pki.make(hosts=["h3"])
    assert {path: path.read_bytes() for path in pki.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("bad", ["", "..", "a/b", "a b", "-x", "x" * 300])
def test_a_host_whose_name_is_no_name_is_refused_and_nothing_is_made(
    tmp_path: Path, bad: str
) -> None:
    """The whole folder, or nothing of it."""
    with pytest.raises(PkiError):
        PkiFolder(tmp_path / "pki").make(hosts=["h1", bad])
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_address_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    """One sentence, and no half of a folder."""
    with pytest.raises(PkiError, match=r"192\.0\.2\.300"):
        PkiFolder(tmp_path / "pki").make(addresses=["192.0.2.300"])
    assert list(tmp_path.iterdir()) == []


def test_hosts_come_and_go(pki: PkiFolder) -> None:
    """A new host gets a key, an old one a new key, a revoked one is no user any more."""
    first = pki.security_conf.read_text()
    pki.issue(["h3", "h1"])
    second = pki.security_conf.read_text()
    assert H1 in pki.users()
    assert User(Role.HOST, "h3") in pki.users()
    keys = [dict(re.findall(r"# (\S+)\n\s+{\s+nkey: (\S+)", text)) for text in (first, second)]
    changed = {name for name in keys[1] if keys[0].get(name) != keys[1][name]}
    assert changed == {"dataplane-h1", "dataplane-h3"}
    pki.revoke(["h1"])
    assert H1 not in pki.users()
    assert "dataplane-h1" not in pki.security_conf.read_text()
    assert not (pki.path / "hosts" / "h1").exists()
    with pytest.raises(PkiError, match="no credential"):
        pki.revoke(["h9"])


def test_every_permission_stands_in_the_configuration(pki: PkiFolder) -> None:
    """What the function allows is what the server is told, for each user, and nothing more."""
    text = pki.security_conf.read_text()
    for user in pki.users():
        block = text.partition(f"# {user.name}\n")[2].partition("# ")[0]
        allowed = permissions(user)
        lists = re.findall(r"allow: (\[.*?\]) }", block)
        assert [tuple(yaml.safe_load(one)) for one in lists] == [allowed.publish, allowed.subscribe]
        assert ("allow_responses" in block) == allowed.answers
    assert "deny" not in text
    assert "no_auth_user" not in text


@pytest.mark.parametrize("mutual", [False, True])
def test_the_server_takes_the_shipped_configuration(tmp_path: Path, mutual: bool) -> None:
    """nats.conf of compose.yaml, with what `hopwall pki` writes beside it, is valid for nats-server."""
    pki = PkiFolder(tmp_path / "etc" / "hopwall" / "pki")
    pki.make(hosts=["h1"], mutual=mutual)
    nats = tmp_path / "etc" / "nats"
    nats.mkdir()
    shipped = (ROOT / "services/runtime/nats.conf").read_text()
    (nats / "nats.conf").write_text(shipped)
    asked = [binary(), "-t", "-c", str(nats / "nats.conf")]
    env = COMPOSE["nats"]["environment"] | {"NATS_STORE": f"{tmp_path}/data"}
    done = subprocess.run(asked, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert "security.conf" in shipped


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_server_takes_the_example_of_a_cluster(tmp_path: Path, n: int) -> None:
    """Each file of the example, with what `hopwall pki` writes, is valid for nats-server and lets no other server in."""
    folder = tmp_path / "etc" / "hopwall"
    PkiFolder(folder / "pki").make(hosts=["h1"])
    text = (ROOT / "examples" / "nats-cluster" / f"nats-{n}.conf").read_text()
    config = folder / "nats.conf"
    config.write_text(text.replace("/var/lib/nats", f"{tmp_path}/store"))
    asked = [binary(), "-t", "-c", str(config)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "routes.conf" in text


def test_an_empty_list_is_never_written(monkeypatch: pytest.MonkeyPatch, pki: PkiFolder) -> None:
    """nats-server takes an empty allow-list for no limit at all."""
    import hopwall_cli.pki.nats_conf as nats_conf
    from hopwall_model.permissions import Permissions

    monkeypatch.setattr(
        nats_conf, "permissions", lambda _: Permissions(publish=(), subscribe=("x",))
    )
    with pytest.raises(AssertionError):
        security_conf({API: "U"}, cert=Path("c"), key=Path("k"), ca=Path("a"))


@pytest.mark.parametrize(
    ("service", "settings"),
    [("api", ApiSettings), ("calc", CalcSettings), ("dataplane", DataplaneSettings)],
)
def test_compose_uses_it(service: str, settings: type[Any]) -> None:
    """Each container runs with its own credential from files, and sees no folder but its own."""
    environment = COMPOSE[service]["environment"]
    fields = {f"HOPWALL_{name.upper()}" for name in settings.__struct_fields__}
    assert set(environment) <= fields
    used = [v for v in environment.values() if str(v).startswith("/etc/hopwall/pki")]
    mounts = [v for v in COMPOSE[service]["volumes"] if v.startswith("/etc/hopwall/pki")]
    assert len(mounts) == 1
    assert mounts[0].endswith(":ro")
    inside = mounts[0].removesuffix(":ro").rpartition(":")[2]
    assert used
    assert all(str(path).startswith(inside + "/") for path in used)
    assert "HOPWALL_NATS_NKEY_FILE" in environment
    assert "HOPWALL_NATS_CA_FILE" in environment


@pytest.mark.parametrize(
    ("listen", "more", "word"),
    [
        ("0.0.0.0:80", {}, "tokens_file"),
        ("[::]:80", {}, "tokens_file"),
        ("192.0.2.1:80", {"tokens_file": "t"}, "tls_cert_file"),
        ("127.0.0.1:80,192.0.2.1:80", {"tls_cert_file": "c", "tls_key_file": "k"}, "tokens_file"),
        ("127.0.0.1:80", {"tls_cert_file": "c"}, "go together"),
    ],
)
def test_no_door_is_open_by_accident(listen: str, more: dict[str, Any], word: str) -> None:
    """Beyond loopback the API wants tokens and TLS, or does not start."""
    with pytest.raises(ConfigError, match=word):
        ApiSettings(listen=tuple(listen.split(",")), **more).check()


@pytest.mark.parametrize("listen", ["127.0.0.1:80", "[::1]:80", "localhost:80", "unix:/x"])
def test_loopback_needs_neither(listen: str) -> None:
    """On the machine itself it may be open, as `hopwall up` is."""
    ApiSettings(listen=(listen,)).check()


def test_tokens_come_and_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """create shows a token once or writes it 0600; list shows no secret; revoke ends it."""
    path, out = tmp_path / "tokens.json", tmp_path / "t"
    path.write_text('{"tokens": []}')
    where = ["--file", str(path)]
    assert main(["token", "create", "a", "--role", "reader", "--days", "3", *where]) == 0
    shown = capsys.readouterr().out.strip()
    create = ["token", "create", "b", "--role", "editor", "--namespace", "x", "--out", str(out)]
    assert main([*create, *where]) == 0
    assert out.read_text().strip() not in capsys.readouterr().out
    assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE(path.stat().st_mode) == 0o600
    assert main(["token", "list", *where]) == 0
    table = capsys.readouterr().out
    assert shown not in table
    assert shown.rpartition("_")[2] not in table
    assert [row.split()[1] for row in table.splitlines()] == ["NAME", "a", "b"]
    assert main(["token", "revoke", "a", "c", *where]) == 1
    assert len(read_tokens(path.read_bytes())) == 2
    assert main(["token", "revoke", "a", *where]) == 0
    assert [token.name for token in read_tokens(path.read_bytes())] == ["b"]


@pytest.mark.parametrize(
    "argv", [["x", "admin", "a"], ["bad name", "reader"], ["x", "reader", "Bad"]]
)
def test_a_wrong_token_is_not_made(tmp_path: Path, argv: list[str]) -> None:
    """An admin has no namespaces, and names are names."""
    path = tmp_path / "tokens.json"
    path.write_text('{"tokens": []}')
    with pytest.raises(Failure):
        tokens.create(path, argv[0], argv[1], argv[2:])
    assert path.read_text() == '{"tokens": []}'
