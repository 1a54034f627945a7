"""Where examples are embedded: a model does it in tasks, and leaves this process as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from semievol_ray.retrieval import Retriever, embedders
from semievol_ray.stages.context import Context
from semievol_ray.stages.embedding import build_retriever, nearest_others
from tests.stages.ingesting import ingested

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def context(tmp_path: Path, tiny_model: Path) -> Context:
    model = {"name": str(tiny_model), "engine": "transformers"}
    values: dict[str, Any] = {"model": model, "retrieval": {"embedder": "model"}}
    rows = [f"l{i},{'red' if i % 2 else 'blue'} number {i},{'ab'[i % 2]}" for i in range(8)]
    labeled = "\n".join(["id,question,answer", *rows]) + "\n"
    return ingested(tmp_path, values, labeled, "id,question\nu,a red boat\n")


def test_the_model_that_embeds_is_not_kept_here(context: Context) -> None:
    embedders._hidden_state_model.cache_clear()
    found = build_retriever(context, context.labeled)
    near = nearest_others(context, context.labeled, 2)
    assert embedders._hidden_state_model.cache_info().currsize == 0
    # What comes back is what would have been made here.
    settings = context.config.retrieval.model_copy(update={"k": 2})
    here = Retriever.build(context.labeled, settings, context.base)
    assert found.ids == here.ids and near == here.nearest(context.labeled)[0]
    assert embedders._hidden_state_model.cache_info().currsize == 1
    embedders._hidden_state_model.cache_clear()
