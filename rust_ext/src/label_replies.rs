//! The label that a reply names.
//!
//! As with `choice`, a text that names none, or could be said to name two, gives null: a wrong vote
//! costs more than a missing one.

use std::borrow::Cow;

use crate::cues::{DENIALS, DENIALS_ELSEWHERE, DOUBTS, LABEL_NAMES, LEADS, PARTICLES, TURNS, WHY};
use crate::fold::is_invisible;
use crate::labels::Labels;
use crate::markup::without_markup;
use crate::mentions::Reading;
use crate::statements::boxed;
use crate::text::normalize;
use crate::words::{Word, words};

impl Labels {
    /// The label that the text picks. What follows the last `</think>`, or stands in the last
    /// `\boxed{…}`, is read alone, and a list of labels in brackets is none of the answer. In this
    /// order:
    ///
    /// 1. the label that the text is;
    /// 2. what an "answer" or a "label" is said to be: "Label: spam", "the category is spam"; where
    ///    two are said the last one, if a word such as "no" or "so" says that it is;
    /// 3. the only one that it contains, as whole words: at each word the longest label counts.
    ///
    /// Null where two different ones are named ("spam or ham"), and where the one is denied or asked
    /// for in its sentence ("not spam", "is it spam?"), reasons left out, unless it opens the text:
    /// "No, it is not." A label such as "no" stands for itself where it ends a clause, and elsewhere
    /// denies: "there is no doubt".
    pub fn find(&self, text: &str) -> Option<&str> {
        self.is(text).or_else(|| self.said(text)).map(|i| self.names()[i].as_str())
    }

    fn said(&self, text: &str) -> Option<usize> {
        let thought = text.rfind("</think>").map_or(0, |at| at + "</think>".len());
        let text = &text[thought..];
        if let Some(found) = boxed(text).and_then(|boxed| self.only(&without_markup(boxed))) {
            return Some(found);
        }
        let text = self.without_lists(&without_markup(text)).into_owned();
        match self.declared(&text) {
            Found::One(label) => Some(label),
            Found::Two => None,
            Found::None => self.only(&text),
        }
    }

    /// What an "answer" or a "label" is said to be.
    fn declared(&self, text: &str) -> Found {
        let reading = Reading::new(text, |_| None, |_| None);
        let mut found: Vec<Declared> = reading
            .values(LABEL_NAMES)
            .into_iter()
            .filter_map(|(value, supposed)| {
                let (label, end) = self.stated(&reading, value)?;
                Some(Declared { value, supposed, label, end })
            })
            .collect();
        if found.iter().any(|declared| !declared.supposed) {
            // "Answer: no. If it had said so, the answer would be yes."
            found.retain(|declared| !declared.supposed);
        }
        let Some(last) = found.last() else { return Found::None };
        let other = found.iter().rev().find(|other| other.label != last.label);
        let revised = |other: &Declared| {
            let after = reading.words.partition_point(|word| word.start < other.end);
            reading.revises(after.min(last.value), last.value)
        };
        if other.is_some_and(|other| !revised(other)) {
            return Found::Two;
        }
        // "Label: spam. Wait, it is ham."
        let doubt = reading.words.iter().find(|word| word.start >= last.end && word.is(DOUBTS));
        let later = doubt.map_or("", |word| &text[word.start..]);
        match self.named(later, &words(later)) {
            Found::One(other) if other != last.label => Found::Two,
            Found::Two => Found::Two,
            _ => Found::One(last.label),
        }
    }

    /// The label that a value is, and where its sentence ends; none where another may be meant.
    fn stated(&self, reading: &Reading<'_>, value: usize) -> Option<(usize, usize)> {
        let (before, word) = (reading.words[value.checked_sub(1)?].end, reading.words.get(value)?);
        let gap = &reading.text[before..word.start];
        let mark =
            gap.char_indices().rfind(|(_, c)| c.is_whitespace() || ":=→\"'“([*`".contains(*c));
        // A sign or a symbol before the word is the label's own: "-1", "<$50".
        let start = before + mark.map_or(0, |(at, c)| at + c.len_utf8());
        let rest = &reading.text[start..];
        let sentence = &rest[..end_of(rest, |c| ".!?;。\n".contains(c), char::is_whitespace)];
        let clause = end_of(sentence, |c| ",.;:(!?\"”—–\n".contains(c), |c| !c.is_ascii_digit());
        let (label, follows, near) = match self.is(&sentence[..clause]) {
            Some(label) => (label, normalize(&sentence[clause..]), 1),
            None => {
                let spelled = normalize(sentence);
                let (label, length) = self.after_fillers(&spelled)?;
                (label, spelled[length..].trim_start().to_owned(), 4)
            }
        };
        let (mut another, mut denied, mut place) = (false, false, 0);
        self.scan(&follows, |found, word| {
            another |= found.is_some_and(|other| other != label && !PARTICLES.contains(&word));
            place += 1;
            denied |= place <= near && found != Some(label) && denies(word);
        });
        let explains = follows.split(' ').next().is_some_and(|word| {
            WHY.contains(&word) || ["not", "rather", "instead"].contains(&word)
        });
        let meant = if another { explains } else { !denied || self.is_denial(label) };
        let asked = rest[sentence.len()..].starts_with('?');
        (meant && !asked).then_some((label, start + sentence.len()))
    }

