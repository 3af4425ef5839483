"""The only code that asks nf_tables itself: where the iptables tools cannot print what is there.

It refuses to write rules, and to delete any but those it is told the handles of, that no packet meets, or that are ours
where others stand in a kernel chain's place. What stands there gets another name, and keeps its lines and its hook.
"""

import errno
import os
from collections.abc import Collection, Iterable, Mapping, Sequence

from hopwall_dataplane.iptables.nft_codec import (
    chain_message,
    chains_message,
    delete_message,
    edge_messages,
    handles_behind,
    is_asleep,
    our_handles,
    place_in,
    rename_message,
    rules_message,
    table_message,
    table_state,
    wake_message,
)
from hopwall_dataplane.iptables.roots import HOOKS, Roots, other_names, roots
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

    def roots(self, table: TableName) -> Roots:
        """Return how a table hangs in the kernel.

        Errors: `OSError` when the kernel does not tell.
        Cost:   15 µs a kernel chain.
        """
        answer = self._ask(table_message(self._family, table))
        if answer is None:
            return Roots()
        places = {}
        for chain in HOOKS[table]:
            if (found := self._ask(chain_message(self._family, table, chain))) is not None:
                places[chain] = place_in(found)
        return roots(table, asleep=is_asleep(answer), places=places)

    def put_right(self, table: TableName, chains: Collection[str]) -> int:
        """Wake a table, and take others out of these kernel chains' places; return how many transactions it took.

        Errors: `OSError` when the kernel refuses.
        """
        wrong, n_done = self.roots(table), 0
        if wrong.asleep:
            self._must(self._delete([wake_message(self._family, table)]))
            n_done += 1
        for chain in sorted(wrong.usurped.keys() & set(chains)):
            self._set_aside(table, chain, wrong.usurped[chain])
            n_done += 1
        return n_done

    def _set_aside(self, table: TableName, chain: str, handle: int) -> None:
        rules = [body for _, body in self._socket.dump(rules_message(self._family, table, chain))]
        ours = [delete_message(self._family, table, chain, one) for one in our_handles(rules)]
        failure: Failure | None = None
        for name in other_names(chain):
            failure = self._delete([*ours, rename_message(self._family, table, handle, name)])
            if failure is None or failure.errno != errno.EEXIST:
                break
        self._must(failure)

    def _ask(self, question: bytes) -> bytes | None:
        answer = self._socket.ask(question)
        if isinstance(answer, Failure):
            if answer.errno == errno.ENOENT:
                return None
            self._must(answer)
        assert isinstance(answer, bytes)
        return answer

    @staticmethod
    def _must(failure: Failure | None) -> None:
        if failure is not None:
            raise OSError(failure.errno, failure.text or os.strerror(failure.errno))

    def delete(self, table: TableName, chain: str, handles: Iterable[int]) -> None:
        """Delete rules of a chain; one that is gone will do.

        Errors: `OSError` when the kernel refuses.
        """
        for handle in handles:
            failure = self._delete([delete_message(self._family, table, chain, handle)])
            if failure is not None and failure.errno != errno.ENOENT:
                self._must(failure)

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
