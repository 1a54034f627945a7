//! The words that `mentions` and `choice` know, each list with what it tells.

/// Words that turn what follows into its opposite.
#[rustfmt::skip]
pub const NEGATIONS: &[&str] = &[
    "not", "never", "neither", "nor", "cannot", "no", "except", "excluding", "without",
    "than", "unlike", "eliminate", "eliminating", "exclude", "reject", "dismiss", "instead",
    "incorrect", "wrong", "false", "unlikely",
];

/// Words that reject the letter before them.
#[rustfmt::skip]
pub const FAULTS: &[&str] = &[
    "wrong", "incorrect", "false", "fails", "fail", "failed", "out", "eliminated", "excluded",
    "impossible", "invalid", "irrelevant", "unlikely", "contradicts", "ruled", "not",
    "cannot", "never", "rejected", "misleading", "tempting", "distractor", "less",
    "implausible",
];

/// A clause goes on with something else from here on.
#[rustfmt::skip]
pub const TURNS: &[&str] = &[
    "but", "so", "therefore", "thus", "hence",
];

/// A clause that goes on with one of these says no more of the letter before it.
#[rustfmt::skip]
pub const REASONS: &[&str] = &[
    "because", "since", "as", "due", "for", "given", "but", "which", "that", "if", "when",
    "while",
];

/// After these a lone A or I is a letter, and no article or pronoun.
#[rustfmt::skip]
pub const CONNECTIVES: &[&str] = &[
    "or", "and", "because", "since", "as", "due", "given", "is", "but", "not", "seems",
    "fails", "looks", "fits", "was", "isn't", "doesn't", "does", "cannot", "can't", "nor",
    "then",
];

/// What a letter is called.
#[rustfmt::skip]
pub const NAMES: &[&str] = &[
    "option", "choice", "letter", "answer", "options", "choices", "answers",
];

/// Words that stand between or before several letters.
#[rustfmt::skip]
pub const JOINS: &[&str] = &[
    "or", "and", "either", "both", "neither", "nor", "not", "between", "than",
];

/// Words before a letter that is picked.
#[rustfmt::skip]
pub const CUES: &[&str] = &[
    "option", "choice", "letter", "answer", "pick", "picking", "picked", "choose", "choosing",
    "chose", "select", "selecting", "selected", "say", "guess", "it's", "it’s", "that's",
    "that’s", "therefore", "thus", "so", "hence", "think", "believe", "but", "maybe",
    "probably", "perhaps", "definitely", "clearly", "final", "actually", "conclude", "prefer",
    "guessing", "verdict",
];

/// What a letter may be said to be: "it is B".
#[rustfmt::skip]
pub const SUBJECTS: &[&str] = &[
    "it", "answer", "choice", "option", "that", "this", "one", "response", "solution",
    "guess", "pick", "selection", "conclusion", "verdict", "must", "should",
];

/// What a letter that is picked is said to be: "B is right".
#[rustfmt::skip]
pub const PRAISE: &[&str] = &[
    "correct", "right", "best", "true", "answer", "likely", "choice", "option", "fits",
    "plausible", "appropriate", "accurate",
];

/// Words that let a later answer take the place of an earlier one.
#[rustfmt::skip]
pub const REVISIONS: &[&str] = &[
    "no", "wait", "actually", "so", "therefore", "thus", "hence", "final", "finally",
    "correction", "overall", "conclusion", "sorry", "revised", "corrected",
];

/// Words that may take back what was said before.
#[rustfmt::skip]
pub const RETRACTIONS: &[&str] = &[
    "wait", "actually", "correction", "sorry", "mistake", "however", "rather", "hmm", "no",
    "oops", "alternatively", "but", "instead",
];

/// Words between "the answer is" and the answer.
#[rustfmt::skip]
pub const FILLERS: &[&str] = &[
    "the", "option", "choice", "letter", "answer", "definitely", "clearly", "probably",
    "likely", "most", "obviously", "simply", "indeed", "therefore", "thus", "be", "think",
    "believe", "guess", "would", "say", "it", "is", "that", "it's", "it’s", "i'd", "i’d",
    "i'll", "i’ll", "go", "with", "choose", "pick", "select", "my", "final", "correct",
    "right", "best", "one", "actually", "surely", "certainly", "given", "by", "follows", "as",
    "text", "boxed", "mathbf", "textbf", "mathrm", "i", "still", "so", "in", "fact", "known",
    "again",
];

/// Words after "B." that are no name: the letter then was an answer, and this explains it.
#[rustfmt::skip]
pub const EXPLAINS: &[&str] = &[
    "because", "since", "as", "the", "this", "it", "that", "these", "explanation", "reason",
    "reasoning", "i", "in", "by", "when", "if", "there", "all", "both", "here", "according",
    "given", "for", "we", "from", "they", "to", "based", "only", "option", "note", "while",
    "although",
];

/// Words of a normalised text that may turn an option it contains into its opposite.
#[rustfmt::skip]
pub const DENIALS: &[&str] = &[
    "not", "non", "no", "never", "neither", "nor", "cannot", "cant", "isnt", "wasnt", "arent",
    "werent", "dont", "doesnt", "didnt", "wont", "wouldnt", "couldnt", "shouldnt", "hasnt",
    "havent", "hardly", "except", "than", "without", "instead", "wrong", "incorrect", "false",
    "unlikely", "or", "eliminate", "exclude", "unsure", "unclear", "anything", "rarely", "seldom",
    "aint", "nobody",
];

/// The same in other languages, as far as no English word is spelled like it, and what is left of
/// "isn´t" with an accent for its apostrophe.
#[rustfmt::skip]
pub const DENIALS_ELSEWHERE: &[&str] = &[
    "nicht", "kein", "keine", "keinen", "keiner", "nein", "niet", "geen", "ikke", "inte", "pas",
    "jamais", "nest", "não", "nunca", "tampoco", "нет", "не", "nie",
    "isn", "wasn", "doesn", "didn", "aren",
];

/// Words that a reason begins with: what follows says no more of what the answer is.
#[rustfmt::skip]
pub const WHY: &[&str] = &["because", "since", "as", "due", "given", "which", "although", "though"];

/// Words that what follows is concluded with: what stands before is not said of it.
pub const LEADS: &[&str] = &["so", "therefore", "thus", "hence"];

/// Words that take back a label which was said to be the answer, where another one follows.
#[rustfmt::skip]
pub const DOUBTS: &[&str] = &["wait", "actually", "correction", "sorry", "mistake", "hmm", "oops"];

/// Words that what is said behind a statement turns away from it with.
#[rustfmt::skip]
pub const TURNED: &[&str] = &[
    "however", "but", "recheck", "double", "check", "verify", "incorrect", "wrong", "revised",
    "corrected", "rounded", "rounding", "converted",
];

/// Of the denials those that may be labels, and deny wherever they are none.
#[rustfmt::skip]
pub const PARTICLES: &[&str] = &["no", "not", "never", "neither", "nor", "or"];

/// What a label may be called.
#[rustfmt::skip]
pub const LABEL_NAMES: &[&str] = &[
    "answer", "ans", "label", "category", "class", "classification", "sentiment", "intent",
    "topic", "prediction", "verdict",
];

/// Commands of LaTeX that answers stand in.
pub const LATEX: &[&str] = &["boxed", "textbf", "text", "mathbf", "mathrm"];
