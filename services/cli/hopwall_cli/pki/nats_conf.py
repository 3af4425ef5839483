"""The part of nats-server's configuration that says who may connect and what each may do.

Pure: users in, text out. It holds public keys and paths, no secret. Everything else of the configuration
(listening, storage, cluster) is written elsewhere and includes this.

The users are in the server's global account on purpose: what was stored before there were users stays in reach.

Source: NATS server configuration: authorization, TLS.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from hopwall_model.permissions import Permissions, User, permissions

#: A host's answer to a question for its rules: 512 KiB each.
_MAX_ANSWERS = 512
_ANSWER_TIME = "30s"
#: Of one connection: no host needs more scopes than this, and none may fill the server's memory.
_MAX_SUBSCRIPTIONS = 200_000

_HEAD = """\
# Written by `hopwall pki`; changed by hand it will be written again. Public keys only, no secret.
max_subscriptions: {subscriptions}
tls {{
  cert_file: {cert}
  key_file: {key}
  ca_file: {ca}
  verify: {verify}
  # Our services begin with TLS; other clients may wait for the greeting. Not `auto`, which greets after 50 ms: one of
  # ours that a busy machine kept from speaking so long would take the greeting for TLS, and have to begin again.
  handshake_first: "1s"
  timeout: 5
}}
authorization {{
  timeout: 5
  users: [
"""

#: What a server among several is known by. A certificate of the authority is not enough, as with mutual TLS each host has
#: one; and who is taken for a server may say and hear all.
ROUTES_CONF = "routes.conf"
_ROUTES = """\
# Written by `hopwall pki`; to be included in the block `cluster` of each of several servers. No secret.
tls {{
  cert_file: {cert}
  key_file: {key}
  ca_file: {ca}
  verify: true
  pinned_certs: [{pin}]
  timeout: 5
}}
"""


def routes_conf(*, cert: Path, key: Path, ca: Path, pin: str) -> str:
    """Return what lets in, as one of the servers, only who has the key of this fingerprint."""
    paths = {"cert": cert, "key": key, "ca": ca}
    return _ROUTES.format(
        **{name: json.dumps(str(path)) for name, path in paths.items()}, pin=json.dumps(pin)
    )


def security_conf(
    users: Mapping[User, str], *, cert: Path, key: Path, ca: Path, mutual: bool = False
) -> str:
    """Return the blocks `tls` and `authorization` for these users, with the public key of each.

    Shape:  with `mutual` every client must also show a certificate of the CA.
    """
    head = _HEAD.format(
        subscriptions=_MAX_SUBSCRIPTIONS,
        cert=json.dumps(str(cert)),
        key=json.dumps(str(key)),
        ca=json.dumps(str(ca)),
        verify="true" if mutual else "false",
    )
    return head + "".join(_user(user, users[user]) for user in sorted(users)) + "  ]\n}\n"


def _user(user: User, public_key: str) -> str:
    allowed = permissions(user)
    answers = (
        f"        allow_responses: {{ max: {_MAX_ANSWERS}, expires: {json.dumps(_ANSWER_TIME)} }}\n"
        if allowed.answers
        else ""
    )
    return f"""\
    # {user.name}
    {{
      nkey: {json.dumps(public_key)}
      permissions: {{
        publish: {{ allow: {_subjects(allowed, allowed.publish)} }}
        subscribe: {{ allow: {_subjects(allowed, allowed.subscribe)} }}
{answers}      }}
    }}
"""


def _subjects(whose: Permissions, subjects: Iterable[str]) -> str:
    found = list(subjects)
    # To the server an empty list is no list, and allows everything.
    assert found, whose
    return json.dumps(found)
