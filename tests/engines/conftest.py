"""An endpoint on loopback, and a model whose turns end early."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from semievol_ray.config import ModelConfig
from tests.engines.server import Handler

ENDED = "hello. the kettle does not switch on\nTeam:"


@pytest.fixture
def model(monkeypatch) -> Iterator[ModelConfig]:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    Handler.behaviour, Handler.seen, Handler.refused_once = "fine", [], set()
    Handler.script = None
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    yield ModelConfig(name="m", engine="openai", base_url=url)
    server.shutdown()


@pytest.fixture
def ending_model(tiny_model, tmp_path) -> Path:
    """The tiny model; the token that it writes first after a certain prompt ends a turn."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "ending"
    shutil.copytree(tiny_model, folder)
    ids = AutoTokenizer.from_pretrained(folder)(ENDED, return_tensors="pt")["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    end = int(model(ids).logits[0, -1].argmax())
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, end]}))
    return folder
