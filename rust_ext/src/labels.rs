//! A closed list of labels, and the one that a text names.

use rustc_hash::FxHashMap;

use crate::error::{Error, Result};
use crate::text::normalize;

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

    /// The label that the text is, or the only one it contains as whole words. At each word the
    /// longest label counts; two different labels give null.
    pub fn find(&self, text: &str) -> Option<&str> {
        let spelled = normalize(text);
        self.exact
            .get(&spelled)
            .copied()
            .or_else(|| self.contained(&spelled))
            .map(|i| self.names[i].as_str())
    }

    fn contained(&self, spelled: &str) -> Option<usize> {
        let mut found = None;
        let mut rest = spelled;
        while !rest.is_empty() {
            let (label, length) = self.longest_at(rest);
            if let Some(label) = label {
                if found.is_some_and(|other| other != label) {
                    return None;
                }
                found = Some(label);
            }
            rest = rest[length..].trim_start_matches(' ');
        }
        found
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
        ] {
            assert_eq!(found.find(text), want, "{text:?}");
        }
        assert!(labels(&["yes", "Yes."]).is_err());
        assert!(labels(&["?"]).is_err());
    }
}
