"""The nearest labelled examples, by inner product in a FAISS index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from semievol_ray.config import ModelConfig, RetrievalConfig
from semievol_ray.retrieval.embedders import Embedder, Vectors, create_embedder

# In the fingerprint of runs with contexts: whoever changes `example_texts` for these raises it.
TEXTS_VERSION = 2

# Question, context and options.
Asked = tuple[str, str | None, tuple[str, ...] | None]

# An index that looks for more takes long, and one on a GPU takes 2,048 at most.
_MOST_TWINS = 1000


class Retriever:
    """An embedder and an index over the labelled set. Picklable: the index travels as bytes."""

    def __init__(
        self,
        embedder: Embedder,
        index: Any,
        ids: Sequence[str],
        asked: Sequence[Asked],
        k: int,
        batch_rows: int,
    ) -> None:
        self.embedder = embedder
        self.index = index
        self.ids = list(ids)
        self.asked = list(asked)
        # How many labels ask one question at most: so many may be passed over.
        self.twins = min(_MOST_TWINS, max(Counter(self.asked).values()))
        self.k = k
        self.batch_rows = batch_rows

    @classmethod
    def build(cls, labeled: pa.Table, config: RetrievalConfig, base: ModelConfig) -> Retriever:
        """Embed and index a labelled set in the EXAMPLE schema."""
        texts = example_texts(labeled)
        embedder = create_embedder(config, texts, base)
        vectors = np.concatenate(
            [
                embedder.embed(texts[start : start + config.batch_rows])
                for start in range(0, len(texts), config.batch_rows)
            ]
        )
        index = _build_index(vectors, config.exact_below_rows)
        ids = labeled["example_id"].to_pylist()
        return cls(embedder, index, ids, asked(labeled), config.k, config.batch_rows)

    def __getstate__(self) -> dict[str, Any]:
        import faiss

        return self.__dict__ | {"index": faiss.serialize_index(self.index)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        import faiss

        self.__dict__.update(state, index=_on_gpu(faiss.deserialize_index(state["index"])))

    def nearest(self, examples: pa.Table) -> tuple[list[list[str]], list[list[float]]]:
        """Ids and cosine similarities of each example's k nearest labels, nearest first.

        A label that asks the same is none, be it the example itself or one with another id: shown
        to it, it would give the answer away. One of another file may have a label's id, where each
        counts its own rows. There may be fewer than k where labels are few.
        """
        texts, questions = example_texts(examples), asked(examples)
        wanted = min(self.k + self.twins, len(self.ids))
        ids: list[list[str]] = []
        similarities: list[list[float]] = []
        for start in range(0, len(texts), self.batch_rows):
            batch = self.embedder.embed(texts[start : start + self.batch_rows])
            found, rows = self.index.search(batch, wanted)
            for own, near, scores in zip(questions[start:], rows, found, strict=False):
                kept = [
                    (self.ids[row], float(score))
                    for row, score in zip(near, scores, strict=True)
                    if row >= 0 and self.asked[row] != own
                ][: self.k]
                ids.append([i for i, _ in kept])
                similarities.append([s for _, s in kept])
        return ids, similarities


def example_texts(examples: pa.Table) -> list[str]:
    """What of an example is embedded: its question and, on the lines after it, its context.

    Embedders cut a long text's end: behind its context a question would not be read at all.
    """
    contexts, questions = examples["context"].to_pylist(), examples["question"].to_pylist()
    return [q if c is None else f"{q}\n{c}" for c, q in zip(contexts, questions, strict=True)]


def asked(examples: pa.Table) -> list[Asked]:
    """What each example asks: those that ask the same differ in ids and answers at most."""
    columns = (examples[name].to_pylist() for name in ("question", "context", "options"))
    return [(q, c, None if o is None else tuple(o)) for q, c, o in zip(*columns, strict=True)]


def _build_index(vectors: Vectors, exact_below_rows: int) -> Any:
    """An exact index; past `exact_below_rows` an inverted file of about 4 sqrt(n) lists."""
    import faiss

    rows, dimensions = vectors.shape
    index: Any
    if rows < exact_below_rows:
        index = faiss.IndexFlatIP(dimensions)
    else:
        lists = int(4 * np.sqrt(rows))
        index = faiss.index_factory(dimensions, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.nprobe = max(8, lists // 64)
    index.add(vectors)
    return index


def _on_gpu(index: Any) -> Any:
    """The index on this process's GPU, where the GPU build of FAISS sees one."""
    import faiss

    if getattr(faiss, "get_num_gpus", int)() < 1:
        return index
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
