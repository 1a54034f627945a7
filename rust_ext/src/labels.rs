//! A closed list of labels, and the one that a text names.
//!
//! As with `choice`, a text that names none, or could be said to name two, gives null: a wrong vote
//! costs more than a missing one.

use std::borrow::Cow;

use rustc_hash::FxHashMap;

use crate::cues::{DENIALS, LABEL_NAMES, LATEX, PARTICLES, RETRACTIONS};
use crate::error::{Error, Result};
use crate::fold::is_invisible;
use crate::mentions::Reading;
use crate::numbers::boxed;
use crate::text::normalize;
use crate::words::{Word, words};

/// Longer than any tag that wraps an answer.
const TAG: usize = 24;

pub struct Labels {
    names: Vec<String>,
    /// Normalised spelling → label.
    exact: FxHashMap<String, usize>,
    /// First word → how many words the longest label has that begins with it.
    longest: FxHashMap<String, usize>,
}

impl Labels {
    /// Raises an error where two labels have the same spelling after normalisation, or none.
    pub fn new(names: Vec<String>) -> Result<Self> {
        let mut exact = FxHashMap::default();
        let mut longest: FxHashMap<String, usize> = FxHashMap::default();
        for (i, name) in names.iter().enumerate() {
            let spelled = normalize(name);
            let mut words = spelled.split(' ');
            let first = words.next().filter(|word| !word.is_empty()).ok_or_else(|| {
                Error::input(format!("labels: {name:?} has no letters or digits"))
            })?;
            let longest = longest.entry(first.to_owned()).or_default();
            *longest = (*longest).max(1 + words.count());
            if let Some(other) = exact.insert(spelled, i) {
                let other: &String = &names[other];
                return Err(Error::input(format!(
                    "labels: {other:?} and {name:?} are the same after normalisation"
                )));
            }
        }
        Ok(Self { names, exact, longest })
    }

    /// The label that the text picks. What follows the last `</think>`, or stands in the last
    /// `\boxed{…}`, is read alone. In this order:
    ///
    /// 1. the label that the text is;
    /// 2. what an "answer" or a "label" is said to be: "Label: spam", "the category is spam"; where
    ///    two are said the last one, if a word such as "no" or "so" says that it is;
    /// 3. the only one that it contains, as whole words: at each word the longest label counts.
    ///
    /// Null where two different ones are named ("spam or ham"), and where the one is denied or asked
    /// for in its sentence ("not spam", "is it spam?"), unless it opens the text: "No, it is not."
    /// A label such as "no" stands for itself where it ends a clause, and elsewhere denies: "there
    /// is no doubt".
    pub fn find(&self, text: &str) -> Option<&str> {
        self.is(text).or_else(|| self.said(text)).map(|i| self.names[i].as_str())
    }

    fn is(&self, text: &str) -> Option<usize> {
        self.exact.get(&normalize(text)).copied()
    }

    fn said(&self, text: &str) -> Option<usize> {
        let thought = text.rfind("</think>").map_or(0, |at| at + "</think>".len());
        let text = &text[thought..];
        if let Some(found) = boxed(text).and_then(|boxed| self.only(&without_markup(boxed))) {
            return Some(found);
        }
        let text = without_markup(text);
        match self.declared(&text) {
            Found::One(label) => Some(label),
            Found::Two => None,
            Found::None => self.only(&text),
        }
    }

    /// What an "answer" or a "label" is said to be.
    fn declared(&self, text: &str) -> Found {
        let mut reading = Reading::new(text, |_| None, |_| None);
        let declarations = reading.declarations(LABEL_NAMES);
        let found: Vec<(usize, usize)> = declarations
            .iter()
            .filter_map(|declaration| {
                let rest = &text[reading.words.get(declaration.value)?.start..];
                let line = rest.lines().next()?;
                let sentence = line.split_inclusive(['.', '!', '?', ';']).next()?;
                let clause = line.split([',', '.', ';', ':', '(', '!', '?']).next()?;
                let label = [line, sentence, clause].iter().find_map(|piece| self.only(piece))?;
                Some((declaration.value, label))
            })
            .collect();
        let Some(&(value, label)) = found.last() else { return Found::None };
        let other = found.iter().rev().find(|(_, other)| *other != label);
        if other.is_some_and(|(first, _)| !reading.revises(*first, value)) {
            return Found::Two;
        }
        // "Label: spam. Wait, it is ham."
        let doubt = reading.words[value..].iter().find(|word| word.is(RETRACTIONS));
        let later = doubt.map_or("", |word| &text[word.start..]);
        match self.named(later, &words(later)) {
            Found::One(other) if other != label => Found::Two,
            Found::Two => Found::Two,
            _ => Found::One(label),
        }
    }

    /// The label that the text is, or the only one that it names and does not deny.
    fn only(&self, text: &str) -> Option<usize> {
        if let Some(label) = self.is(text) {
            return Some(label);
        }
        let words = words(text);
        let Found::One(label) = self.named(text, &words) else { return None };
        let opening = pieces(text, &words, |word| word.clause).next().unwrap_or("");
        let opens = self.is(opening) == Some(label) && !is_question(opening);
        (opens || !self.is_denied(label, text, &words)).then_some(label)
    }

