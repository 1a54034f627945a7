"""The task and its data: what a question is, and where the examples are."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from semievol_ray.config.section import Section
from semievol_ray.touches import Added, Place, Speed

# One path, glob or URI, or several.
Locations = str | tuple[str, ...]


class TaskConfig(Section):
    """What a question, an answer and a correct answer are."""

    preset: str | None = None
    kind: Literal["multiple_choice", "label", "numeric", "text"] | None = None
    instruction: str | None = Field(None, description="what the model is told first")
    question_template: str | None = Field(
        None,
        description="Jinja2 over question, context, subject, options, letters and labels; "
        "data.columns says which columns of the files these are",
    )
    answer_pattern: str | None = Field(
        None, description="regular expression; its last match's last group is the answer"
    )
    labels: tuple[str, ...] | None = Field(
        None, description="label tasks: the closed set; null reads it from the labelled answers"
    )
    relative_tolerance: float | None = Field(None, ge=0)
    decimal_mark: Literal[".", ","] = Field(
        ".", description="numeric tasks: what parts the whole of a number from its fraction"
    )
    word_answers: bool | None = Field(
        None,
        description="numeric tasks: a true answer may be a word, which no response is right about; "
        "null: as the preset has it, else such rows are quarantined",
    )
    first_option_number: int | None = Field(
        None,
        ge=0,
        le=1,
        description="what an answer given as a number calls the first option; null: as all the "
        "labelled and test rows have it",
    )
    use_chat_template: Literal["auto", "always", "never"] = "auto"
    day: str | None = Field(
        None,
        description="YYYY-MM-DD, what chat templates that tell a model the date write; null: the "
        "day on which the run read its data",
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _are_texts(cls, value: Any) -> Any:
        known = isinstance(value, list | tuple) and all(isinstance(label, str) for label in value)
        if value is not None and not known:
            raise ValueError(
                "expected a list of texts; YAML reads yes and no as true and false, and 01 as a "
                "number: quote them"
            )
        return value

    @field_validator("day", mode="before")
    @classmethod
    def _is_day(cls, value: Any) -> Any:
        # YAML reads a date as one.
        text = value.isoformat() if isinstance(value, date) else value
        if isinstance(text, str):
            date.fromisoformat(text)
        return text


class Columns(Section):
    """Which column of the user's files holds what.

    `context.contexts` is a field inside one, `answers.text.0` the first of a list.
    """

    id: str | None = None
    question: str = "question"
    answer: str = "answer"
    options: str | tuple[str, ...] | None = Field(
        None, description="a column of lists, or columns that hold one option each, in their order"
    )
    context: str | None = None
    subject: str | None = None
    weight: Added[str | None] = Field(
        None, description="of a labelled example in the loss of every training; null: 1 for all"
    )

    @field_validator("options", mode="before")
    @classmethod
    def _of_options(cls, value: Any) -> Any:
        several = isinstance(value, list | tuple) and all(isinstance(x, str) for x in value)
        if value is not None and not isinstance(value, str) and not (several and len(value) > 1):
            raise ValueError("expected a column, or a list of the options' columns")
        if several and len(set(value)) < len(value):
            raise ValueError("a column is there twice")
        return value

    @property
    def names(self) -> dict[str, str]:
        """Each column's name by its setting; options that have columns of their own by number."""
        found: dict[str, str] = {}
        for key, name in self.model_dump(exclude_none=True).items():
            several = isinstance(name, tuple)
            found |= {f"{key}.{i}": x for i, x in enumerate(name)} if several else {key: name}
        return found


class DataConfig(Section):
    """Where the examples are: one location, or a list of them.

    A location is a path, a URI, a folder (its files, and those of its partitions `name=value/`,
    which are columns), a glob (`*` stays in a folder, `**` does not), or
    `hf://dataset[:config][@revision]/split`. None may lie in the run directory.
    """

    labeled: Place[Locations]
    unlabeled: Place[Locations]
    test: Place[Locations | None] = None
    columns: Columns = Columns()
    answers: Literal["auto", "mark", "text"] = Field(
        "auto",
        description="how answers name an option: by letter or number, or by its text; auto: as "
        "all the labelled and test rows have it",
    )
    shard_rows: Annotated[int, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="unit of work; auto: by the size of the corpus and replicas.max"
    )
    max_bad_rows: Place[int] = Field(
        100, ge=0, description="more quarantined rows than this stop the run"
    )
    max_unlabeled_rows: int | None = Field(None, gt=0)
    near_duplicates: Added[float | None] = Field(
        None,
        gt=0,
        le=1,
        description="unlabelled rows are left out whose text is so similar to that of a row "
        "before them, of the labels or of the test set (Jaccard, shingles of five characters; "
        "0.8 is usual); null: only those that say the same",
    )

    @field_validator("labeled", "unlabeled", "test", mode="before")
    @classmethod
    def _locations(cls, value: Any) -> Any:
        several = [value] if isinstance(value, str) else value
        is_list = isinstance(several, list | tuple) and len(several) > 0
        if value is not None and not (is_list and all(isinstance(x, str) and x for x in several)):
            raise ValueError("expected a path, or a list of paths")
        return value


class RetrievalConfig(Section):
    """Which labelled examples are shown as demonstrations."""

    embedder: Literal["tfidf", "sentence-transformers", "model", "openai"] = "tfidf"
    model: str | None = Field(None, description="the embedder's model; null takes its usual one")
    k: int = Field(3, ge=0, description="demonstrations kept for each example")
    batch_rows: Speed[int] = Field(256, gt=0)
    exact_below_rows: int = Field(100_000, gt=0, description="larger label sets use an IVF index")
    base_url: str | None = None
    api_key_env: Place[str] = "OPENAI_API_KEY"
