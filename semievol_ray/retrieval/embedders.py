"""Texts to unit vectors: float32 [texts, dimensions], so that inner product is cosine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from semievol_ray.config import ModelConfig, RetrievalConfig
from semievol_ray.credentials import api_key, redact
from semievol_ray.errors import SemiEvolError, UserError
from semievol_ray.model_files import check_model_exists, load_tokenizer
from semievol_ray.ray_session import has_gpu

Vectors = NDArray[np.float32]

_DEFAULT_SENTENCE_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_TFIDF_TERMS = 4096
_MODEL_TOKENS = 512
# Of an endpoint that is busy or away: some twenty seconds in all.
_RETRIES = 6
# How endpoints refuse more, or longer texts, than they take.
_TOO_MUCH = (400, 413, 422)
# An endpoint that refuses so short a text refuses it for another reason than its length.
_LEAST_CHARACTERS = 256


class Embedder(Protocol):
    """Anything that embeds. Picklable: Ray tasks get it as it is, and load models late."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit rows; a text with nothing to say may be the zero vector."""
        ...


class TfidfEmbedder:
    """TF-IDF over words and word pairs; it knows the vocabulary of the labelled questions."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.vectorizer = _tfidf_vectorizer(max_features=_TFIDF_TERMS)
        try:
            self.vectorizer.fit(texts)
        except ValueError:
            raise UserError(
                "retrieval.embedder: tfidf finds no word in the labelled questions; "
                "use sentence-transformers or model"
            ) from None

    @classmethod
    def of(cls, terms: Sequence[str], inverse_frequencies: NDArray[np.float32]) -> Self:
        """One that knows these terms already."""
        found = cls.__new__(cls)
        found.vectorizer = _tfidf_vectorizer(vocabulary=terms)
        found.vectorizer.idf_ = inverse_frequencies
        return found

    @property
    def terms(self) -> list[str]:
        """Words and word pairs, one for each dimension."""
        return [str(term) for term in self.vectorizer.get_feature_names_out()]

    @property
    def inverse_frequencies(self) -> NDArray[np.float32]:
        """What each dimension is multiplied by."""
        return np.asarray(self.vectorizer.idf_, np.float32)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See Embedder.embed."""
        return np.asarray(self.vectorizer.transform(texts).toarray(), np.float32)


def _tfidf_vectorizer(**terms: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        sublinear_tf=True,
        ngram_range=(1, 2),
        token_pattern=r"(?u)\b\w+\b",
        dtype=np.float32,
        **terms,
    )


class SentenceTransformerEmbedder:
    """A model of the sentence-transformers library."""

    def __init__(self, model: str | None) -> None:
        self.model = model or _DEFAULT_SENTENCE_MODEL
        check_model_exists(self.model)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See Embedder.embed."""
        found = _sentence_model(self.model).encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(found, np.float32)


class ModelEmbedder:
    """The mean of a causal LM's last hidden states over the tokens of the text."""

    def __init__(self, model: ModelConfig) -> None:
        check_model_exists(model.name)
        self.model = model

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See Embedder.embed."""
        import torch

        tokenizer, model = _hidden_state_model(self.model.model_dump_json())
        batch = tokenizer(
            list(texts), padding=True, truncation=True, max_length=_MODEL_TOKENS,
            return_tensors="pt",
        )  # fmt: skip
        mask = batch["attention_mask"].to(model.device)
        with torch.inference_mode():
            states = model(
                input_ids=batch["input_ids"].to(model.device), attention_mask=mask
            ).last_hidden_state.float()
        weights = mask[:, :, None].float()
        mean = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
        return _unit(mean.cpu().numpy())


class OpenAIEmbedder:
    """Any endpoint with /v1/embeddings."""

    def __init__(self, config: RetrievalConfig) -> None:
        if config.base_url is None or config.model is None:
            raise UserError("retrieval.embedder: openai needs retrieval.base_url and .model")
        self.config = config

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See Embedder.embed."""
        import openai

        # The key is read where it is used: it is part of no object that is sent or stored.
        key = api_key(self.config.api_key_env) or "none"
        client = openai.OpenAI(base_url=self.config.base_url, api_key=key, max_retries=_RETRIES)
        try:
            return self._embed(client, list(texts))
        except (openai.AuthenticationError, openai.PermissionDeniedError):
            raise UserError(f"{self.config.base_url}: the endpoint refuses the API key") from None
        except openai.NotFoundError:
            where = self.config.base_url
            raise UserError(f"{where}: the endpoint has no model {self.config.model!r}") from None
        except openai.OpenAIError as error:
            said = redact(" ".join(str(error).split()), [key] if key != "none" else [])
            raise SemiEvolError(f"{self.config.base_url}: no embeddings: {said}") from None

    def _embed(self, client: Any, texts: list[str]) -> Vectors:
        """The vectors of texts that may be more, or longer, than the endpoint takes at once."""
        import openai

        try:
            reply = client.embeddings.create(model=self.config.model or "", input=texts)
        except openai.APIStatusError as error:
            if error.status_code not in _TOO_MUCH:
                raise
            if len(texts) > 1:
                half = len(texts) // 2
                parts = [self._embed(client, part) for part in (texts[:half], texts[half:])]
                return np.concatenate(parts)
            # As the other embedders do: what a text begins with speaks for it.
            if len(texts[0]) <= _LEAST_CHARACTERS:
                raise
            return self._embed(client, [texts[0][: len(texts[0]) // 2]])
        return _unit(np.asarray([item.embedding for item in reply.data], np.float32))


def create_embedder(
    config: RetrievalConfig, labeled_texts: Sequence[str], base: ModelConfig
) -> Embedder:
    """The embedder that the config names."""
    if config.embedder == "tfidf":
        return TfidfEmbedder(labeled_texts)
    if config.embedder == "sentence-transformers":
        return SentenceTransformerEmbedder(config.model)
    if config.embedder == "model":
        named = base if config.model is None else base.model_copy(update={"name": config.model})
        return ModelEmbedder(named)
    return OpenAIEmbedder(config)


def _unit(vectors: NDArray[Any]) -> Vectors:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), np.float32)


@lru_cache(maxsize=1)
def _sentence_model(name: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise UserError(
            "retrieval.embedder: sentence-transformers is not installed; "
            "install the extra semievol-ray[sentence-transformers]"
        ) from None
    return SentenceTransformer(name, device=_device())


@lru_cache(maxsize=1)
def _hidden_state_model(config: str) -> tuple[Any, Any]:
    from transformers import AutoModel

    model = ModelConfig.model_validate_json(config)
    tokenizer = load_tokenizer(model.name, model.revision, model.trust_remote_code)
    # On the left it would move the words of a model that counts places from the batch's edge.
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    loaded = AutoModel.from_pretrained(
        model.name,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        use_safetensors=True,
    )
    return tokenizer, loaded.to(_device()).eval()


def _device() -> str:
    return "cuda" if has_gpu() else "cpu"
