"""The only code that asks nf_tables itself: where the iptables tools cannot print what is there.

It refuses to write rules, and to delete any but those it is told the handles of, or that no packet meets.
"""

import errno
import os
from collections.abc import Iterable, Mapping, Sequence

from hopwall_dataplane.iptables.nft_codec import (
    chains_message,
    delete_message,
    edge_messages,
    handles_behind,
    rules_message,
    table_state,
)
from hopwall_dataplane.iptables.table import TableName, TableState
from hopwall_dataplane.netlink.codec import Failure
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

    def delete(self, table: TableName, chain: str, handles: Iterable[int]) -> None:
        """Delete rules of a chain; one that is gone will do.

        Errors: `OSError` when the kernel refuses.
        """
        for handle in handles:
            failure = self._delete([delete_message(self._family, table, chain, handle)])
            if failure is not None and failure.errno != errno.ENOENT:
                raise OSError(failure.errno, failure.text or os.strerror(failure.errno))

    def trim(self, table: TableName, guards: Mapping[str, str]) -> bool:
        """Delete from chains what stands behind their guards, and the guards, in one transaction.

        Shape:  chain → hash of its guard. False where one is not as believed, or has changed meanwhile.
        Errors: `OSError` when the kernel does not give its rules.
        """
        deletions = []
        for chain, guard in guards.items():
            rules = [b for _, b in self._socket.dump(rules_message(self._family, table, chain))]
            handles = handles_behind(rules, guard)
            if handles is None:
                return False
            deletions += [delete_message(self._family, table, chain, one) for one in handles]
        return self._delete(deletions) is None

    def _delete(self, deletions: Sequence[bytes]) -> Failure | None:
        begin, end = edge_messages()
        return self._socket.batch(deletions, begin, end)
