"""The classifiers among the voters: sklearn's probabilities, in the order of the options."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from semievol_ray import UserError
from semievol_ray.config import GenerationConfig, ModelConfig
from semievol_ray.demo.messages import TEAMS, write_messages
from semievol_ray.engines import Batch, Request, Sampling
from semievol_ray.engines.classifier_engine import ClassifierEngine
from semievol_ray.engines.protocol import EngineOptions

SAMPLING = Sampling(1.0, 1.0, 16)
MESSAGES = write_messages(400, 0)
LABELS = [(m.text, m.team.casefold()) for m in MESSAGES[:200]]
ASKED = MESSAGES[200:]
CLASSES = tuple(team.casefold() for team in TEAMS)


def fitted(model: ModelConfig, labels: list[tuple[str, str]]) -> ClassifierEngine:
    return ClassifierEngine(model, EngineOptions.of(GenerationConfig(), labels=labels))


def engine(**options) -> ClassifierEngine:
    return fitted(ModelConfig(name="probe", engine="probe", engine_options=options), LABELS)


def requests(classes: tuple[str, ...]) -> list[Request]:
    return [Request("ignored", i, question=m.text, classes=classes) for i, m in enumerate(ASKED)]


def scores(probe: ClassifierEngine, classes: tuple[str, ...]) -> list[list[float]]:
    candidates = [classes] * len(ASKED)
    replies = asyncio.run(probe.answer(Batch(requests(classes), candidates=candidates)))
    assert replies.generated is None
    return replies.scores.to_pylist()


@pytest.fixture(scope="module")
def probe() -> ClassifierEngine:
    return engine()


def test_it_answers_with_the_probability_of_every_option(probe) -> None:
    candidates = [[f" {team}" for team in TEAMS]] * len(ASKED)
    replies = asyncio.run(probe.answer(Batch(requests(CLASSES), SAMPLING, candidates)))
    table, scores = replies.generated, replies.scores
    p = np.exp(np.array(scores.to_pylist()))
    assert p.shape == (200, len(TEAMS)) and np.allclose(p.sum(1), 1, atol=1e-5)
    assert table["text"].to_pylist() == [TEAMS[i] for i in p.argmax(1)]
    taken = [row[0] for row in table["token_logprobs"].to_pylist()]
    assert taken == pytest.approx(np.log(p.max(1)).tolist(), abs=1e-5)
    right = np.mean([t == m.team for t, m in zip(table["text"].to_pylist(), ASKED, strict=True)])
    confidence = p.max(1).mean()
    # Fitted by its log loss: what it is sure of, it is about as often right about.
    assert right > 0.6 and abs(right - confidence) < 0.1


def test_options_in_another_order_have_their_own_probabilities(probe) -> None:
    backwards = CLASSES[::-1]
    ahead = scores(probe, CLASSES)
    back = scores(probe, backwards)
    assert np.allclose(np.array(ahead), np.array(back)[:, ::-1], atol=1e-4)


def test_a_class_without_a_label_is_never_likely(probe) -> None:
    assert all(rare <= known for known, rare in scores(probe, (CLASSES[0], "unheard of")))


def test_it_is_the_plain_classifier(probe) -> None:
    """Over the embedder's vectors as they are, at the same penalty."""
    embed, penalty = probe._classifier.embedder.embed, probe._classifier.head.penalty
    vectors = embed([text for text, _ in LABELS])
    plain = LogisticRegression(C=penalty, max_iter=1000).fit(vectors, [name for _, name in LABELS])
    found = np.array(scores(probe, tuple(plain.classes_)))
    wanted = plain.predict_proba(embed([m.text for m in ASKED]))
    assert np.allclose(np.exp(found), wanted, atol=5e-3)


def test_what_it_cannot_do_is_said(probe) -> None:
    with pytest.raises(UserError, match="3 labels hold 3 different answers"):
        labels = [(f"question {i}", f"answer {i}") for i in range(3)]
        fitted(ModelConfig(name="probe", engine="probe"), labels)
    with pytest.raises(UserError, match="every label is 'a'"):
        fitted(ModelConfig(name="probe", engine="probe"), [("q", "a"), ("r", "a")])
    with pytest.raises(UserError, match="model probe: .*embeder.*embedder"):
        engine(embeder="tfidf")
    with pytest.raises(UserError, match="needs a closed task"):
        asyncio.run(probe.answer(Batch(requests(CLASSES), SAMPLING)))


def test_neighbours_vote_by_how_near_they_are() -> None:
    model = ModelConfig(name="neighbours", engine="neighbours")
    found = np.exp(np.array(scores(fitted(model, LABELS), CLASSES)))
    assert np.allclose(found.sum(1), 1, atol=1e-5)
    right = [CLASSES[i] == m.team.casefold() for i, m in zip(found.argmax(1), ASKED, strict=True)]
    assert np.mean(right) > 0.55
    # It is no logistic regression, and says otherwise.
    other = np.exp(np.array(scores(engine(), CLASSES)))
    assert np.abs(found - other).max() > 0.2


def test_few_labels_have_few_neighbours() -> None:
    few = [label for label in LABELS if label[1] in CLASSES[:2]][:6]
    model = ModelConfig(name="neighbours", engine="neighbours")
    assert len(scores(fitted(model, few), CLASSES)) == len(ASKED)


def test_where_nothing_speaks_for_a_class_there_is_no_answer() -> None:
    engine = ClassifierEngine.__new__(ClassifierEngine)
    engine._classifier = SimpleNamespace(classes=["a", "b"])  # type: ignore[assignment]
    request = Request("?", 0, question="zzz", classes=("a", "b"))
    for probabilities, text in (([0.5, 0.5], ""), ([0.4, 0.6], "b")):
        said, logprobs = engine._reply(request, [" a", " b"], np.array(probabilities))
        assert said is not None and said["text"] == text
        assert logprobs == pytest.approx(np.log(probabilities).tolist())
