"""Letting a host obey the snapshot it holds back: asked of its agent, and remembered by nobody else."""

from aiohttp import web
from msgspec import Struct

from hopwall_api import problems
from hopwall_api.answers import json_response
from hopwall_api.asking import ask_agent
from hopwall_api.parameters import query_of, refuse_unknown
from hopwall_api.reads import api_in_sync, known_host
from hopwall_model import codec, topics
from hopwall_model.release import Released, ReleaseRequest
from hopwall_model.status import HeldSnapshot

RELEASE_PARAMETERS = ("epoch",)

_decode = codec.decoder(Released)


class HostReleased(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="kind", tag="HostReleased"
):
    """The host obeys the snapshot that it held back for the reason in `held`."""

    host: str
    held: HeldSnapshot


async def release_host(request: web.Request) -> web.StreamResponse:
    """Tell a host's agent to obey what it holds back, as the API last heard of it."""
    query = query_of(request.query)
    refuse_unknown(query, RELEASE_PARAMETERS)
    api = await api_in_sync(request)
    name = known_host(api, request.match_info["host"])
    status = api.tracker.hosts.get(name)
    held = status.held if status is not None else None
    if held is None:
        raise problems.conflict(f"Host {name} holds back no snapshot, as far as it has reported.")
    # The epoch binds the release to what the caller has looked at: another snapshot is another decision.
    wanted = ReleaseRequest(epoch=query.get("epoch") or held.epoch)
    subject = topics.release_subject(name)
    answer = await ask_agent(api.link, name, subject, wanted, _decode, "answer to a release")
    if answer.failure:
        raise problems.conflict(f"Host {name}: {answer.failure}")
    return json_response(HostReleased(host=name, held=held))
