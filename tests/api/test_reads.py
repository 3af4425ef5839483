"""Reading through HTTP: lists in pages, selectors, hosts, and the service's own pages."""

import asyncio

import pytest
from msgspec import structs
from openapi_spec_validator import OpenAPIV31SpecValidator

from hopwall_api.agent import Api
from hopwall_api.app import make_app
from hopwall_cli.nats_server import NatsServer
from hopwall_model.status import BgpSession, BgpStatus
from hopwall_runtime.link import Link
from tests.api.caller import (
    ENDPOINTS,
    EXAMPLES,
    PATIENCE_S,
    Caller,
    calc_status,
    endpoint,
    host_status,
    node,
    running_api,
    say,
)

pytestmark = pytest.mark.nats


async def fill(caller: Caller, n: int) -> None:
    """Create Nodes n000, n001 …, every third with role=db."""
    items = [node(f"n{i:03}", role="db" if i % 3 == 0 else "web") for i in range(n)]
    answer = await caller.post("/v1/apply", items)
    assert answer.status == 200, answer.body


async def test_a_selector_filters_a_list(caller: Caller) -> None:
    """labelSelector is our grammar; a wrong one is a 400 that says where."""
    await fill(caller, 10)
    listed = (await caller.get('/v1/nodes?labelSelector=role == "db"')).json
    assert [one["metadata"]["name"] for one in listed["items"]] == ["n000", "n003", "n006", "n009"]
    assert listed["metadata"]["resourceVersion"] == "10"
    assert (
        "character" in (await caller.get("/v1/nodes?labelSelector=role ==")).problem(400)["detail"]
    )
    await caller.put(f"{ENDPOINTS}/vm1", endpoint("vm1"))
    query = 'labelSelector=projectcalico.org/namespace == "default"'
    assert len((await caller.get(f"/v1/workloadendpoints?{query}")).json["items"]) == 1


async def test_pages_show_one_revision_while_others_write(caller: Caller) -> None:
    """What is written between two pages does not show in the second."""
    await fill(caller, 9)
    first = (await caller.get("/v1/nodes?limit=4")).json
    await caller.delete("/v1/nodes/n005")
    await caller.put("/v1/nodes/n004x", node("n004x"))
    token = first["metadata"]["continue"]
    second = (await caller.get(f"/v1/nodes?limit=4&continue={token}")).json
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"] == "9"
    third = (await caller.get(f"/v1/nodes?continue={second['metadata']['continue']}")).json
    assert "continue" not in third["metadata"]
    names = [one["metadata"]["name"] for page in (first, second, third) for one in page["items"]]
    assert names == [f"n{i:03}" for i in range(9)]


async def test_a_page_that_ends_the_list_has_no_token(caller: Caller) -> None:
    """The last page says that it is the last, also where it is full."""
    await fill(caller, 6)
    assert "continue" not in (await caller.get("/v1/nodes?limit=6")).json["metadata"]
    selected = (await caller.get('/v1/nodes?limit=2&labelSelector=role == "db"')).json
    token = selected["metadata"]["continue"]
    rest = (await caller.get(f'/v1/nodes?limit=2&labelSelector=role == "db"&continue={token}')).json
    assert (len(selected["items"]), len(rest["items"])) == (2, 0)


async def test_a_token_of_another_list_or_before_a_restart_is_refused(
    nats_server: NatsServer,
) -> None:
    """400 for a token that does not belong here, 410 where its revision is forgotten."""
    async with running_api(nats_server.url) as caller:
        await fill(caller, 5)
        token = (await caller.get("/v1/nodes?limit=2")).json["metadata"]["continue"]
        (await caller.get(f"/v1/tiers?continue={token}")).problem(400)
        (await caller.get("/v1/nodes?continue=xx")).problem(400)
        (await caller.get("/v1/nodes?limit=0")).problem(400)
        (await caller.get("/v1/nodes?limit=many")).problem(400)
        await caller.put("/v1/nodes/z", node("z"))
    async with running_api(nats_server.url) as caller:
        (await caller.get(f"/v1/nodes?continue={token}")).problem(410)


async def test_a_large_list_is_streamed_whole(caller: Caller) -> None:
    """More than one turn's worth arrives as one valid document, in order."""
    for start in range(0, 2500, 500):
        items = [node(f"n{i:04}") for i in range(start, start + 500)]
        assert (await caller.post("/v1/apply", items)).status == 200
    names = [one["metadata"]["name"] for one in (await caller.get("/v1/nodes")).json["items"]]
    assert names == [f"n{i:04}" for i in range(2500)]
    nothing = await caller.get('/v1/nodes?labelSelector=role == "x"')
    assert nothing.json["items"] == []


