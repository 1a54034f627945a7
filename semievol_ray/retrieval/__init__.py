"""Embedders and the FAISS index."""

from semievol_ray.retrieval.embedders import Embedder, create_embedder
from semievol_ray.retrieval.retriever import Retriever, example_texts

__all__ = ["Embedder", "Retriever", "create_embedder", "example_texts"]
