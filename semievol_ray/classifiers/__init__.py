"""Classifiers over a frozen embedder: fitted in seconds, kept as safetensors and JSON."""

from semievol_ray.classifiers.classifier import HEADS, Classifier

__all__ = ["HEADS", "Classifier"]
