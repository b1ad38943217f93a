"""A server that speaks OpenAI's API over real HTTP, and says what it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]


def said(text: str, finish_reason: str = "stop") -> tuple[int, Body]:
    """An answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 1, "completion_tokens": len(text), "total_tokens": 1 + len(text)}
    return 200, {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }


def refused(status: int, message: str) -> tuple[int, Body]:
    """An error in OpenAI's form."""
    return status, {"error": {"message": message, "type": "error", "code": None, "param": None}}


class Answering:
    """On a port of its own, in threads. `with Answering(answer) as server`: ``answer`` gets the body of a question, and gives status and body."""

    def __init__(self, answer: Callable[[Body], tuple[int, Body | str]], models: tuple[str, ...] = ("poet",)) -> None:
        self.asked: list[Body] = []
        self.keys: set[str | None] = set()
        """What requests had for authorization."""
        self.at_once = self.most_at_once = 0
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.keys.add(self.headers.get("authorization"))
                listed = [{"id": name, "object": "model", "created": 1, "owned_by": "tests"} for name in models]
                self._send(200, {"object": "list", "data": listed})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    server.keys.add(self.headers.get("authorization"))
                    server.asked.append(body)
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                status, found = answer(body)
                with lock:
                    server.at_once -= 1
                self._send(status, found)

            def _send(self, status: int, body: Body | str) -> None:
                content = (body if isinstance(body, str) else json.dumps(body)).encode()
                self.send_response(status)
                self.send_header("content-type", "text/html" if isinstance(body, str) else "application/json")
                self.send_header("content-length", str(len(content)))
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Answering:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()
