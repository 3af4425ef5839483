"""Settings of a process: what is taken, and what is refused before anything is done."""

import pytest

from hopwall_api.settings import ApiSettings
from hopwall_calc.settings import CalcSettings
from hopwall_dataplane.settings import DataplaneSettings
from hopwall_runtime.config import CommonSettings, ConfigError, load, load_sound


def loaded(type_: type[CommonSettings], *argv: str, **environ: str) -> CommonSettings:
    """Return the settings of a process that is started so."""
    return load(type_, argv=argv, environ=environ, program="p")


def test_a_flag_comes_before_the_environment_and_that_before_the_default() -> None:
    """The order of the guide."""
    assert loaded(CalcSettings) == CalcSettings()
    said = {"HOPWALL_HEARTBEAT_S": "2", "HOPWALL_LOG_LEVEL": "debug"}
    assert loaded(CalcSettings, "--heartbeat-s", "1", **said) == CalcSettings(
        heartbeat_s=1.0, log_level="debug"
    )


@pytest.mark.parametrize(
    ("type_", "flag", "text"),
    [
        (CalcSettings, "heartbeat_s", "0"),
        (CalcSettings, "heartbeat_s", "x"),
        (CalcSettings, "log_level", "loud"),
        (CalcSettings, "log_format", "xml"),
        (CalcSettings, "routing", "rip"),
        (ApiSettings, "tombstone_hours", "24"),
        (ApiSettings, "max_connections", "0"),
        (ApiSettings, "idle_timeout_s", "0"),
        (ApiSettings, "nats_max_bytes", "5"),
        (ApiSettings, "nats_replicas", "6"),
        (DataplaneSettings, "refresh_s", "0"),
        (DataplaneSettings, "heartbeat_s", "-1"),
        (DataplaneSettings, "guard_count", "-1"),
        (DataplaneSettings, "ipv6", "maybe"),
    ],
)
def test_a_value_that_cannot_be_meant_ends_the_process(
    type_: type[CommonSettings], flag: str, text: str
) -> None:
    """Nobody spins, forgets too soon or lets nobody in because of a wrong number; the sentence names the setting."""
    with pytest.raises(ConfigError, match=f"^p: {flag}: "):
        loaded(type_, f"--{flag.replace('_', '-')}={text}")


def test_what_is_wrong_in_the_environment_is_left_out() -> None:
    """By itself, whatever else there is; with what is wrong of each, also what only the check finds."""
    said = {
        "HOPWALL_INTERFACE_PREFIXES": "vnet",
        "HOPWALL_LOG_LEVEL": "loud",
        "HOPWALL_LOG_RATE": "junk",
        "HOPWALL_BACKEND": "legacy",
        "HOPWALL_TYPO": "1",
    }
    found, faults = load_sound(
        DataplaneSettings, DataplaneSettings.check, argv=(), environ=said, program="p"
    )
    assert found == DataplaneSettings(interface_prefixes=("vnet",), backend="legacy")
    assert faults.keys() == {"HOPWALL_LOG_LEVEL", "HOPWALL_LOG_RATE"}
    assert "log_rate is 'junk'" in str(faults["HOPWALL_LOG_RATE"])
