"""Packed netlink: `codec` turns messages into bytes and back (pure), `socket` carries them."""
