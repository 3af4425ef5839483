"""Whether others changed what is ours: by the kernel's events where it tells, by audits where it does not.

`codec` reads events (pure), `pace` says when to look (pure), `events` and `audit` speak to the kernel, `watch`
joins them. It only says what must be read again: reading, comparing and repairing stay where they were.
"""
