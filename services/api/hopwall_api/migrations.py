"""The call that says of a live migration: the workload runs at the target now.

It is intent like any other: an annotation of the resource, stored before it is answered, so it survives
whoever was to carry it out.
"""

from aiohttp import web

from hopwall_api import bodies, intent, problems, writes
from hopwall_api.intent import Plan, Stamp
from hopwall_api.parameters import expectation, query_of, write_options
from hopwall_api.store import Held
from hopwall_model.migration_specs import SWITCH_ANNOTATION
from hopwall_model.resources import Key, LiveMigration


async def switch(request: web.Request) -> web.StreamResponse:
    """Say that the workload has arrived; saying it again changes nothing."""
    options = write_options(query_of(request.query), request.headers)
    if await request.read():
        raise problems.invalid("A switch takes no body; remove it.")
    key = Key(LiveMigration.__name__, request.match_info["namespace"], request.match_info["name"])
    expected = expectation(request.headers, create=False, version=None)

    def plan(held: Held, stamp: Stamp) -> Plan:
        intent.check(key, held, expected)
        if held.stored is None:
            raise problems.not_found(f"{key} does not exist; declare the migration first.")
        change = {"metadata": {"annotations": {SWITCH_ANNOTATION: "true"}}}
        merged = intent.patched(held.stored.resource, change)
        document = bodies.document_for(LiveMigration, key.namespace, key.name, merged)
        return intent.plan_set(key, bodies.admitted(LiveMigration, document), held, stamp)

    return await writes.one(request, options, b"", key, plan)
