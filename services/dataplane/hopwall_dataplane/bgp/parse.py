"""What BIRD says over its control socket → values.

Pure. An answer is lines `<code>-text`, ` text` (the code of the line before) and a last one `<code> text`.
Codes from 8000 on are errors. What is not understood is left out, never guessed.

Source: doc/reply_codes and client/client.c of BIRD 2.0.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hopwall_model.status import BgpSession

EVALUATED = 23
_ROUTE = 1007
CONFIG_ERROR = 8002
_FIRST_ERROR = 8000

_LINE = re.compile(r"(\d{4})([- ])(.*)")
_PLACE = re.compile(r":(\d+):\d+ (.*)$|, line (\d+):? (.*)$", re.M)
_ROUTES = re.compile(r"Routes:\s+(.*)")
_COUNT = re.compile(r"(\d+) (imported|filtered|exported)")
_HEADER = re.compile(r"(\S+)\s+BGP\s+\S+\s+(\S+)\s+(\d\S*(?: \d\S*)?)\s*(.*)")
_MAX_ERROR = 200


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its last line's code and every line's code and text."""

    code: int
    lines: tuple[tuple[int, str], ...]

    @property
    def ok(self) -> bool:
        """Whether it is no error."""
        return self.code < _FIRST_ERROR

    @property
    def text(self) -> str:
        """All lines' text."""
        return "\n".join(text for _, text in self.lines)


def is_last(line: str) -> bool:
    """Tell whether an answer ends with this line."""
    found = _LINE.fullmatch(line)
    return found is not None and found[2] == " "


def reply(lines: Sequence[str]) -> Reply:
    """Read the lines of one answer.

    Errors: `ValueError` when they are none.
    """
    found: list[tuple[int, str]] = []
    for line in lines:
        if (match := _LINE.fullmatch(line)) is not None:
            found.append((int(match[1]), match[3].rstrip()))
        elif line.startswith(" ") and found:
            found.append((found[-1][0], line[1:].rstrip()))
        elif not line.startswith("+"):  # what other sessions are told
            raise ValueError("BIRD's answer is not understood.")
    if not found:
        raise ValueError("BIRD's answer is empty.")
    return Reply(found[-1][0], tuple(found))


def evaluated(answer: Reply) -> str | None:
    """Return the value of `eval`; None when the running configuration does not know the name."""
    return answer.lines[-1][1] if answer.code == EVALUATED else None


def has_routes(answer: Reply) -> bool:
    """Tell whether `show route` has shown any."""
    return any(code == _ROUTE for code, _ in answer.lines)


@dataclass(frozen=True, slots=True)
class Daemon:
    """What BIRD says of itself; "" for what it does not say."""

    version: str = ""
    router_id: str = ""
    last_reconfigured: str = ""


def daemon(answer: Reply) -> Daemon:
    """Read the answer to `show status`."""

    def after(words: str) -> str:
        found = re.search(rf"^{words} (\S+(?: \S+)?)\s*$", answer.text, re.M)
        return found[1] if found else ""

    return Daemon(after("BIRD"), after("Router ID is"), after("Last reconfiguration on"))


def config_fault(text: str) -> tuple[int, str]:
    """Read where a configuration is wrong (line from 1, 0 for nowhere) and why.

    The reason never repeats what the line holds.
    """
    found = _PLACE.search(text)
    if found is None:
        return 0, "BIRD does not accept the configuration."
    line, reason = (found[1], found[2]) if found[1] else (found[3], found[4])
    return int(line), reason[:_MAX_ERROR]


def sessions(answer: Reply, names: Mapping[str, str]) -> dict[str, BgpSession]:
    """Read the answer to `show protocols all`: session's name → what BIRD says of it.

    Shape: `names` maps protocols to sessions; other protocols are left out.
    """
    found: dict[str, BgpSession] = {}
    head: re.Match[str] | None = None
    body: list[str] = []
    for code, text in answer.lines:
        if code == _DETAIL:
            body.append(text)
            continue
        _put(found, names, head, body)
        head, body = _HEADER.fullmatch(text) if code == _PROTOCOL else None, []
    _put(found, names, head, body)
    return found


_PROTOCOL = 1002
_DETAIL = 1006


def _put(
    found: dict[str, BgpSession],
    names: Mapping[str, str],
    head: re.Match[str] | None,
    body: Sequence[str],
) -> None:
    if head is None or head[1] not in names:
        return
    text = "\n".join(body)
    state = re.search(r"BGP state:\s+(\S+)", text)
    error = re.search(r"Last error:\s+(.*)", text)
    routes = _ROUTES.search(text)
    counts = {what: int(n) for n, what in _COUNT.findall(routes[1])} if routes else {}
    found[names[head[1]]] = BgpSession(
        name=names[head[1]],
        state=state[1] if state else head[2].capitalize(),
        since=head[3],
        imported=counts.get("imported", 0),
        filtered=counts.get("filtered", 0),
        exported=counts.get("exported", 0),
        last_error=error[1].strip()[:_MAX_ERROR] if error else "",
    )
