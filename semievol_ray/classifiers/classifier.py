"""Questions to probabilities of classes: an embedder, a head, and the two files they are kept in.

classifier = Classifier.load("run/round-1/classifiers/attempt-1/probe-0shot")
classifier.classify(["where is my parcel?"])
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from threadpoolctl import threadpool_limits

from semievol_ray.classifiers.heads import Head, Neighbours, Probabilities, Probe
from semievol_ray.classifiers.propagation import Propagation
from semievol_ray.config import ModelConfig, RetrievalConfig
from semievol_ray.errors import UserError
from semievol_ray.retrieval import Embedder, TfidfEmbedder, Vectors, create_embedder

_SETTINGS, _ARRAYS = "classifier.json", "classifier.safetensors"
_FORMAT = 1

# By the engine that each is in a config.
HEADS: dict[str, type[Head]] = {head.kind: head for head in (Probe, Neighbours, Propagation)}


@dataclass(frozen=True)
class Classifier:
    """A head over an embedder, with the names of its classes in the order of the head."""

    embedder: Embedder
    head: Head
    classes: tuple[str, ...]
    # Of the embedder: what it was made of, and its model's revision on a hub.
    retrieval: RetrievalConfig
    revision: str | None = None

    @classmethod
    def fit(
        cls,
        kind: str,
        known: Sequence[tuple[str, str]],
        retrieval: RetrievalConfig,
        model: ModelConfig,
        corpus: Sequence[str] = (),
    ) -> Self:
        """A `kind` of HEADS on questions with the names of their classes, two of these or more.

        `corpus` are questions without a label, for a kind that learns from these too.
        """
        texts, names = [text for text, _ in known], [name for _, name in known]
        classes = tuple(sorted(set(names)))
        index = {name: i for i, name in enumerate(classes)}
        embedder = create_embedder(retrieval, texts, model)
        gold = np.array([index[name] for name in names])
        vectors = _embed(embedder, texts, retrieval.batch_rows)
        others = None
        if corpus and HEADS[kind].sees_corpus:
            others = _embed(embedder, corpus, retrieval.batch_rows)
        # The threads of so small matrices wait for one another longer than they work: where
        # somebody else has a core, a fit takes six times as long with two as with one.
        with threadpool_limits(1):
            head = HEADS[kind].fit(vectors, gold, len(classes), others)
        return cls(embedder, head, classes, retrieval, model.revision)

    def probabilities(self, questions: Sequence[str]) -> Probabilities:
        """[questions, classes], float64; a question's context, if any, is on the lines after it.

        Of one that a version before 0.18 kept it is on those before it: so it was fitted.
        """
        if not questions:
            return np.zeros((0, len(self.classes)))
        return self.head.probabilities(_embed(self.embedder, questions, self.retrieval.batch_rows))

    def classify(self, questions: Sequence[str]) -> list[str]:
        """The most probable class of each question."""
        return [self.classes[i] for i in self.probabilities(questions).argmax(axis=1)]

    def files(self) -> dict[str, bytes]:
        """What it is kept as, by name: JSON, and arrays as safetensors."""
        from safetensors.numpy import save

        settings = {
            "format": _FORMAT,
            "kind": self.head.kind,
            "classes": self.classes,
            "head": self.head.settings,
            "embedder": self.retrieval.model_dump(mode="json", exclude_defaults=True),
            "revision": self.revision,
        }
        arrays = dict(self.head.arrays)
        if isinstance(self.embedder, TfidfEmbedder):
            settings["terms"] = self.embedder.terms
            arrays["inverse_frequencies"] = self.embedder.inverse_frequencies
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        text = json.dumps(settings, indent=1, ensure_ascii=False)
        return {_SETTINGS: text.encode(), _ARRAYS: save(arrays)}

    @classmethod
    def load(cls, folder: str | Path, *, trust_remote_code: bool = False) -> Self:
        """The one whose files a folder holds.

        Raises UserError where it holds none, a damaged one, or one of a later version.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            settings = json.loads((Path(folder) / _SETTINGS).read_text("utf-8"))
            arrays = load((Path(folder) / _ARRAYS).read_bytes())
            if (found := settings["format"]) != _FORMAT:
                raise UserError(f"{folder}: a classifier of format {found}, not {_FORMAT}")
            retrieval = RetrievalConfig(**settings["embedder"])
            head = HEADS[settings["kind"]].of(arrays, settings["head"])
            classes, revision = tuple(settings["classes"]), settings["revision"]
            embedder: Embedder
            if retrieval.embedder == "tfidf":
                embedder = TfidfEmbedder.of(settings["terms"], arrays["inverse_frequencies"])
            else:
                base = ModelConfig(
                    name=retrieval.model or "none",
                    revision=revision,
                    trust_remote_code=trust_remote_code,
                )
                embedder = create_embedder(retrieval, (), base)
        except OSError:
            raise UserError(f"{folder}: no classifier here") from None
        except (ValueError, KeyError, TypeError, SafetensorError):
            raise UserError(f"{folder}: the classifier is damaged") from None
        return cls(embedder, head, classes, retrieval, revision)


def _embed(embedder: Embedder, texts: Sequence[str], batch_rows: int) -> Vectors:
    starts = range(0, len(texts), batch_rows)
    return np.concatenate([embedder.embed(texts[s : s + batch_rows]) for s in starts])
