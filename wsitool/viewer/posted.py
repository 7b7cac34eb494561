"""What a page sends to be kept: a JSON object, and nothing else that another page could send."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

__all__ = ["Posted", "taking"]

Posted = dict[str, Any]


def taking(endpoint: Callable[..., Any], *, largest: int) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint of the object that was posted, of at most `largest` bytes, and of the address's parts."""

    async def answer(request: Request) -> Response:
        sent = await _body(request, largest)
        return JSONResponse(await run_in_threadpool(endpoint, sent, **request.path_params))

    return answer


async def _body(request: Request, largest: int) -> Posted:
    # No form, which pages of elsewhere can send without being asked.
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "JSON is expected.")
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > largest:
            raise HTTPException(413, "That is too long to be kept.")
    try:
        sent = json.loads(data)
    except (ValueError, RecursionError):
        sent = None
    if not isinstance(sent, dict):
        raise HTTPException(400, "A JSON object is expected.")
    return sent
