"""Address sets in the kernel: ours begin with `hw4-` or `hw6-`; every other set is foreign.

`elements` says what a set is, `plan` turns a difference into ops (pure), `codec` ops into bytes (pure),
`driver` speaks to the kernel.
"""
