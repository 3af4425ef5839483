"""Talk to the REST API: one place that knows its paths, its problems and its streams."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from hopwall_model import staleness
from hopwall_model.resources import ResourceBase
from hopwall_runtime import clock

DEFAULT_SERVER = "http://127.0.0.1:8080"
_PAGE = 500

Json = dict[str, Any]
_LOOPBACK = ("http://127.0.0.1", "http://localhost", "http://[::1]")


class ClientError(RuntimeError):
    """The API could not be asked; the text is one sentence for the operator."""


class Problem(ClientError):
    """The API refused: an RFC 9457 problem."""

    def __init__(self, status: int, body: Json) -> None:
        self.status = status
        self.body = body
        super().__init__(str(body.get("detail") or body.get("title") or f"it answered {status}"))

    @property
    def errors(self) -> list[Json]:
        """The single faults: `pointer` and `reason` each."""
        found = self.body.get("errors") or []
        return [error for error in found if isinstance(error, dict)]


def path_of(kind: type[ResourceBase], *, namespace: str = "", name: str = "") -> str:
    """Return the URL path of a kind's collection or of one resource.

    Shape:  no namespace for a namespaced kind names the collection over all namespaces.
    """
    place = f"/namespaces/{quote(namespace, safe='')}" if kind.NAMESPACED and namespace else ""
    last = f"/{quote(name, safe='')}" if name else ""
    return f"/v1{place}/{kind.PLURAL}{last}"


class Client:
    """One connection to the API; opened by the first request, closed by `close`."""

    def __init__(
        self, server: str = DEFAULT_SERVER, *, token: str = "", ca: str = "", cert: str = ""
    ) -> None:
        """Name the server: http://…, https://… or unix:///path/of/socket.

        `token` goes with every request; `ca` is the file of the authority that signed the server's certificate;
        `cert` is a file with a certificate of the client's own and its key.

        Errors: ClientError when the token would go over a network in clear, or the file cannot be used.
        """
        self.server = server
        if not server.startswith(("http://", "https://", "unix:")):
            raise ClientError(
                f"{server!r} is no server; write http://…, https://… or unix:///path/of/socket."
            )
        if token and server.startswith("http:") and not server.startswith(_LOOPBACK):
            raise ClientError(
                f"The token would be readable on its way to {server}; use https:// (and --ca)."
            )
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._tls = _tls(ca, cert) if ca or cert else None
        self._unix = server.removeprefix("unix://") if server.startswith("unix:") else ""
        self._base = "http://hopwall" if self._unix else server.rstrip("/")
        self._session: aiohttp.ClientSession | None = None
        #: How many seconds old, by the API's word, what it answered may be; 0 if it said nothing of it.
        self.stale_s = 0

    async def close(self) -> None:
        """Close the connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector: aiohttp.BaseConnector | None = None
            if self._unix:
                connector = aiohttp.UnixConnector(self._unix)
            elif self._tls is not None:
                connector = aiohttp.TCPConnector(ssl=self._tls)
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0),
            )
        return self._session

    def _note_age(self, answer: aiohttp.ClientResponse) -> None:
        age_s = staleness.seconds_of(answer.headers.get(staleness.HEADER, ""))
        self.stale_s = max(self.stale_s, age_s)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        timeout_s: float = 60.0,
    ) -> Json:
        """Ask once and return the JSON answer.

        Errors: Problem when the API refuses; ClientError when it is not there or not an API.
        """
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._open().request(
                    method, self._base + path, params=dict(params or {}), json=body
                ) as answer,
            ):
                self._note_age(answer)
                text = await answer.text()
                status = answer.status
        except TimeoutError as error:
            raise ClientError(
                f"The API at {self.server} did not answer within {timeout_s:.0f} s."
            ) from error
        except (aiohttp.ClientError, aiohttp.InvalidURL, OSError, ValueError) as error:
            raise ClientError(f"No API answers at {self.server}: {_why(error)}.") from error
        return _answer(self.server, status, text)

    async def apply(
        self,
        items: Sequence[Json],
        *,
        wait: str = "",
        timeout_s: float = 30.0,
        dry_run: bool = False,
    ) -> Json:
        """Write all items or none, and wait as far as told."""
        params = _write_params(wait=wait, timeout_s=timeout_s, dry_run=dry_run)
        return await self.request(
            "POST",
            "/v1/apply",
            params=params,
            body={"items": list(items)},
            timeout_s=timeout_s + 30.0,
        )

    async def put(
        self, kind: type[ResourceBase], item: Json, *, wait: str = "", timeout_s: float = 30.0
    ) -> Json:
        """Create or replace one resource."""
        metadata = item["metadata"]
        path = path_of(kind, namespace=metadata.get("namespace", ""), name=metadata["name"])
        params = _write_params(wait=wait, timeout_s=timeout_s)
        return await self.request("PUT", path, params=params, body=item, timeout_s=timeout_s + 30.0)

    async def delete(
        self,
        kind: type[ResourceBase],
        *,
        namespace: str,
        name: str,
        wait: str = "",
        timeout_s: float = 30.0,
        dry_run: bool = False,
    ) -> Json:
        """Remove one resource."""
        params = _write_params(wait=wait, timeout_s=timeout_s, dry_run=dry_run)
        path = path_of(kind, namespace=namespace, name=name)
        return await self.request("DELETE", path, params=params, timeout_s=timeout_s + 30.0)

    async def list(
        self, kind: type[ResourceBase], *, namespace: str = "", selector: str = ""
    ) -> Json:
        """Return all resources of a kind, page by page, as one list."""
        params = {"limit": str(_PAGE)}
        if selector:
            params["labelSelector"] = selector
        whole = await self.request("GET", path_of(kind, namespace=namespace), params=params)
        items = list(whole.get("items", []))
        page = whole
        while token := _continue(page):
            page = await self.request(
                "GET", path_of(kind, namespace=namespace), params={**params, "continue": token}
            )
            items += page.get("items", [])
        return {**whole, "items": items}

    async def watch(
        self, kind: type[ResourceBase], *, namespace: str = "", selector: str = ""
    ) -> AsyncIterator[tuple[str, str, Json]]:
        """Yield (event, id, data) as the API sends them.

        Errors: ClientError when the stream breaks.
        """
        params = {"watch": "true"}
        if selector:
            params["labelSelector"] = selector
        try:
            async with self._open().get(
                self._base + path_of(kind, namespace=namespace),
                params=params,
                headers={"Accept": "text/event-stream"},
            ) as answer:
                self._note_age(answer)
                if answer.status >= 400:
                    _answer(self.server, answer.status, await answer.text())
                async for event in _events(answer.content):
                    if event[0] in ("error", "gone"):
                        raise Problem(int(event[2].get("status", 500)), event[2])
                    yield event
        except (aiohttp.ClientError, OSError) as error:
            raise ClientError(f"The watch at {self.server} broke: {_why(error)}.") from error

    async def lines(self, path: str) -> AsyncIterator[bytes]:
        """Yield the lines of a long answer as they come.

        Errors: Problem when the API refuses; ClientError when the answer breaks off.
        """
        rest = b""
        try:
            async with self._open().get(self._base + path) as answer:
                self._note_age(answer)
                if answer.status >= 400:
                    _answer(self.server, answer.status, await answer.text())
                async for chunk in answer.content.iter_any():
                    *whole, rest = (rest + chunk).split(b"\n")
                    for line in whole:
                        yield line
        except (aiohttp.ClientError, OSError) as error:
            raise ClientError(f"The answer of {self.server} broke off: {_why(error)}.") from error
        if rest:
            raise ClientError(f"The answer of {self.server} broke off within a line.")

    async def ready(self, *, timeout_s: float) -> None:
        """Wait until the API says it is ready.

        Errors: ClientError with its last word.
        """
        end = clock.monotonic() + timeout_s
        said = "it did not answer"
        while clock.monotonic() < end:
            try:
                async with self._open().get(self._base + "/readyz") as answer:
                    if answer.status == 200:
                        return
                    said = (await answer.text()).strip()
            except (aiohttp.ClientError, OSError) as error:
                said = _why(error)
            await asyncio.sleep(0.1)
        raise ClientError(f"The API at {self.server} is not ready after {timeout_s:.0f} s: {said}.")


