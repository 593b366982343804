"""A WebSocket server of which each connection is a stream of one pool: ``python server.py model.keras``.

A client sends a timestep as its float32 numbers, the lowest byte first, in a binary message, and gets the model's
output in the same form. GET /status tells how many streams are open.
"""

import argparse
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

import fastrnn

TRY_AGAIN_LATER, UNSUPPORTED_DATA = 1013, 1003
"""WebSocket's codes (RFC 6455) for a full pool and for a message that is no timestep."""

NUMBERS = np.dtype("<f4")


def application(model: fastrnn.Model, capacity: int, max_wait: float) -> Starlette:
    """Return the server's application."""
    pool = model.stream_pool(capacity)

    @contextlib.asynccontextmanager
    async def batching(app: Starlette) -> AsyncIterator[None]:
        async with pool.batching(max_wait=max_wait):
            yield

    async def serve(socket: WebSocket) -> None:
        await socket.accept()
        try:
            stream = pool.open()
        except RuntimeError as full:
            await socket.close(TRY_AGAIN_LATER, str(full))
            return
        try:
            while True:
                message = await socket.receive_bytes()
                y = await pool.submit(stream, np.frombuffer(message, NUMBERS))
                await socket.send_bytes(y.astype(NUMBERS).tobytes())
        except ValueError as error:
            await socket.close(UNSUPPORTED_DATA, str(error)[:100])
        except (WebSocketDisconnect, KeyError):
            pass  # gone, or sent text
        finally:
            pool.close(stream)

    async def status(request: Request) -> JSONResponse:
        return JSONResponse({"open": len(pool), "capacity": pool.capacity})

    routes = [WebSocketRoute("/stream", serve), Route("/status", status)]
    return Starlette(routes=routes, lifespan=batching)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free one")
    parser.add_argument("--capacity", type=int, default=10_000, help="connections at once")
    parser.add_argument(
        "--max-wait", type=float, default=200e-6, help="seconds that a step waits for others"
    )
    options = parser.parse_args()

    app = application(fastrnn.load_model(options.model), options.capacity, options.max_wait)
    listening = socket.create_server((options.host, options.port), backlog=1024)
    print(f"listening on {options.host}:{listening.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


if __name__ == "__main__":
    main()