async def test_what_was_written_is_read_after_a_restart(nats_server: NatsServer) -> None:
    """The stream is the store: a new process shows the same resources and revisions."""
    async with running_api(nats_server.url) as caller:
        for collection, document in EXAMPLES.values():
            assert (await caller.post(collection, document)).status == 201
        before = [(await caller.get(c)).json for c, _ in EXAMPLES.values()]
    async with running_api(nats_server.url) as caller:
        after = [(await caller.get(c)).json for c, _ in EXAMPLES.values()]
    for one in (*before, *after):
        one["metadata"].pop("resourceVersion")
    assert before == after


async def test_hosts_show_how_far_each_has_come(caller: Caller, link: Link) -> None:
    """Reported hosts with their lag, and declared ones that never reported."""
    await caller.put("/v1/nodes/h2", node("h2"))
    await say(link, calc_status(0, 9, "h1"), host_status("h1", 4))
    async with asyncio.timeout(PATIENCE_S):
        while "lag" not in (items := (await caller.get("/v1/hosts")).json["items"])[0]:
            await asyncio.sleep(0.01)
    first, second = items
    assert (first["host"], first["reported"], first["lag"], first["inSync"]) == (
        "h1",
        True,
        5,
        True,
    )
    assert second == {"host": "h2", "reported": False}
    assert (await caller.get("/v1/hosts/h1")).json["revision"] == 4
    (await caller.get("/v1/hosts/h9")).problem(404)


async def test_a_host_says_how_its_bgp_sessions_are(caller: Caller, link: Link) -> None:
    """In the list how many are up, of one host each session with its routes and last error."""
    session = BgpSession(
        name="mesh/h2", state="Active", filtered=3, last_error="Hold timer expired"
    )
    bgp = BgpStatus(in_sync=True, version="2.0.12", n_sessions=1, sessions=(session,))
    await say(link, calc_status(0, 9, "h1"), structs.replace(host_status("h1", 9), bgp=bgp))
    async with asyncio.timeout(PATIENCE_S):
        while not (items := (await caller.get("/v1/hosts")).json["items"]):
            await asyncio.sleep(0.01)
    assert items[0]["bgp"] == {"inSync": True, "version": "2.0.12", "nSessions": 1}
    (said,) = (await caller.get("/v1/hosts/h1")).json["bgp"]["sessions"]
    assert said == {
        "name": "mesh/h2", "state": "Active", "filtered": 3, "lastError": "Hold timer expired",
    }  # fmt: skip


async def test_the_service_tells_of_itself(caller: Caller) -> None:
    """Version, liveness, readiness, metrics."""
    assert (await caller.get("/version")).json["apiVersion"] == "projectcalico.org/v3"
    assert (await caller.get("/livez")).status == 200
    assert "[+] nats connected" in (await caller.get("/readyz?verbose")).body.decode()
    await caller.put("/v1/nodes/a", node("a"))
    metrics = (await caller.get("/metrics")).body.decode()
    assert 'hopwall_api_resources{kind="Node"} 1.0' in metrics
    assert (
        'hopwall_api_requests_total{method="PUT",route="/v1/nodes/{name}",status="201"} 1.0'
        in metrics
    )


async def test_the_document_is_valid_and_names_every_route(caller: Caller) -> None:
    """OpenAPI 3.1, as its validator understands it; no route of the app is missing in it."""
    document = (await caller.get("/openapi.json")).json
    OpenAPIV31SpecValidator(document).validate()
    app = make_app(Api(Link("test")))
    routes = {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None
    }
    described = {
        (method, path) for path, operations in document["paths"].items() for method in operations
    }
    assert routes == described
    operation = document["paths"]["/v1/nodes/{name}"]["put"]
    assert {"200", "201", "202", "409", "412", "422", "503"} <= operation["responses"].keys()


async def test_requests_are_traceable(caller: Caller) -> None:
    """A caller's trace id is in the problem, its request id in every answer."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "X-Request-Id": "r-1"}
    answer = await caller.ask("GET", "/v1/nodes/none", headers=headers)
    assert answer.problem(404)["traceId"] == trace
    assert answer.headers["X-Request-Id"] == "r-1"
    assert answer.json["instance"] == "/v1/nodes/none"