    /// The label that the text is, or the only one that it names and does not deny.
    fn only(&self, text: &str) -> Option<usize> {
        if let Some(label) = self.is(text) {
            return Some(label);
        }
        let words = words(text);
        let Found::One(label) = self.named(text, &words) else { return None };
        (self.opens(label, text, &words) || !self.is_denied(label, text, &words)).then_some(label)
    }

    /// Whether the text's first clause is the label, and the next one no denial of it.
    fn opens(&self, label: usize, text: &str, words: &[Word<'_>]) -> bool {
        let Some(head) = words.first() else { return false };
        let mut clauses = pieces(text, words, |word| word.clause);
        let first = clauses.next().unwrap_or("");
        let next = words.iter().find(|word| word.clause != head.clause);
        let next = next.filter(|word| word.sentence == head.sentence);
        let denied = next.is_some_and(|word| denies(&word.text.to_lowercase()) || word.text == "0");
        let meant = !denied || self.is_denial(label);
        self.is(first) == Some(label) && !is_question(first) && meant
    }

    /// Whether the label is a denial itself, which another one affirms: "no, never".
    fn is_denial(&self, label: usize) -> bool {
        denies(&normalize(&self.names()[label]))
    }

    /// The label that the text names; particles ("no") where they end a clause.
    fn named(&self, text: &str, words: &[Word<'_>]) -> Found {
        let mut found = Found::None;
        self.scan(&normalize(text), |label, word| {
            if let Some(label) = label.filter(|_| !PARTICLES.contains(&word)) {
                found.add(label);
            }
        });
        // Normalisation leaves articles out: a label that is one is known by its own case.
        for (label, name) in self.names().iter().enumerate() {
            if is_article(name) && words.iter().any(|word| word.text == name) {
                found.add(label);
            }
        }
        if PARTICLES.iter().any(|particle| self.is(particle).is_some()) {
            for clause in pieces(text, words, |word| word.clause) {
                let spelled = normalize(clause);
                let last = spelled.rsplit(' ').next().filter(|last| PARTICLES.contains(last));
                let label = last.and_then(|last| self.is(last));
                if let Some(label) = label.filter(|_| !is_question(clause)) {
                    found.add(label);
                }
            }
        }
        found
    }

    /// Whether a sentence that holds the label denies it, or asks for it.
    fn is_denied(&self, label: usize, text: &str, words: &[Word<'_>]) -> bool {
        let denied = |sentence: &str| {
            let mut found = Vec::new();
            let spelled = normalize(sentence);
            self.scan(&spelled, |of, word| found.push((of == Some(label), word)));
            let denial = |(is_label, word): &(bool, &str)| !is_label && denies(word);
            let places = (0..found.len()).filter(|&at| found[at].0).collect::<Vec<_>>();
            let near = |&at: &usize| {
                // What follows "because" is why, and what stands before "so" is what it comes from.
                let before = found[..at].iter().rev().take_while(|(_, word)| !LEADS.contains(word));
                let ends = |word: &str| WHY.contains(&word) || TURNS.contains(&word);
                let mut after = found[at + 1..].iter().take_while(|(_, word)| !ends(word));
                before.into_iter().any(denial) || after.any(denial)
            };
            (!places.is_empty()).then(|| is_question(sentence) || places.iter().any(near))
        };
        let mut sentences = pieces(text, words, |word| word.sentence).filter_map(denied).peekable();
        // A label may hold what ends a sentence.
        let whole = sentences.peek().is_none().then(|| denied(text)).flatten();
        sentences.chain(whole).any(|denied| denied)
    }

    /// The text without brackets that hold two labels: "Sentiment (positive or negative): …".
    fn without_lists<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut out = Cow::Borrowed(text);
        let mut from = 0;
        while let Some(open) = out[from..].find(['(', '[']).map(|at| from + at) {
            let Some(close) = out[open..].find([')', ']']).map(|at| open + at) else { break };
            let inside = &out[open + 1..close];
            if self.named(inside, &words(inside)) == Found::Two {
                out = Cow::Owned(format!("{} {}", &out[..open], &out[close + 1..]));
            } else {
                from = open + 1;
            }
        }
        out
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

/// A statement of what the answer is.
struct Declared {
    /// Its place among the words.
    value: usize,
    /// "It would be spam."
    supposed: bool,
    label: usize,
    /// Where its sentence ends.
    end: usize,
}

/// Whether a word of a normalised text turns what it is said of into its opposite.
fn denies(word: &str) -> bool {
    DENIALS.contains(&word)
        || DENIALS_ELSEWHERE.contains(&word)
        || word.contains(['不', '没', '非'])
}

fn is_article(name: &str) -> bool {
    ["a", "an", "the"].contains(&name.to_lowercase().as_str())
}

/// How far a text reaches up to a mark that stands before such a character, or before nothing.
fn end_of(text: &str, mark: impl Fn(char) -> bool, before: impl Fn(char) -> bool) -> usize {
    let found = text.char_indices().find(|(at, c)| {
        let next = text[at + c.len_utf8()..].chars().next();
        mark(*c) && (*c == '\n' || next.is_none_or(&before))
    });
    found.map_or(text.len(), |(at, _)| at)
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
    let closing = |c: char| c.is_whitespace() || "\"'”’)]*".contains(c) || is_invisible(c);
    piece.trim_end_matches(closing).ends_with('?')
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
