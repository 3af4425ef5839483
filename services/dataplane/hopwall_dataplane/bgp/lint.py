"""The last look at a configuration before BIRD sees it: every line is one of a known form.

Pure. It knows nothing of how the text was made, so a mistake there cannot hide here. It refuses what it does not
know, and every place where a text of somebody else's could begin another line or statement.
"""

import re

_NAME = r"hw_[a-z0-9_]{1,40}"
_INT = r"[0-9]{1,10}"
_IP = r"[0-9a-f:.]{2,39}"
_NET = rf"{_IP}/[0-9]{{1,3}}"
_RANGE = rf"{_NET}(?:\+|\{{[0-9]{{1,3}},[0-9]{{1,3}}\}})"
_SET = rf"\[ {_RANGE}(?:, {_RANGE})* \]"
_PATTERN = r'"[A-Za-z0-9_.*-]{1,15}"'
_COMMUNITY = rf"\({_INT}, {_INT}(?:, {_INT})?\)"
_LIST = r"bgp_(?:large_)?community"
_IFNAME = rf"ifname ~ {_PATTERN}"
_TERM = "|".join(
    (
        "true",
        "false",
        rf"net !?~ {_SET}",
        rf"!\(net ~ {_SET} \|\| {_NAME}\(\)\)",
        rf"net !?= {_NET}",
        rf"net\.len [<>]?= {_INT}",
        r"source = RTS_(?:BGP|INHERIT)",
        rf"krt_(?:source|metric) = {_INT}",
        rf'proto = "{_NAME}"',
        rf"!?{_NAME}\(\)",
        r"bgp_next_hop != from",
        _IFNAME,
        rf"\({_IFNAME}(?: \|\| {_IFNAME})*\)",
        rf"{_COMMUNITY} ~ {_LIST}",
        rf"bgp_path ~ \[= {_INT}(?: {_INT})* \* =\]",
        rf'!\(proto = "{_NAME}"(?: \|\| {_NAME}\(\))*\)',
    )
)
_CONDITION = rf"(?:{_TERM})(?: && (?:{_TERM}))*"
_VALUE = rf"(?:preference|bgp_local_pref) = {_INT}"
_OPERATION = rf"(?:{_LIST}\.add\({_COMMUNITY}\)|bgp_path\.prepend\({_INT}\)|{_VALUE});"
_BODY = rf"(?:accept;|reject;|\{{ {_OPERATION}(?: {_OPERATION})*(?: accept;)? \}})"

#: Form of a line → how many braces deeper the next one is.
_FORMS = (
    (r"# Made by hopwall; changes are lost\.", 0),
    (r'define hw_config = "[a-z2-7]{16}";', 0),
    (r"log stderr \{ [a-z, ]+ \};", 0),
    (rf"router id {_IP};", 0),
    (rf"graceful restart wait {_INT};", 0),
    (rf"protocol (?:device|direct|kernel|static|bfd|bgp) {_NAME} \{{", 1),
    (rf"filter {_NAME} \{{", 1),
    (rf"function {_NAME}\(\) \{{", 1),
    (r"ipv[46] \{", 1),
    (r"\};?", -1),
    (rf"return {_CONDITION};", 0),
    (rf"if {_CONDITION} then {_BODY}", 0),
    (r"accept;|reject;|ipv[46];", 0),
    (rf'interface -{_PATTERN}(?:, -{_PATTERN})*, "\*";', 0),
    (r"(?:learn|persist|graceful restart|passive|bfd|ttl security|import keep filtered) on;", 0),
    (r"graceful restart off;|multihop;|direct;|rr client;|gateway recursive;", 0),
    (
        rf"(?:metric|netlink rx buffer|scan time|merge paths on limit|multihop|allow local as) {_INT};",
        0,
    ),
    (rf"(?:keepalive|hold|graceful restart|connect delay|connect retry) time {_INT};", 0),
    (rf"error wait time {_INT}, {_INT};", 0),
    (rf"(?:import|receive) limit {_INT} action block;", 0),
    (rf"(?:import|export) filter {_NAME};", 0),
    (r"next hop (?:self|keep|prefer global);", 0),
    (rf"route {_NET} (?:blackhole|via {_IP});", 0),
    (rf"local (?:{_IP} )?port {_INT} as {_INT};", 0),
    (rf"neighbor {_IP} port {_INT} as {_INT};", 0),
    (rf"rr cluster id {_IP};", 0),
    (r'password "[ !#-~]{1,80}";', 0),
)
_COMPILED = [(re.compile(form, re.ASCII), depth) for form, depth in _FORMS]


class Suspicious(ValueError):
    """A line of no known form; the text names its number, never what it says (it may hold a password)."""


def lint(text: str) -> None:
    """Look at every line.

    Errors: `Suspicious`.
    """
    depth = 0
    for number, line in enumerate(text.split("\n")[:-1], 1):
        content = line.lstrip(" ")
        step = next((d for form, d in _COMPILED if form.fullmatch(content)), None)
        if step is None:
            raise Suspicious(f"Line {number} of the rendered configuration is of no known form.")
        level = depth + min(step, 0)
        if level < 0 or len(line) - len(content) != 2 * level:
            raise Suspicious(f"Line {number} of the rendered configuration is out of its block.")
        depth += step
    if depth or not text.endswith("\n"):
        raise Suspicious("The rendered configuration ends inside a block.")
