//! The words of a text, with the clauses and sentences that they stand in.

use crate::cues::NEGATIONS;

/// A word: letters and digits with apostrophes between them.
#[derive(Debug, Clone, Copy)]
pub struct Word<'t> {
    pub text: &'t str,
    pub start: usize,
    pub end: usize,
    /// Counted from the start of the text; a clause ends at any mark, a sentence at few.
    pub clause: usize,
    pub sentence: usize,
}

impl Word<'_> {
    pub fn is(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.text.eq_ignore_ascii_case(word))
    }

    /// Whether it turns what comes near into its opposite.
    pub fn denies(&self) -> bool {
        self.is(NEGATIONS) || self.text.ends_with("n't") || self.text.ends_with("n’t")
    }
}

/// The words of a text.
pub fn words(text: &str) -> Vec<Word<'_>> {
    let mut words: Vec<Word<'_>> = Vec::new();
    let (mut clause, mut sentence, mut gap_start, mut closing) = (0, 0, 0, false);
    let mut chars = text.char_indices().peekable();
    while let Some((start, c)) = chars.next() {
        if !c.is_alphanumeric() {
            continue;
        }
        let mut end = start + c.len_utf8();
        while let Some(&(at, c)) = chars.peek() {
            let apostrophe = matches!(c, '\'' | '’')
                && text[at + c.len_utf8()..].chars().next().is_some_and(char::is_alphanumeric);
            if !c.is_alphanumeric() && !apostrophe {
                break;
            }
            end = at + c.len_utf8();
            chars.next();
        }
        let gap = &text[gap_start..start];
        if ends_sentence(gap) {
            sentence += 1;
        }
        // The brackets of "not (B)" part nothing.
        let wrapped = gap.ends_with(['(', '[', '"']) && end - start <= 3;
        let wraps = wrapped && text[end..].starts_with([')', ']', '"']);
        let opening = gap.len() - usize::from(wraps);
        let parting = &gap[usize::from(closing).min(opening)..opening];
        if parting.contains([',', ';', ':', '—', '–', '(', ')', '"', '\n', '.', '!', '?', '|'])
            || parting.contains(" - ")
        {
            clause += 1;
        }
        closing = wraps;
        words.push(Word { text: &text[start..end], start, end, clause, sentence });
        gap_start = end;
    }
    words
}

/// A new line, or a mark that a space follows.
fn ends_sentence(gap: &str) -> bool {
    let mark = gap.find(['.', '!', '?']);
    gap.contains(['\n', '。']) || mark.is_some_and(|at| gap[at..].contains(char::is_whitespace))
}
