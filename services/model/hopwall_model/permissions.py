"""Who may do what on the bus: allow-lists, made from the table of topics alone.

Pure. Refuses deny-lists: servers have let queue subscriptions slip past them (CVE-2022-29946,
CVE-2026-58251). What is not allowed here is refused by the server.

Source: NATS server configuration, authorization; NATS ADR-15 (JetStream subjects).
"""

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from hopwall_model import topics
from hopwall_model.topics import Role, Topic

#: The package that runs in each role.
_SERVICES = {Role.HOST: "dataplane"}
#: Who makes the streams where they are missing.
_MAKERS = (Role.API, Role.CALC)


class User(Struct, frozen=True, order=True):
    """One credential: a role, and for hosts which."""

    role: Role
    host: str = ""

    @property
    def service(self) -> str:
        """What runs in this role."""
        return _SERVICES.get(self.role, str(self.role))

    @property
    def name(self) -> str:
        """What the process of this user calls itself."""
        return topics.service_name(self.service, self.host)


class Permissions(Struct, frozen=True, kw_only=True):
    """What a user may publish and subscribe; nothing else.

    Shape:  `answers`: it may also answer a message it was sent, on that message's reply subject. Only for
            whom no sender is untrusted: a reply subject is the asker's choice.
    """

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    answers: bool = False


def permissions(user: User) -> Permissions:
    """Return what a user may do.

    Errors: ValueError for a host without a name, or a name without a host.
    """
    if bool(user.host) != (user.role is Role.HOST):
        raise ValueError(f"User {user.role}: a host, and no other, has a host's name.")
    publish, subscribe, answers = [], [f"{_inbox(user)}.>"], False
    for topic in topics.TOPICS:
        if user.role in topic.senders:
            publish.append(_sent(topic, user))
        if user.role in topic.receivers:
            subscribe.append(_received(topic, user))
            if topic.answered and Role.HOST in topic.senders and user.role is not Role.HOST:
                publish.append(topics.HOST_INBOXES)
            elif topic.answered:
                answers = True
    publish += _stream_calls(user.role)
    return Permissions(publish=_once(publish), subscribe=_once(subscribe), answers=answers)


def _inbox(user: User) -> str:
    return topics.inbox_prefix(str(user.role), user.host)


def _sent(topic: Topic[Any], user: User) -> str:
    if topic.varies == "hosts":
        return topic.pattern.removesuffix("*") + topics.token(user.host)
    own = {"host": user.host, "service": user.name}.get(topic.varies, "")
    return topic.pattern.replace("*", topics.token(own)) if own else topic.pattern


def _received(topic: Topic[Any], user: User) -> str:
    if topic.varies == "hosts":
        return topic.pattern.replace("*", topics.token(user.host), 1)
    own = user.host if topic.varies == "host" else ""
    return topic.pattern.replace("*", topics.token(own)) if own else topic.pattern


def _stream_calls(role: Role) -> list[str]:
    """Return the requests to JetStream that the role's work needs; hosts and auditors make none."""
    calls: list[str] = []
    for topic in topics.TOPICS:
        if not topic.stream:
            continue
        api, stream = "$JS.API", topic.stream
        if role in _MAKERS:
            calls += [f"{api}.STREAM.INFO.{stream}", f"{api}.STREAM.CREATE.{stream}"]
        if role is Role.API:
            calls.append(f"{api}.STREAM.UPDATE.{stream}")
        if role in topic.readers:
            # The echo of the server's flow control goes to $JS.FC.
            calls += [f"{api}.CONSUMER.CREATE.{stream}", f"$JS.FC.{stream}.>"]
        if topic is topics.EVENT and role in topic.readers:
            # What the stream is known by: its newest message, and the one that was last seen of it.
            calls.append(f"{api}.STREAM.MSG.GET.{stream}")
        if topic is topics.EVENT and role in topic.senders:
            calls.append(f"{api}.STREAM.PURGE.{stream}")  # of tombstones that all have seen
    return calls


def _once(subjects: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(subjects))
