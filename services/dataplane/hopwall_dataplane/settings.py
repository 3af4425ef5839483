"""What the dataplane service can be told."""

import socket
from typing import Literal

from hopwall_dataplane.bgp.driver import SAFE_PATH
from hopwall_dataplane.failsafe import (
    DEFAULT_INBOUND,
    DEFAULT_OUTBOUND,
    FailsafeError,
    parse_failsafe,
)
from hopwall_dataplane.iptables.nflog import LogSettings, LogSettingsError
from hopwall_model.names import valid_ifname
from hopwall_runtime.config import CommonSettings, ConfigError

_MAX_CONVERGENCE_S = 3600


class DataplaneSettings(CommonSettings, frozen=True, kw_only=True):
    """Settings of one host's agent; see `docs/guides/configuration.md`."""

    #: This host's name, as in the resources' `spec.node`; "" takes the machine's.
    host: str = ""
    #: Interfaces whose name starts with one of these belong to workloads; unknown ones are closed.
    interface_prefixes: tuple[str, ...] = ("tap", "cali")
    backend: str = "auto"
    mark_mask: str = "0xffffff00"
    ipv6: bool = True
    #: What becomes of a workload's traffic to its own host after its egress policy: drop, accept, or
    #: return, which leaves it to what others have in the filter table.
    workload_to_host: Literal["drop", "accept", "return"] = "drop"
    #: What no host endpoint closes, as protocol:port or protocol:port:net.
    failsafe_inbound: tuple[str, ...] = DEFAULT_INBOUND
    failsafe_outbound: tuple[str, ...] = DEFAULT_OUTBOUND
    #: Whether flows that are established end when policy comes to deny them.
    revoke_flows: bool = True
    #: The next hop that workloads may use whatever their subnet; the host answers ARP for it.
    link_local_gateway: str = "169.254.1.1"
    #: NFLOG group of log messages, and how many each line may send.
    log_group: int = 100
    log_rate: str = "10/second"
    log_burst: int = 20
    #: Whether denials are logged, and not only what Log rules match.
    log_denied: bool = True
    #: Whether this host's BIRD is ours to configure; without it, what calc says of BGP is ignored.
    bgp: bool = False
    #: BIRD's control socket, the configuration it reads at its start, and the folder of passwords.
    bird_socket: str = "/run/hopwall/bird.ctl"
    bird_config: str = "/run/hopwall/bird.conf"
    bird_secrets: str = "/etc/hopwall/secrets"
    #: Seconds after the end of a live migration for which the route of who arrived is preferred to others.
    migration_convergence_s: float = 30.0
    #: Seconds between complete re-readings of the kernel.
    refresh_s: float = 90.0
    heartbeat_s: float = 5.0

    @property
    def host_name(self) -> str:
        """The name this agent answers for."""
        return self.host or socket.gethostname()

    @property
    def log(self) -> LogSettings:
        """How packets are logged.

        Errors: LogSettingsError, unless `check` has passed.
        """
        return LogSettings(self.log_group, self.log_rate, self.log_burst, self.log_denied)

    def check(self) -> None:
        """Refuse what types cannot: one sentence per fault.

        Errors: ConfigError.
        """
        if not self.interface_prefixes:
            raise ConfigError(
                "interface_prefixes is empty: no workload could be told from the host."
            )
        for prefix in self.interface_prefixes:
            if not valid_ifname(prefix) or len(prefix) > 14:
                raise ConfigError(f"interface_prefixes: {prefix!r} cannot begin an interface name.")
        if self.backend not in ("auto", "nft", "legacy"):
            raise ConfigError(f"backend is {self.backend!r}; it must be auto, nft or legacy.")
        self._check_failsafe()
        if not 0 <= self.migration_convergence_s <= _MAX_CONVERGENCE_S:
            raise ConfigError(
                f"migration_convergence_s is {self.migration_convergence_s:g}; it must be from 0 to "
                f"{_MAX_CONVERGENCE_S}."
            )
        try:
            _ = self.log
        except LogSettingsError as error:
            raise ConfigError(str(error)) from error
        for name in ("bird_socket", "bird_config", "bird_secrets"):
            if not SAFE_PATH.fullmatch(path := getattr(self, name)):
                raise ConfigError(f"{name} is {path!r}; it must be a plain absolute path.")

    def _check_failsafe(self) -> None:
        for name in ("failsafe_inbound", "failsafe_outbound"):
            for entry in getattr(self, name):
                try:
                    parse_failsafe(entry)
                except FailsafeError as error:
                    raise ConfigError(f"{name}: {error}") from error
