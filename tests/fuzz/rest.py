"""Calls made from the API's own OpenAPI document, against a real api on a real nats-server.

No call may end in a 5xx, in a body that is not what the document says, or in an api that no longer answers.
Source: schemathesis (fuzzing and stateful phases, JSON report).
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from hopwall_cli.nats_server import NatsServer
from tests.support.ports import free_port

_CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
_PATIENCE_S = 1800


def called(examples: int, seed: int) -> tuple[int, list[str]]:
    """Make so many calls an operation; return how many that were in all, and what is wrong.

    Errors: RuntimeError when the api does not start, or schemathesis cannot work.
    """
    with tempfile.TemporaryDirectory(prefix="hwt-fuzz-") as folder:
        return asyncio.run(_called(Path(folder), examples, seed))


async def _called(folder: Path, examples: int, seed: int) -> tuple[int, list[str]]:
    server = NatsServer(listen=f"127.0.0.1:{free_port()}", folder=folder / "nats")
    await server.start()
    url = f"http://127.0.0.1:{free_port()}"
    with (folder / "api.log").open("wb") as log:
        argv = [sys.executable, "-m", "hopwall_api", "--nats-url", server.url]
        api = subprocess.Popen(
            [*argv, "--listen", url.removeprefix("http://")], stdout=log, stderr=log
        )
    try:
        await asyncio.to_thread(_until_ready, url, api)
        found = await asyncio.to_thread(_schemathesis, url, folder, examples, seed)
        await asyncio.to_thread(_until_ready, url, api)
        return found
    finally:
        api.terminate()
        api.wait(10)
        await server.stop()


def _until_ready(url: str, api: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        if api.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"the api at {url} is not ready")


def _schemathesis(url: str, folder: Path, examples: int, seed: int) -> tuple[int, list[str]]:
    report = folder / "report.json"
    argv = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
        *("--phases", "coverage,fuzzing", "--max-examples", str(examples), "--seed", str(seed)),
        *("--checks", _CHECKS, "--request-timeout", "5", "--continue-on-failure"),
        *("--report-json-path", str(report), "--no-color"),
    ]
    done = subprocess.run(
        argv, capture_output=True, text=True, cwd=folder, timeout=_PATIENCE_S, check=False
    )
    if not report.exists():
        raise RuntimeError(f"schemathesis ended with {done.returncode}: {done.stdout[-500:]}")
    said = json.loads(report.read_text())
    wrong = [
        f"{', '.join(one['operations'][:3])}: {one['title']} ({one['count']} times)"
        for one in (*said["failures"], *said["errors"])
    ]
    if wrong:
        (Path.cwd() / "fuzz-rest.txt").write_text(done.stdout)
    return int(said["test_cases"]["generated"]), wrong
