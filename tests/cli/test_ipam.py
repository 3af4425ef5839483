"""`hopwall ipam` against a real API on a real stream."""

from collections.abc import AsyncIterator

import pytest

from hopwall_cli.client import Client, Problem
from hopwall_cli.commands.ipam import block_row, is_address
from hopwall_cli.errors import Usage
from hopwall_cli.main import parse
from hopwall_cli.nats_server import NatsServer
from tests.api.caller import endpoint, node, running_api

pytestmark = pytest.mark.nats


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    """Run an API with one host and one pool, and connect as the command does."""
    async with running_api(nats_server.url) as caller:
        pool = {"kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": "10.65.0.0/26"}}
        await caller.post("/v1/apply", [node("h1"), pool])
        client = Client(f"unix://{caller.socket}")
        yield client
        await client.close()


async def run(client: Client, *words: str) -> int:
    """Run the command and return its exit code."""
    args = parse(["ipam", *words])
    return int(await args.run(args, client))


async def test_an_address_comes_is_shown_and_goes(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    """Assign, show by address and by handle, blocks, release: each says what it did."""
    assert await run(client, "assign", "vm1", "--host", "h1") == 0
    assert await run(client, "assign", "vm1", "--host", "h1", "--address", "10.65.0.9") == 0
    assert "10.65.0.9   vm1      h1     10.65.0.0/26   h1     p" in capsys.readouterr().out
    for what in ("vm1", "10.65.0.9"):
        assert await run(client, "show", what) == 0
        assert "10.65.0.9" in capsys.readouterr().out
    assert await run(client, "blocks", "--host", "h1") == 0
    assert "10.65.0.0/26   h1     p      2          64" in capsys.readouterr().out
    assert await run(client, "release", "10.65.0.9", "10.65.0.50") == 0
    said = capsys.readouterr().out.splitlines()
    assert said == ["10.65.0.9 released", "10.65.0.50 was not assigned"]
    assert await run(client, "release", "--handle", "vm1", "-o", "json") == 0
    with pytest.raises(Problem, match="has no address"):
        await run(client, "show", "vm1")


async def test_check_fails_when_something_does_not_fit(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 0 when all fits, 1 with a line for each thing that does not."""
    assert await run(client, "check") == 0
    await run(client, "assign", "vm1", "--host", "h1", "--address", "10.65.0.7")
    await client.apply([endpoint("own", address="10.65.0.8")])
    capsys.readouterr()
    assert await run(client, "check") == 1
    said = capsys.readouterr().out
    assert "unused         10.65.0.7" in said
    assert "not-assigned   10.65.0.8" in said
    assert said.endswith("1 addresses in 1 blocks; 2 things do not fit.\n")


async def test_release_wants_to_know_what(client: Client) -> None:
    """Nothing, or two different things, cannot be meant."""
    both = ["release", "--host", "h1", "--handle", "a"]
    for words in (["release"], both, ["release", "--handle", "a", "--force"]):
        with pytest.raises(Usage):
            await run(client, *words)


async def test_the_blocks_of_a_declared_host_are_taken_by_force_alone(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without it the refusal says what to do."""
    await run(client, "assign", "vm1", "--host", "h1")
    with pytest.raises(Problem, match=r"delete Node h1 .*--force"):
        await run(client, "release", "--host", "h1")
    capsys.readouterr()
    assert await run(client, "release", "--host", "h1", "--force") == 0
    assert capsys.readouterr().out == "10.65.0.0/26 is no block of h1 any more\n"


def test_the_server_may_be_named_last() -> None:
    """The flag that every command takes is taken after the verb too."""
    assert parse(["ipam", "blocks", "--server", "http://x"]).server == "http://x"


def test_addresses_are_told_from_handles() -> None:
    """What looks like an address is one; ids of workloads are handles."""
    assert all(is_address(text) for text in ("10.65.0.1", "fd00::1", "::1"))
    assert not any(is_address(text) for text in ("vm1", "k8s.10.0.0.1", "1.2.3", "ns:vm"))


def test_a_block_that_cannot_be_read_is_shown_as_one() -> None:
    """It is not said to be empty and nobody's: that is not known."""
    block = {"cidr": "10.65.0.0/26", "host": "", "pool": "main", "nAssigned": 0, "nAddresses": 64}
    block |= {"nBorrowed": 0, "nResting": 0, "unreadable": True}
    assert block_row(block) == ["10.65.0.0/26", "(cannot be read)", "main", "?", "64", "?", "?"]
