"""compose.yaml and the images: what a container engine refuses, or does to the host unasked, is not in them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.unit import Unit

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
DOCKERFILE = (ROOT / "services/Dockerfile").read_text()


def mounts(service: str) -> list[tuple[str, str]]:
    """Return what is seen where: source and destination."""
    words = [str(volume).split(":") for volume in SERVICES[service].get("volumes", [])]
    return [(word[0], word[1]) for word in words]


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_is_mounted_where_no_engine_allows_it(service: str) -> None:
    """runc starts no container with a mount inside /proc or /sys."""
    for _, destination in mounts(service):
        assert not re.match(r"/(proc|sys)(/|$)", destination), destination


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_mounted_is_a_folder_or_comes_with_the_checkout(service: str) -> None:
    """Where a source is missing the engine makes a folder: one in the place of a file breaks the host."""
    folders = {"/var/lib/hopwall", "/run/hopwall", "/etc/hopwall/secrets", "/proc/sys/net"}
    for source, _ in mounts(service):
        ours = source.startswith("./") and (ROOT / source).is_file()
        named = source in COMPOSE["volumes"] or source.startswith("/etc/hopwall/pki/")
        assert ours or named or source in folders, source


@pytest.mark.parametrize("service", SERVICES)
def test_containers_have_the_units_capabilities_and_no_more(service: str) -> None:
    """Nothing but what the unit of the same name has; nothing is written but what is mounted."""
    container = SERVICES[service]
    unit = Unit.read(f"hopwall-{service}").words("CapabilityBoundingSet")
    assert container["cap_drop"] == ["ALL"]
    assert {f"CAP_{name}" for name in container.get("cap_add", [])} == set(unit)
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["read_only"] is True
    assert container["ulimits"] == {"core": 0}
    assert "privileged" not in container


@pytest.mark.parametrize("service", [name for name in SERVICES if name != "nats"])
def test_each_image_is_a_target_of_the_dockerfile(service: str) -> None:
    """Its target, and the list of what is pinned for it, are there."""
    build = SERVICES[service]["build"]
    assert build["dockerfile"] == "services/Dockerfile"
    assert re.search(rf"^FROM \S+ AS {build['target']}$", DOCKERFILE, re.M)
    assert (ROOT / "locks" / f"{build['args']['SERVICE']}.lock").is_file()
    assert SERVICES[service]["image"] == f"hopwall-{build['target']}"
