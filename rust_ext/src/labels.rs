//! A closed list of labels, and where they stand in a text. What a reply says of them: `label_replies`.

use rustc_hash::FxHashMap;

use crate::cues::FILLERS;
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

    /// The labels, as they were given.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// The label that a text is, however it is spelled.
    pub(crate) fn is(&self, text: &str) -> Option<usize> {
        self.exact.get(&normalize(text)).copied()
    }

    /// The label that a normalised text begins with, words such as "probably" left out, and its end.
    pub(crate) fn after_fillers(&self, spelled: &str) -> Option<(usize, usize)> {
        let mut at = 0;
        while at < spelled.len() {
            let (label, length) = self.longest_at(&spelled[at..]);
            if let Some(label) = label {
                return Some((label, at + length));
            }
            if !FILLERS.contains(&&spelled[at..at + length]) {
                return None;
            }
            at = (at + length + 1).min(spelled.len());
        }
        None
    }

    /// Calls `each` with every label of a normalised text and its words, or with a word between them.
    pub(crate) fn scan<'t>(&self, spelled: &'t str, mut each: impl FnMut(Option<usize>, &'t str)) {
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
