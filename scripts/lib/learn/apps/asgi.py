"""The application of uvicorn and hypercorn: answers, and notes the id of each request in the file IDS."""
import os

ids = os.open(os.environ["IDS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    while (await receive()).get("more_body"):
        pass
    os.write(ids, dict(scope["headers"]).get(b"x-id", b"-") + b"\n")
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"3")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok\n"})
