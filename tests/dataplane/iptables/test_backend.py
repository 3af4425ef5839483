from pathlib import Path

import pytest

from hopwall_dataplane.iptables.backend import BackendError, choose, why_no_log
from hopwall_dataplane.iptables.driver import Backend
from hopwall_dataplane.iptables.identity import ANTI_SPOOF
from hopwall_dataplane.iptables.nflog import LogSettings, denial
from hopwall_dataplane.outcome import Family
from tests.support.netns import Netns


@pytest.mark.kernel
@pytest.mark.parametrize(("mode", "kind"), [("auto", "nft"), ("nft", "nft"), ("legacy", "legacy")])
async def test_choice_is_as_asked_and_nft_by_itself(mode: str, kind: str) -> None:
    """nft is preferred; what is asked for is taken. Paths are absolute, both families are tried."""
    with Netns("ipb") as ns:
        backend = await choose(
            mode,  # type: ignore[arg-type]  # one of the three literals above
            command_prefix=("ip", "netns", "exec", ns.name),
        )
    assert backend.kind == kind
    assert set(backend.restore_path) == set(Family)
    for path in (*backend.restore_path.values(), *backend.save_path.values()):
        assert path.startswith("/")
    argv = backend.restore_argv(Family.V6)
    assert argv[0].endswith(f"ip6tables-{kind}-restore")
    assert ("--wait" in argv) == (kind == "legacy")


async def test_missing_tools_are_named_with_what_to_do(tmp_path: Path) -> None:
    """The error names each tool looked for, the folders, and the package that has it."""
    with pytest.raises(BackendError) as caught:
        await choose("auto", folders=str(tmp_path))
    text = str(caught.value)
    assert "iptables-nft-restore" in text
    assert "iptables-legacy-restore" in text
    assert "Debian package iptables" in text


async def test_tool_that_does_not_work_is_passed_over(tmp_path: Path) -> None:
    """Where nft is there but fails, legacy is taken; its trouble is told only if both fail."""
    for kind, status in (("nft", 4), ("legacy", 0)):
        for part in ("restore", "save"):
            path = tmp_path / f"iptables-{kind}-{part}"
            path.write_text(f"#!/bin/sh\necho no such kernel >&2\nexit {status}\n")
            path.chmod(0o755)
    backend = await choose("auto", families=(Family.V4,), folders=str(tmp_path))
    assert backend.kind == "legacy"
    with pytest.raises(BackendError, match="no such kernel"):
        await choose("nft", families=(Family.V4,), folders=str(tmp_path))


async def test_old_legacy_without_wait_is_taken_without_it(tmp_path: Path) -> None:
    """A version that does not know --wait is used as it is."""
    for part in ("restore", "save"):
        path = tmp_path / f"iptables-legacy-{part}"
        path.write_text('#!/bin/sh\ncase "$*" in *wait*) exit 1;; esac\necho usage >&2\n')
        path.chmod(0o755)
    backend = await choose("legacy", families=(Family.V4,), folders=str(tmp_path))
    assert backend.restore_options == ()


@pytest.mark.kernel
@pytest.mark.parametrize("kind", ["nft", "legacy"])
async def test_a_kernel_that_logs_is_found_to_and_nothing_is_left_of_the_trial(kind: str) -> None:
    """Both families are tried; where a log line of ours stands, nothing is written at all."""
    with Netns("ipb") as ns:
        prefix = ("ip", "netns", "exec", ns.name)
        backend = await choose(
            kind,  # type: ignore[arg-type]  # one of the literals above
            command_prefix=prefix,
        )
        assert await why_no_log(backend, tuple(Family), command_prefix=prefix) == ""
        assert "hw-" not in ns.run([f"iptables-{kind}-save"]) + ns.run([f"ip6tables-{kind}-save"])
        log, _ = denial(ANTI_SPOOF, LogSettings(denied=True))
        for tool in ("iptables", "ip6tables"):
            text = f"*raw\n:hw-x - [0:0]\n-A hw-x {log}\nCOMMIT\n"
            ns.run([f"{tool}-{kind}-restore", "--noflush"], text=text)
        broken = Backend(kind, dict.fromkeys(Family, "/nowhere"), backend.save_path)  # type: ignore[arg-type]
        assert await why_no_log(broken, tuple(Family), command_prefix=prefix) == ""


async def test_a_kernel_that_cannot_log_is_told_with_the_tools_words(tmp_path: Path) -> None:
    """Only a line with NFLOG fails: rules then stand without log lines, instead of not at all."""
    for part in ("restore", "save"):
        path = tmp_path / f"iptables-nft-{part}"
        path.write_text(
            '#!/bin/sh\ncase "$(cat)" in *NFLOG*) echo "line 3: RULE_APPEND failed" >&2; exit 4;; esac\n'
        )
        path.chmod(0o755)
    backend = await choose("nft", families=(Family.V4,), folders=str(tmp_path))
    assert "RULE_APPEND failed" in await why_no_log(backend, (Family.V4,))
