"""api → dataplane and back: which rules a host's kernel holds, and how often each was met."""

from typing import Literal

from msgspec import Struct

from hopwall_model.updates import Verdict


class RulesRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask a host for its rules and default denials.

    Shape:  with `policy` ("gnp/name" …) only those of this policy; with `identities` only these; with both,
            what is in both.
    """

    policy: str = ""
    identities: tuple[str, ...] = ()


class RuleCount(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One rule, or one default denial, as it stands in a host's kernel.

    Units:  packets and bytes of both families since the kernel got the rule's lines: a chain that is
            rewritten begins at zero. A rule of action log counts what it logged.
    """

    #: The same on every host, and as long as the rule says the same; in log prefixes and line comments.
    identity: str
    action: Verdict
    #: "rule 3 of ingress" (from 1, as declared), "end of tier default", "anti-spoof" …
    place: str
    packets: int
    bytes: int
    #: "gnp/name" …; "" for a denial that is no policy's.
    policy: str = ""
    #: "" for profiles, and for denials that are no tier's.
    tier: str = ""
    #: Of the workload; "" for both.
    direction: Literal["ingress", "egress", ""] = ""
    #: Why the kernel refused the rule's chain, which is closed instead; "" when it stands.
    refused: str = ""


class HostRules(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A host's answer. `failure` says why it cannot answer; "" when it did."""

    host: str
    #: RFC 3339, the host's clock.
    at: str
    rules: tuple[RuleCount, ...] = ()
    failure: str = ""
