"""A server on this machine that answers as ComfyUI 0.3.64 was recorded to: prompts, progress, pictures, its log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any, Literal

from aiohttp import web

PICTURE = b"the bytes of a picture"
Ending = Literal["success", "cached", "error", "interrupted", "gone"]
NUMBER = "9fd14326-b8d8-4f34-a7f3-4c67157f4f53"
_FILE = {"filename": "finetuned_00001_.png", "subfolder": "fluxbooth", "type": "output"}


@dataclass
class LocalComfyUI:
    """What ComfyUI is to do, and what was asked of it."""

    url: str = ""
    ending: Ending = "success"
    refusal: dict[str, Any] | None = None
    """The body of a 400 to POST /prompt."""
    log: list[str] = field(default_factory=lambda: ["lora key not loaded: of.an.earlier.prompt\n"])
    logs_while_drawing: list[str] = field(default_factory=list)
    queue: list[int] = field(default_factory=list)
    """What is left in the queue at each look; 0 when the list is used up."""
    prompts: list[dict[str, Any]] = field(default_factory=list)
    freed: list[dict[str, Any]] = field(default_factory=list)
    looks: int = 0


@contextmanager
def local_comfyui() -> Iterator[LocalComfyUI]:
    """Serve on a free port of the loopback for as long as the block runs."""
    comfyui = LocalComfyUI()
    ready, loop = Event(), asyncio.new_event_loop()

    async def serve() -> None:
        runner = web.AppRunner(_application(comfyui))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        comfyui.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(serve())
        loop.run_forever()

    thread = Thread(target=run, daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield comfyui
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def _application(comfyui: LocalComfyUI) -> web.Application:
    sockets: dict[str, web.WebSocketResponse] = {}

    async def socket(request: web.Request) -> web.WebSocketResponse:
        opened = web.WebSocketResponse()
        await opened.prepare(request)
        sockets[request.query["clientId"]] = opened
        await opened.send_json({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}}})
        async for _ in opened:
            pass
        return opened

    async def prompt(request: web.Request) -> web.Response:
        body = await request.json()
        comfyui.prompts.append(body["prompt"])
        if comfyui.refusal is not None:
            return web.json_response(comfyui.refusal, status=400)
        asyncio.get_running_loop().create_task(draw(sockets[body["client_id"]]))
        return web.json_response({"prompt_id": NUMBER, "number": 5, "node_errors": {}})

    async def draw(to: web.WebSocketResponse) -> None:
        async def tell(kind: str, **data: Any) -> None:
            await to.send_json({"type": kind, "data": {"prompt_id": NUMBER, **data}})

        await tell("execution_start")
        await to.send_json({"type": "progress", "data": {"prompt_id": "somebody else's", "value": 1, "max": 9}})
        if comfyui.ending != "cached":
            await tell("executing", node="13")
            for step in (1, 2, 3):
                await tell("progress", value=step, max=3, node="13")
                await to.send_bytes(b"\x00\x00\x00\x01\x00\x00\x00\x01 a preview")
        comfyui.log += comfyui.logs_while_drawing
        if comfyui.ending == "error":
            failed = {"node_id": "4", "node_type": "LoraLoader", "exception_type": "SafetensorError"}
            await tell("execution_error", exception_message="Error while deserializing header\n", **failed)
        elif comfyui.ending == "interrupted":
            await tell("execution_interrupted", node_id="13", node_type="SamplerCustomAdvanced", executed=["9"])
        elif comfyui.ending == "gone":
            await to.close()
        else:
            await tell("execution_success")

    async def queue(_: web.Request) -> web.Response:
        comfyui.looks += 1
        left = comfyui.queue.pop(0) if comfyui.queue else 0
        return web.json_response({"exec_info": {"queue_remaining": left}})

    async def history(_: web.Request) -> web.Response:
        outputs = {"15": {"images": [_FILE, {**_FILE, "filename": "preview.png", "type": "temp"}]}}
        return web.json_response({NUMBER: {"outputs": outputs, "status": {"status_str": "success"}}})

    async def view(request: web.Request) -> web.Response:
        return web.Response(body=PICTURE) if dict(request.query) == _FILE else web.Response(status=404)

    async def logs(_: web.Request) -> web.Response:
        entries = [{"t": f"2026-11-21T11:20:{place:02d}", "m": line} for place, line in enumerate(comfyui.log)]
        return web.json_response({"entries": entries, "size": {"cols": 80, "rows": 24}})

    async def free(request: web.Request) -> web.Response:
        comfyui.freed.append(json.loads(await request.text()))
        return web.Response()

    application = web.Application()
    application.add_routes(
        [
            web.get("/ws", socket),
            web.post("/prompt", prompt),
            web.get("/prompt", queue),
            web.get(f"/history/{NUMBER}", history),
            web.get("/view", view),
            web.get("/internal/logs/raw", logs),
            web.post("/free", free),
        ]
    )
    return application
