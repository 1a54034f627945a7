"""A small real HTTP server that answers as an OpenAI-compatible endpoint does."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

# How servers give a thought: the tokens that have logprobs, and the message.
_TOKENS = ["<think>", "\n", "A", " 14", "</think>", "\n\n", "B", " is"]
THOUGHTS = {
    "one text": (_TOKENS, {"content": "<think>\nA 14</think>\n\nB is"}),
    "a field": (_TOKENS, {"content": "\n\nB is", "reasoning_content": "\nA 14"}),
    "vLLM's field": (_TOKENS, {"content": "B is", "reasoning": "A 14"}),
    "answer alone": (["B", " is"], {"content": "B is", "reasoning": "A 14"}),
    "unclosed": (_TOKENS[:4], {"content": None, "reasoning": "\nA 14"}),
    "unclosed text": (_TOKENS[:4], {"content": "<think>\nA 14"}),
    "other tokens": (["?", "?"], {"content": "B is", "reasoning": "A 14"}),
}


class Handler(BaseHTTPRequestHandler):
    behaviour = "fine"
    seen: list[dict] = []
    refused_once: set[str] = set()
    dies_after: int | None = None
    # What is answered to a body in place of all the rest: status, JSON, headers.
    script: Callable[[dict], tuple[int, object, dict] | None] | None = None
    lock = threading.Lock()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][-1]["content"]
        with Handler.lock:
            Handler.seen.append(body | {"key": self.headers["Authorization"]})
            is_down = Handler.dies_after is not None and len(Handler.seen) > Handler.dies_after
        scripted = Handler.script and Handler.script(body)
        if scripted:
            self.reply(*scripted)
        elif is_down:
            self.reply(503, {"error": {"message": "down"}}, {"x-should-retry": "false"})
        elif Handler.behaviour == "busy" and question not in Handler.refused_once:
            Handler.refused_once.add(question)
            self.reply(429, {"error": {"message": "slow down"}}, {"Retry-After": "0"})
        elif Handler.behaviour == "down" or "fails" in question:
            self.reply(500, {"error": {"message": "down"}}, {"x-should-retry": "false"})
        elif "empty" in question:
            self.reply(200, {"id": "x", "object": "chat.completion", "model": "m"})
        elif Handler.behaviour == "locked":
            self.reply(401, {"error": {"message": "no"}})
        elif "too long" in question:
            self.reply(400, {"error": {"message": "context length"}})
        else:
            self.reply(200, self.completion(body, question))

    @staticmethod
    def completion(body: dict, question: str) -> dict:
        top = [{"token": t, "logprob": p, "bytes": None} for t, p in (("B", -0.1), ("A", -2.5))]
        content = [
            {"token": "B", "logprob": -0.1, "bytes": None, "top_logprobs": top},
            {"token": f" {question}", "logprob": -0.2, "bytes": None, "top_logprobs": []},
        ]
        message = {"role": "assistant", "content": f"B {question}"}
        if Handler.behaviour in THOUGHTS:
            tokens, said = THOUGHTS[Handler.behaviour]
            content = [{"token": t, "logprob": -float(i), "bytes": None, "top_logprobs": []}
                       for i, t in enumerate(tokens)]  # fmt: skip
            message |= said
        logprobs = None if Handler.behaviour == "mute" else {"content": content}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": logprobs}
        usage = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
        return {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"],
                "choices": [choice], "usage": usage}  # fmt: skip

    def reply(self, status: int, body: object, headers: dict | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not (headers or {}).get("X-Trickle"):
            self.wfile.write(content)
            return
        with contextlib.suppress(OSError):
            for at in range(len(content)):
                self.wfile.write(content[at : at + 1])
                self.wfile.flush()
                time.sleep(0.1)

    def log_message(self, *_) -> None:
        pass
