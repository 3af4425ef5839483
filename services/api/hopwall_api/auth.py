"""Who is calling. The one seam for tokens and certificates; until they come everybody is anonymous."""

from aiohttp import web


def actor_of(request: web.Request) -> str:
    """Return the name under which the caller's writes are recorded."""
    return f"anonymous@{request.remote or 'local'}"
