"""The only code that asks nf_tables itself: where the iptables tools cannot print what is there.

It refuses to write rules, and to delete any but those it is told the handles of.
"""

import errno
import os
from collections.abc import Iterable

from hopwall_dataplane.iptables.nft_codec import (
    chains_message,
    delete_messages,
    handles_behind,
    rules_message,
    table_state,
)
from hopwall_dataplane.iptables.table import TableName, TableState
from hopwall_dataplane.netlink.socket import NETLINK_NETFILTER, NetlinkSocket
from hopwall_dataplane.outcome import Family


class NftDriver:
    """Tables of one family, read as the kernel has them.

    Owner: one thread at a time.
    """

    def __init__(self, family: Family) -> None:
        """Open the socket in the current network namespace."""
        self._family = family
        self._socket = NetlinkSocket(NETLINK_NETFILTER)

    @property
    def portid(self) -> int:
        """The number that events of what this driver deletes bear."""
        return self._socket.portid

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def read(self, table: TableName) -> TableState:
        """Return what one table holds of ours; lines in kernel chains have handles.

        Errors: `OSError` when the kernel does not give it.
        """
        chains = [body for _, body in self._socket.dump(chains_message(self._family))]
        rules = [body for _, body in self._socket.dump(rules_message(self._family, table))]
        return table_state(table, chains, rules)

    def behind(self, table: TableName, chain: str, guard: str) -> list[int] | None:
        """Return the handles of what no packet meets in a chain, the guard's last: see `handles_behind`.

        Errors: `OSError` when the kernel does not give it.
        """
        rules = [b for _, b in self._socket.dump(rules_message(self._family, table, chain))]
        return handles_behind(rules, guard)

    def delete(self, table: TableName, chain: str, handles: Iterable[int]) -> None:
        """Delete rules of a chain; one that is gone will do.

        Errors: `OSError` when the kernel refuses.
        """
        for handle in handles:
            begin, delete, end = delete_messages(self._family, table, chain, handle)
            failure = self._socket.batch(delete, begin, end)
            if failure is not None and failure.errno != errno.ENOENT:
                raise OSError(failure.errno, failure.text or os.strerror(failure.errno))
