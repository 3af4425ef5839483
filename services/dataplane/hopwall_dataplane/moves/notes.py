"""Whose flows are still to be fetched, on disk: an agent that dies between a workload's route and its flows.

Written before the route, so that the next agent fetches them; gone when they have come. Nothing is synced: what
is to outlive the process and not the machine, whose flows go with it. A file that cannot be written or read costs
just that.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hopwall_dataplane.moves.departures import KEEP_S
from hopwall_model import codec
from hopwall_model.updates import EndpointId, Move
from hopwall_runtime import clock

log = logging.getLogger(__name__)

_FILE = "arrivals"
_decode = codec.decoder(dict[EndpointId, Move])


@dataclass(slots=True)
class Notes:
    """What is on disk of one host.

    Owner: the agent's loop.
    """

    #: None keeps nothing on disk.
    folder: Path | None = None
    _noted: dict[EndpointId, Move] = field(default_factory=dict)
    #: What an agent before this one left; None before it was read.
    _left: dict[EndpointId, Move] | None = None

    def add(self, arrivals: Mapping[EndpointId, Move]) -> None:
        """Note workloads that have arrived, before they have a route.

        Cost: one small file, without waiting for the disk.
        """
        if arrivals.items() - self._noted.items():
            self._read()
            self._noted |= arrivals
            self._write()

    def drop(self, endpoint_id: EndpointId, move: Move) -> None:
        """Forget one whose flows have come, or will not."""
        if self._noted.get(endpoint_id) == move:
            del self._noted[endpoint_id]
            self._write()

    def take(self) -> dict[EndpointId, Move]:
        """Return what an agent before this one left, and go on with it; what no source remembers is left out."""
        self._read()
        return self._left or {}

    def _read(self) -> None:
        if self._left is not None:
            return
        self._left = {}
        if self.folder is None:
            return
        path = self.folder / _FILE
        try:
            if clock.file_time() - path.stat().st_mtime <= KEEP_S:
                self._left = _decode(path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, codec.CodecError) as error:
            log.info("the workloads that had just arrived are not known: %s", error)
        self._noted = self._left | self._noted
        self._write()

    def _write(self) -> None:
        if self.folder is None:
            return
        path = self.folder / _FILE
        try:
            if self._noted:
                self.folder.mkdir(parents=True, exist_ok=True)
                path.write_bytes(codec.encode(self._noted))
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            log.info("a workload that has just arrived cannot be noted: %s", error)
