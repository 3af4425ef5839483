"""What the dataplane may be told of BIRD."""

from pathlib import Path

import pytest

from hopwall_dataplane.settings import DataplaneSettings
from hopwall_runtime.config import ConfigError


@pytest.mark.parametrize("name", ["bird_socket", "bird_config", "bird_secrets"])
@pytest.mark.parametrize("path", ["", "bird.ctl", '/run/a"b', "/run/a b", "/run/a\nb"])
def test_paths_of_bird_are_plain_and_absolute(name: str, path: str) -> None:
    """A path is written in quotes into a question to BIRD, which knows no escapes."""
    with pytest.raises(ConfigError, match=name):
        DataplaneSettings(**{name: path}).check()  # type: ignore[arg-type]


def test_sysctls_are_written_where_there_are_some(tmp_path: Path) -> None:
    """A container that forgot to mount the host's is told so at its start, not at the first workload."""
    (tmp_path / "net").mkdir()
    DataplaneSettings(sysctl_dir=str(tmp_path)).check()
    with pytest.raises(ConfigError, match=r"sysctl_dir is '/none'.*mount"):
        DataplaneSettings(sysctl_dir="/none").check()


def test_bgp_is_off_unless_asked_for() -> None:
    """A host whose BIRD is somebody else's keeps it."""
    settings = DataplaneSettings()
    settings.check()
    assert not settings.bgp


@pytest.mark.parametrize("text", ["10.0.0.300", "fe80::1", "169.254.001.1", "gateway"])
def test_a_gateway_is_an_address(text: str) -> None:
    """What the kernel would refuse at every turn is refused at the start."""
    with pytest.raises(ConfigError, match="link_local_gateway"):
        DataplaneSettings(link_local_gateway=text).check()
    DataplaneSettings(link_local_gateway="").check()
