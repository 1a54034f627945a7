"""Embedders and the FAISS index."""

from semievol_ray.retrieval.embedders import Embedder, TfidfEmbedder, Vectors, create_embedder
from semievol_ray.retrieval.retriever import Retriever, example_texts

__all__ = [
    "Embedder",
    "Retriever",
    "TfidfEmbedder",
    "Vectors",
    "create_embedder",
    "example_texts",
]
