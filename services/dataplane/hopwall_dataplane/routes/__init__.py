"""Routes of the host: ours carry protocol 80; every other route is foreign and stays as it is.

`route` says what a route is, `plan` turns a difference into ops (pure), `codec` ops into bytes (pure),
`driver` speaks to the kernel.
"""
