"""Mutual TLS on the bus: a key alone does not let in."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from hopwall_cli.pki.folder import PkiFolder
from hopwall_runtime.link import Link
from tests.security.conftest import H1, gets_in, server_of, settings_of

pytestmark = pytest.mark.nats


async def test_with_mutual_tls_a_client_shows_a_certificate_too(tmp_path: Path) -> None:
    """With key and certificate it works; with the key alone the server does not talk."""
    pki = PkiFolder(tmp_path / "pki")
    pki.make(hosts=["h1"], mutual=True)
    server = server_of(pki, tmp_path / "nats")
    await server.start()
    folder = pki.folder_of(H1)
    bare = settings_of(pki, server, H1)
    whole = replace(
        bare, nats_cert_file=str(folder / "client.crt"), nats_key_file=str(folder / "client.key")
    )
    try:
        link = Link("dataplane", "h1")
        await link.connect(whole)
        await link.flush()
        await link.close()
        assert not await gets_in(Link("dataplane", "h1"), bare)
    finally:
        await server.stop()


def test_the_flags_of_a_process_name_its_certificate(tmp_path: Path) -> None:
    """What a service is started with follows from what its folder holds."""
    pki = PkiFolder(tmp_path / "pki")
    pki.make(hosts=["h1"], mutual=True)
    flags = pki.flags(H1)
    assert flags[4:] == [
        *("--nats-cert-file", f"{pki.path}/hosts/h1/client.crt"),
        *("--nats-key-file", f"{pki.path}/hosts/h1/client.key"),
    ]
