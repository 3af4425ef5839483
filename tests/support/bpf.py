"""A second reading of the programs that `xt_bpf` runs: over bytes, as the kernel documents it.

It knows nothing of how they are made. Source: Documentation/networking/filter.rst, linux/bpf_common.h.
"""

_SIZES = {0x00: 4, 0x08: 2, 0x10: 1}
_LOAD, _JUMP, _RETURN = 0, 5, 6
_HEAD_LENGTH_TO_X, _A_TO_X = 0xB1, 0x07
MOST_STEPS = 64

Steps = list[tuple[int, int, int, int]]


def read(text: str) -> Steps:
    """Read a program, as written for `--bytecode`.

    Errors: ValueError for what the kernel would refuse.
    """
    head, *rest = text.split(",")
    steps: Steps = []
    for part in rest:
        code, then, otherwise, k = (int(word) for word in part.split())
        steps.append((code, then, otherwise, k))
    if len(steps) != int(head) or not 0 < len(steps) <= MOST_STEPS:
        raise ValueError(f"{head} steps said, {len(steps)} there")
    for at, (code, then, otherwise, _) in enumerate(steps, 1):
        if not (0 <= then <= 255 and 0 <= otherwise <= 255):
            raise ValueError(f"step {at} jumps by what a byte cannot hold")
        if code & 7 == _JUMP and at + max(then, otherwise) >= len(steps):
            raise ValueError(f"step {at} jumps beyond the end")
    if steps[-1][0] & 7 != _RETURN:
        raise ValueError("the last step goes on")
    return steps


def run(text: str, packet: bytes) -> int:
    """Run a program over a packet that begins with its IP header.

    Errors: ValueError for what the kernel would refuse, or this reader has not been taught.
    """
    steps = read(text)
    a = x = at = 0
    while True:
        code, then, otherwise, k = steps[at]
        at += 1
        if code & 7 == _RETURN:
            return k
        if code & 7 == _JUMP:
            at += then if _holds(code, a, x if code & 8 else k) else otherwise
        elif code == _A_TO_X:
            x = a
        else:
            start, size = (k + x, _SIZES[code & 0x18]) if code & 0xE0 == 0x40 else (k, _width(code))
            if start + size > len(packet):
                return 0  # a load beyond the end ends the program
            value = int.from_bytes(packet[start : start + size])
            if code == _HEAD_LENGTH_TO_X:
                x = 4 * (value & 15)
            else:
                a = value


def _holds(code: int, a: int, other: int) -> bool:
    return {0x10: a == other, 0x30: a >= other, 0x40: bool(a & other)}[code & 0xF0]


def _width(code: int) -> int:
    if code == _HEAD_LENGTH_TO_X:
        return 1
    if code & 7 != _LOAD or code & 0xE0 not in (0x20, 0x40):
        raise ValueError(f"a step of code {code:#x} is not known here")
    return _SIZES[code & 0x18]