def _tls(ca: str, cert: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as error:
        raise ClientError(f"The authority's certificate {ca} cannot be used: {error}.") from error
    try:
        if cert:
            context.load_cert_chain(cert)
    except (OSError, ssl.SSLError) as error:
        raise ClientError(
            f"The file {cert} is not a certificate with its key that can be used: {error}."
        ) from error
    return context


def read_token(path: str) -> str:
    """Return the token a file holds; "" for no file's name.

    Errors: ClientError.
    """
    if not path:
        return ""
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ClientError(f"The token file {path} cannot be read: {error}.") from error


def _why(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted ({error.certificate_error}); is --ca right"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"{error.os_error.strerror or error.os_error}; is it running, is --server right"
    return str(error) or type(error).__name__


def _write_params(
    *, wait: str = "", timeout_s: float = 30.0, dry_run: bool = False
) -> dict[str, str]:
    params: dict[str, str] = {}
    if wait:
        params |= {"wait": wait, "timeout": f"{timeout_s:g}s"}
    if dry_run:
        params["dryRun"] = "All"
    return params


def _continue(page: Json) -> str:
    metadata = page.get("metadata") or {}
    return str(page.get("continue") or metadata.get("continue") or "")


def _answer(server: str, status: int, text: str) -> Json:
    try:
        body = json.loads(text) if text.strip() else {}
    except json.JSONDecodeError as error:
        raise ClientError(
            f"The API at {server} answered {status} with something that is no JSON."
        ) from error
    if not isinstance(body, dict):
        raise ClientError(
            f"The API at {server} answered {status} with something that is no object."
        )
    if status >= 400:
        raise Problem(status, body)
    return body


async def _events(stream: aiohttp.StreamReader) -> AsyncIterator[tuple[str, str, Json]]:
    """Yield server-sent events. Source: HTML standard, 9.2.6."""
    fields: dict[str, str] = {}
    async for raw in stream:
        line = raw.decode().rstrip("\r\n")
        if line and not line.startswith(":"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            fields[name] = f"{fields[name]}\n{value}" if name in fields else value
        elif not line and fields:
            yield (
                fields.get("event", "message"),
                fields.get("id", ""),
                json.loads(fields.get("data") or "{}"),
            )
            fields = {}