    /// The label that the text names; particles ("no") where they end a clause.
    fn named(&self, text: &str, words: &[Word<'_>]) -> Found {
        let mut found = Found::None;
        self.scan(&normalize(text), |label, word| {
            if let Some(label) = label.filter(|_| !PARTICLES.contains(&word)) {
                found.add(label);
            }
        });
        if PARTICLES.iter().any(|particle| self.exact.contains_key(*particle)) {
            for clause in pieces(text, words, |word| word.clause) {
                let spelled = normalize(clause);
                let last = spelled.rsplit(' ').next().filter(|last| PARTICLES.contains(last));
                let label = last.and_then(|last| self.exact.get(last));
                if let Some(&label) = label.filter(|_| !is_question(clause)) {
                    found.add(label);
                }
            }
        }
        found
    }

    /// Whether a sentence that holds the label denies it, or asks for it.
    fn is_denied(&self, label: usize, text: &str, words: &[Word<'_>]) -> bool {
        let denied = |sentence: &str| {
            let (mut held, mut denied) = (false, is_question(sentence));
            self.scan(&normalize(sentence), |found, word| {
                held |= found == Some(label);
                denied |= found != Some(label) && DENIALS.contains(&word);
            });
            held.then_some(denied)
        };
        let mut sentences = pieces(text, words, |word| word.sentence).filter_map(denied).peekable();
        // A label may hold what ends a sentence.
        let whole = sentences.peek().is_none().then(|| denied(text)).flatten();
        sentences.chain(whole).any(|denied| denied)
    }

    /// Calls `each` with every label of a normalised text and its words, or with a word between them.
    fn scan<'t>(&self, spelled: &'t str, mut each: impl FnMut(Option<usize>, &'t str)) {
        let mut rest = spelled;
        while !rest.is_empty() {
            let (label, length) = self.longest_at(rest);
            each(label, &rest[..length]);
            rest = rest[length..].trim_start_matches(' ');
        }
    }

    /// The longest label that these words begin with, and how far it, or else one word, reaches.
    fn longest_at(&self, words: &str) -> (Option<usize>, usize) {
        let first_end = words.find(' ').unwrap_or(words.len());
        let Some(&most) = self.longest.get(&words[..first_end]) else { return (None, first_end) };
        let ends = words.match_indices(' ').map(|(at, _)| at).chain([words.len()]).take(most);
        let ends: Vec<usize> = ends.collect();
        ends.into_iter()
            .rev()
            .find_map(|end| self.exact.get(&words[..end]).map(|&label| (Some(label), end)))
            .unwrap_or((None, first_end))
    }
}

/// What a text names: nothing, one label, or different ones.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    None,
    One(usize),
    Two,
}

impl Found {
    fn add(&mut self, label: usize) {
        *self = match *self {
            Found::None => Found::One(label),
            Found::One(other) if other == label => Found::One(label),
            _ => Found::Two,
        };
    }
}

/// The clauses or the sentences of a text, with the marks that end them.
fn pieces<'t>(
    text: &'t str,
    words: &[Word<'t>],
    of: impl Fn(&Word<'t>) -> usize,
) -> impl Iterator<Item = &'t str> {
    let firsts = words.windows(2).filter(|pair| of(&pair[0]) != of(&pair[1]));
    let mut ends: Vec<usize> = firsts.map(|pair| pair[1].start).collect();
    ends.push(text.len());
    let mut start = 0;
    ends.into_iter().map(move |end| &text[std::mem::replace(&mut start, end)..end])
}

fn is_question(piece: &str) -> bool {
    let closing = |c: char| c.is_whitespace() || matches!(c, '"' | '”' | '*') || is_invisible(c);
    piece.trim_end_matches(closing).ends_with('?')
}

/// The text with spaces for braces, for the brackets of tags and for LaTeX's commands:
/// "<answer>spam</answer>", "\\text{spam}". Other brackets stay: a label may be ">50K".
fn without_markup(text: &str) -> Cow<'_, str> {
    if !text.contains(['\\', '{', '}', '<']) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        let tag = after.bytes().take(TAG).position(|b| b == b'>').filter(|&end| {
            c == '<'
                && after.bytes().take(end).all(|b| b.is_ascii_alphabetic() || b"/_-|".contains(&b))
        });
        rest = after;
        if let Some(end) = tag {
            out.extend([" ", &after[..end], " "]);
            rest = &after[end + 1..];
        } else if matches!(c, '\\' | '{' | '}') {
            out.push(' ');
            let command = LATEX.iter().filter_map(|name| after.strip_prefix(name)).next();
            rest = command.filter(|_| c == '\\').unwrap_or(after);
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_label_is_found_and_two_are_none() {
        let labels = |names: &[&str]| Labels::new(names.iter().map(|s| s.to_string()).collect());
        let found = labels(&["card_payment", "Card payment fee", "neutral", "A"]).unwrap();
        for (text, want) in [
            ("Card-Payment", Some("card_payment")),
            ("it is the card payment fee, clearly", Some("Card payment fee")),
            ("neutral. Yes, neutral", Some("neutral")),
            ("neutral or card payment", None),
            ("neutrality", None),
            ("card", None),
            ("a", Some("A")),
            ("", None),
            ("<answer>card payment</answer>", Some("card_payment")),
            ("\\boxed{\\text{neutral}}", Some("neutral")),
            ("card payment? Not at all.", None),
            ("not a card payment", None),
            ("It does not move. Neutral.", Some("neutral")),
        ] {
            assert_eq!(found.find(text), want, "{text:?}");
        }
        let found = labels(&["<=50K", ">50K", "No"]).unwrap();
        for (text, want) in [
            ("It is >50K.", Some(">50K")),
            ("<=50K", Some("<=50K")),
            ("No, they have no more.", Some("No")),
            ("There is no doubt.", None),
            ("I would say no.", Some("No")),
        ] {
            assert_eq!(found.find(text), want, "{text:?}");
        }
        assert!(labels(&["yes", "Yes."]).is_err());
        assert!(labels(&["?"]).is_err());
    }
}
