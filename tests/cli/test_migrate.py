"""`hopwall migrate` against a real API on a real stream."""

import pytest

from hopwall_cli.client import Client, Problem
from hopwall_cli.main import parse
from hopwall_cli.nats_server import NatsServer
from tests.api.caller import EXAMPLES, running_api

pytestmark = pytest.mark.nats


async def test_a_migration_is_switched_and_shown_so(
    nats_server: NatsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command stores the switch; the list says it; what is not there is refused in a sentence."""
    async with running_api(nats_server.url) as caller:
        await caller.post(*EXAMPLES["LiveMigration"])
        client = Client(f"unix://{caller.socket}")
        for words in (["migrate", "switch", "one"], ["get", "lm"]):
            args = parse(words)
            assert await args.run(args, client) == 0
        said = capsys.readouterr().out.splitlines()
        assert said[0] == "LiveMigration default/one switched"
        assert said[-1].split() == ["default", "one", "h1/vm1", "vm", "==", "'1'", "yes"]
        args = parse(["migrate", "switch", "two", "-n", "default"])
        with pytest.raises(Problem, match="declare the migration first"):
            await args.run(args, client)
        await client.close()
