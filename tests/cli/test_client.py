from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from hopwall_cli.client import Client, ClientError, Problem, path_of
from hopwall_model.resources import GlobalNetworkSet, WorkloadEndpoint

PAGES = {
    "": {"items": [{"n": 1}], "metadata": {"continue": "next"}},
    "next": {"items": [{"n": 2}], "metadata": {"resourceVersion": "7"}},
}
STREAM = b': hello\n\nid: 3\nevent: set\ndata: {}\n\nevent: error\ndata: {"status": 410, "detail": "Gone."}\n\n'


async def pages(request: web.Request) -> web.StreamResponse:
    """Answer a list in two pages, or a watch that ends with an error event."""
    if request.query.get("watch"):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(STREAM)
        return response
    return web.json_response(PAGES[request.query.get("continue", "")])


async def refuse(_: web.Request) -> web.Response:
    """Answer with a problem."""
    body = {"title": "Conflict", "detail": "Somebody was faster.", "errors": [{"pointer": "/a"}]}
    return web.json_response(body, status=409)


async def nonsense(_: web.Request) -> web.Response:
    """Answer as a proxy in the way would."""
    return web.Response(text="<html>", status=502)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """Serve the three answers on a unix socket, and connect to it."""
    app = web.Application()
    app.router.add_get("/v1/globalnetworksets", pages)
    app.router.add_delete("/v1/globalnetworksets/x", refuse)
    app.router.add_get("/nonsense", nonsense)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "api.sock")).start()
    client = Client(f"unix://{tmp_path}/api.sock")
    yield client
    await client.close()
    await runner.cleanup()


def test_paths_are_those_of_the_api() -> None:
    """A namespaced kind without a namespace is the collection over all; names are quoted."""
    assert path_of(WorkloadEndpoint) == "/v1/workloadendpoints"
    assert path_of(WorkloadEndpoint, namespace="a", name="b/c") == (
        "/v1/namespaces/a/workloadendpoints/b%2Fc"
    )
    assert path_of(GlobalNetworkSet, namespace="a", name="x") == "/v1/globalnetworksets/x"


async def test_list_is_read_to_its_last_page(client: Client) -> None:
    """A list is all pages together."""
    assert (await client.list(GlobalNetworkSet))["items"] == [{"n": 1}, {"n": 2}]


async def test_problem_is_raised_with_its_own_words(client: Client) -> None:
    """A refusal carries the sentence, the status and the single faults of the API."""
    with pytest.raises(Problem, match=r"^Somebody was faster\.$") as caught:
        await client.delete(GlobalNetworkSet, namespace="", name="x")
    assert caught.value.status == 409
    assert caught.value.errors == [{"pointer": "/a"}]


async def test_answer_of_a_stranger_is_told(client: Client) -> None:
    """What is no JSON did not come from the API, and that is what is said."""
    with pytest.raises(ClientError, match="answered 502 with something that is no JSON"):
        await client.request("GET", "/nonsense")


async def test_watch_ends_with_the_error_it_was_sent(client: Client) -> None:
    """An error event of a watch is a problem."""
    events = client.watch(GlobalNetworkSet)
    assert await anext(events) == ("set", "3", {})
    with pytest.raises(Problem, match=r"^Gone\.$"):
        await anext(events)


def test_what_is_no_server_is_one_sentence() -> None:
    """A bare name is not asked for, and nobody is sent to look for an API there."""
    for text in ("foo", "127.0.0.1:8080", ""):
        with pytest.raises(ClientError, match="is no server; write http://"):
            Client(text)


async def test_nobody_at_the_address_is_one_sentence(tmp_path: Path) -> None:
    """Without an API the sentence names the address and what to look at."""
    client = Client(f"unix://{tmp_path}/none.sock")
    try:
        with pytest.raises(ClientError, match=r"No API answers at unix://.*: No such file"):
            await client.request("GET", "/v1/hosts")
        with pytest.raises(ClientError, match="is not ready after 0 s"):
            await client.ready(timeout_s=0.3)
    finally:
        await client.close()
