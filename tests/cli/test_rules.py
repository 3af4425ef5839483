"""`hopwall rules`: from a pasted log line to a name."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from hopwall_cli.client import Client
from hopwall_cli.commands.rules import identity_in, run
from hopwall_cli.errors import Failure, Usage
from hopwall_cli.main import parse

ITEM = {
    "identity": "abcdefgh23",
    "action": "deny",
    "place": "end of tier default",
    "tier": "default",
    "direction": "ingress",
    "packets": 7,
    "bytes": 588,
}
REFUSED = {**ITEM, "policy": "gnp/p", "place": "rule 1 of ingress", "refused": "no such option."}


@pytest.mark.parametrize(
    "text",
    [
        "abcdefgh23",
        "hw:i:deny:4agpr4:u2nhabcd:abcdefgh23",
        "hw:-:deny:-:-:abcdefgh23",
        "hw:abcdefghijklmno-:abcdefgh23",
        "hw:abcdefghijklmno_:abcdefgh23:also",
        'NFLOG prefix="hw:e:log:-:u2nhabcd:abcdefgh23" IN=tap1 OUT= SRC=10.65.0.2',
        "12:00:00 hw:i:deny:4agpr4:u2nhabcd:abcdefgh23 IP 10.65.0.1.80 > 10.65.0.2.81: UDP",
    ],
)
def test_an_identity_is_found_in_what_is_pasted(text: str) -> None:
    """Bare, as a prefix, as a comment, or in the whole line of a log."""
    assert identity_in(text) == "abcdefgh23"


@pytest.mark.parametrize("text", ["", "short", "ABCDEFGH23", "hw:abcdefghijklmno-", "hw:i:deny"])
def test_what_has_no_identity_is_a_wrong_call(text: str) -> None:
    """Said before the API is asked."""
    with pytest.raises(Usage):
        identity_in(text)


def test_identities_may_stand_after_the_flags() -> None:
    """As the names of other commands."""
    args = parse(["rules", "h1", "--policy", "gnp/p", "abcdefgh23", "abcdefgh24"])
    assert (args.host, args.policy) == ("h1", "gnp/p")
    assert args.identities == ["abcdefgh23", "abcdefgh24"]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """Serve one host's rules on a unix socket, as the API does, and connect to it."""

    async def rules(request: web.Request) -> web.Response:
        if request.query.get("identity") == "zzzzzzzzzz" or "policy" in request.query:
            return web.json_response({"host": "h1", "items": []})
        return web.json_response({"host": "h1", "items": [ITEM, REFUSED]})

    app = web.Application()
    app.router.add_get("/v1/hosts/h1/rules", rules)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "api.sock")).start()
    client = Client(f"unix://{tmp_path}/api.sock")
    yield client
    await client.close()
    await runner.cleanup()


async def test_a_log_line_is_resolved(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """One command tells tier, place and counters; a refused rule has a line with the reason."""
    args = parse(["rules", "h1", "hw:i:deny:4agpr4:-:abcdefgh23"])
    assert await run(args, client) == 0
    heading, first, second, note = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["IDENTITY", "TIER", "POLICY"]
    assert first.split("   ")[0] == "abcdefgh23"
    assert "end of tier default" in first
    assert first.split()[-2:] == ["7", "588"]
    assert "gnp/p" in second
    assert note == "h1 refuses gnp/p, rule 1 of ingress: no such option."


async def test_json_is_what_the_api_says(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    """For programs."""
    assert await run(parse(["rules", "h1", "-o", "json"]), client) == 0
    assert '"packets": 7' in capsys.readouterr().out


@pytest.mark.parametrize("words", [["zzzzzzzzzz"], ["--policy", "gnp/none"]])
async def test_what_a_host_does_not_have_is_a_failure(client: Client, words: list[str]) -> None:
    """One sentence, and exit code 1."""
    with pytest.raises(Failure, match="h1"):
        await run(parse(["rules", "h1", *words]), client)
