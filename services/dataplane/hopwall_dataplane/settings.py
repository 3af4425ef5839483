"""What the dataplane service can be told."""

import socket
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta

from hopwall_dataplane.bgp.driver import SAFE_PATH
from hopwall_dataplane.failsafe import (
    DEFAULT_INBOUND,
    DEFAULT_OUTBOUND,
    FailsafeError,
    parse_failsafe,
)
from hopwall_dataplane.iptables.nflog import LogSettings, LogSettingsError
from hopwall_model import cidr
from hopwall_model.names import valid_ifname
from hopwall_runtime.config import CommonSettings, ConfigError, Heartbeat

#: What connlimit can count.
_MOST_FLOWS = 0xFFFFFFFF
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
    #: Whether connection tracking is set to take UDPLite (nf_conntrack_checksum is then 0).
    udplite: bool = False
    #: What becomes of a workload's traffic to its own host after its egress policy: drop, accept, or
    #: return, which leaves it to what others have in the filter table.
    workload_to_host: Literal["drop", "accept", "return"] = "drop"
    #: What no host endpoint closes, as protocol:port or protocol:port:net.
    failsafe_inbound: tuple[str, ...] = DEFAULT_INBOUND
    failsafe_outbound: tuple[str, ...] = DEFAULT_OUTBOUND
    #: Whether flows that are established end when policy comes to deny them.
    revoke_flows: bool = True
    #: How many tracked flows each address of a workload may have begun at a time; 0 for any number. The
    #: kernel's table of flows is one for all, and who fills it shuts everybody else out; but a new flow costs
    #: a look at each that its address has, so it is for who says it (docs/guides/configuration.md).
    max_flows: int = 0
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
    #: Whether workloads' interfaces are closed as soon as the agent runs, before it knows anything.
    wall: bool = True
    #: Where the kernel's settings are read and written. In a container /proc/sys is read-only, and nothing may be
    #: mounted into /proc: there it is another folder, with the host's /proc/sys/net mounted as its `net`.
    sysctl_dir: str = "/proc/sys"
    #: Where the last complete state is kept; "" keeps none, and a boot without NATS is one without rules.
    state_dir: str = "/var/lib/hopwall"
    #: A first snapshot of another calc that lacks, unexplained, more than this share of the objects of a
    #: kind, and more than this many, is not obeyed; nor is one that lacks all of them.
    guard_share: float = 0.5
    guard_count: Annotated[int, Meta(ge=0)] = 10
    #: Seconds after the end of a live migration for which the route of who arrived is preferred to others.
    migration_convergence_s: float = 30.0
    #: Seconds between complete re-readings of the kernel.
    refresh_s: Annotated[float, Meta(ge=0.1, le=86_400)] = 90.0
    heartbeat_s: Heartbeat = 5.0

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
        if not 0 <= self.max_flows <= _MOST_FLOWS:
            text = f"max_flows is {self.max_flows}; it must be 0 (no limit) to {_MOST_FLOWS}."
            raise ConfigError(text)
        self._check_bus()
        self._check_failsafe()
        self._check_gateway()
        self._check_state()
        try:
            _ = self.log
        except LogSettingsError as error:
            raise ConfigError(str(error)) from error
        for name in ("bird_socket", "bird_config", "bird_secrets"):
            if not SAFE_PATH.fullmatch(path := getattr(self, name)):
                raise ConfigError(f"{name} is {path!r}; it must be a plain absolute path.")

    def _check_bus(self) -> None:
        for url in self.nats_url:
            try:
                _ = urlsplit(url if "//" in url else f"nats://{url}").port
            except ValueError as error:
                raise ConfigError(f"nats_url has {url!r}, which is no address: {error}.") from error

    def _check_state(self) -> None:
        if not 0 <= self.migration_convergence_s <= _MAX_CONVERGENCE_S:
            raise ConfigError(
                f"migration_convergence_s is {self.migration_convergence_s:g}; it must be from 0 to "
                f"{_MAX_CONVERGENCE_S}."
            )
        if not 0 <= self.guard_share <= 1:
            raise ConfigError(f"guard_share is {self.guard_share}; it must be from 0 to 1.")
        if self.state_dir and not self.state_dir.startswith("/"):
            raise ConfigError(
                f"state_dir is {self.state_dir!r}; it must be an absolute path, or empty."
            )
        if not Path(self.sysctl_dir, "net").is_dir():
            raise ConfigError(
                f"sysctl_dir is {self.sysctl_dir!r}; there is no folder {self.sysctl_dir}/net: mount the host's"
                " /proc/sys/net there."
            )

    def _check_gateway(self) -> None:
        """Refuse a gateway that would make every turn of the agent fail."""
        text = self.link_local_gateway
        try:
            good = not text or (cidr.parse_ip(text) == text and cidr.family_of(cidr.Ip(text)) == 4)
        except ValueError:
            good = False
        if not good:
            raise ConfigError(
                f"link_local_gateway is {text!r}; it must be an IPv4 address, or empty for none."
            )

    def _check_failsafe(self) -> None:
        for name in ("failsafe_inbound", "failsafe_outbound"):
            for entry in getattr(self, name):
                try:
                    parse_failsafe(entry)
                except FailsafeError as error:
                    raise ConfigError(f"{name}: {error}") from error
