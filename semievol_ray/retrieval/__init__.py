"""Embedders and the FAISS index."""

from semievol_ray.retrieval.embedders import Embedder, TfidfEmbedder, Vectors, create_embedder
from semievol_ray.retrieval.retriever import TEXTS_VERSION, Asked, Retriever, asked, example_texts

__all__ = [
    "TEXTS_VERSION",
    "Asked",
    "Embedder",
    "Retriever",
    "TfidfEmbedder",
    "Vectors",
    "asked",
    "create_embedder",
    "example_texts",
]
