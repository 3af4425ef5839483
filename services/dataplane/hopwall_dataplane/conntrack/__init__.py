"""Flows the kernel tracks: those that policy denies by now carry our mark, and are dropped by it.

`flow` says what a flow is and what can be done to one, `plan` what should be (pure), `codec` speaks bytes
(pure), `driver` speaks to the kernel, `revocation` decides when to look.
"""
