"""A classifier that was kept answers as the one that was fitted; its files hold no code."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from semievol_ray import UserError, load_classifier
from semievol_ray.classifiers import HEADS, Classifier
from semievol_ray.classifiers.heads import Neighbours
from semievol_ray.config import ModelConfig, RetrievalConfig
from semievol_ray.demo.messages import write_messages

MESSAGES = write_messages(300, 1)
KNOWN = [(m.text, m.team) for m in MESSAGES[:120]]
ASKED = [m.text for m in MESSAGES[120:]]


def kept(classifier: Classifier, folder: Path) -> Classifier:
    for name, content in classifier.files().items():
        (folder / name).write_bytes(content)
    return load_classifier(folder)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("embedder", ["tfidf", "model"])
def test_what_is_kept_answers_alike(kind: str, embedder: str, tiny_model, tmp_path) -> None:
    name = str(tiny_model) if embedder == "model" else None
    retrieval = RetrievalConfig(embedder=embedder, model=name)
    fitted = Classifier.fit(kind, KNOWN, retrieval, ModelConfig(name=str(tiny_model)), ASKED[:90])
    loaded = kept(fitted, tmp_path)
    p = fitted.probabilities(ASKED)
    assert p.shape == (180, len(set(m.team for m in MESSAGES))) and np.allclose(p.sum(1), 1)
    assert np.array_equal(p, loaded.probabilities(ASKED))
    assert loaded.classify(ASKED) == [fitted.classes[i] for i in p.argmax(1)]
    assert loaded.classify([]) == []


@pytest.mark.parametrize("kind", ["neighbours", "propagation"])
def test_a_question_without_a_known_word_is_open(kind: str) -> None:
    strange = ["привет как дела", "12345", "zzz qqq", ""]
    for known in (KNOWN, KNOWN[::-1], sorted(KNOWN, key=lambda pair: pair[1])):
        fitted = Classifier.fit(kind, known, RetrievalConfig(), ModelConfig(name="any"), ASKED)
        found = fitted.probabilities(strange)
        assert np.allclose(found, 1 / found.shape[1]), "whichever label comes first"
        assert fitted.probabilities(ASKED).max(axis=1).mean() > 0.4


def test_two_classes_are_no_special_case(tmp_path) -> None:
    teams = {team for team, _ in Counter(team for _, team in KNOWN).most_common(2)}
    two = [(text, team) for text, team in KNOWN if team in teams]
    probe = Classifier.fit("probe", two, RetrievalConfig(), ModelConfig(name="any"))
    p = kept(probe, tmp_path).probabilities([text for text, _ in two])
    assert p.shape[1] == 2
    assert (
        np.mean([probe.classes[i] == team for i, (_, team) in zip(p.argmax(1), two, strict=True)])
        > 0.9
    )


@pytest.mark.parametrize("rare", [1, 2])
def test_a_class_that_a_fold_leaves_out_whole_is_learnt_all_the_same(rare: int) -> None:
    common, other = (team for team, _ in Counter(team for _, team in KNOWN).most_common(2))
    rows = [pair for pair in KNOWN if pair[1] == common][:12]
    rows += [pair for pair in KNOWN if pair[1] == other][:rare]
    probe = Classifier.fit("probe", rows, RetrievalConfig(), ModelConfig(name="any"))
    p = probe.probabilities([text for text, _ in rows])
    assert p[-1, probe.classes.index(other)] > p[:12, probe.classes.index(other)].max()


def test_neighbours_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(90, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    gold = rng.integers(0, 3, 60)
    head = Neighbours(vectors[:60], gold, 3, 7, 0.1)

    def weigh(distances: np.ndarray) -> np.ndarray:
        return np.exp((distances.min(axis=1, keepdims=True) - distances) / 0.1)

    peer = KNeighborsClassifier(7, weights=weigh, metric="cosine", algorithm="brute")
    wanted = peer.fit(vectors[:60], gold).predict_proba(vectors[60:])
    assert np.allclose(head.probabilities(vectors[60:]), wanted, atol=1e-4)


def test_what_is_no_classifier_is_one_line(tmp_path) -> None:
    with pytest.raises(UserError, match="no classifier here"):
        load_classifier(tmp_path)
    fitted = Classifier.fit("probe", KNOWN, RetrievalConfig(), ModelConfig(name="any"))
    kept(fitted, tmp_path)
    path = tmp_path / "classifier.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(UserError, match="of format 2, not 1"):
        load_classifier(tmp_path)
    kept(fitted, tmp_path)
    whole = path.read_text()
    for damaged in ("{", "[]", '{"format": 1}', whole.replace('"terms"', '"term"')):
        path.write_text(damaged)
        with pytest.raises(UserError, match="the classifier is damaged"):
            load_classifier(tmp_path)
    path.write_text(whole)
    (tmp_path / "classifier.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match="the classifier is damaged"):
        load_classifier(tmp_path)
