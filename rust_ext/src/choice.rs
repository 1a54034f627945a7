//! Which option of a multiple-choice question a text picks.

use crate::arrays::Chunked;
use crate::text::normalize;
use crate::texts::TextLists;

/// Without options any single letter is taken.
const LETTERS: usize = 26;

/// The letter of an option, A … Z, AA, AB, …, into `out`.
pub fn letter_into(index: usize, out: &mut String) {
    out.clear();
    if index < LETTERS {
        out.push(char::from(b'A' + index as u8));
        return;
    }
    let mut rest = index + 1;
    while rest > 0 {
        out.insert(0, char::from(b'A' + ((rest - 1) % 26) as u8));
        rest = (rest - 1) / 26;
    }
}

/// The inverse of `letter_into`, in either case.
fn index_of(letters: &str) -> Option<usize> {
    if letters.is_empty() || letters.len() > 3 {
        return None;
    }
    let mut index = 0;
    for b in letters.bytes() {
        if !b.is_ascii_alphabetic() {
            return None;
        }
        index = index * 26 + usize::from(b.to_ascii_uppercase() - b'A') + 1;
    }
    Some(index - 1)
}

/// The options of each row, or of none.
pub struct Options<'a> {
    source: Option<&'a Chunked<TextLists>>,
    row: usize,
    count: usize,
    /// The normalised options of `row`. Most texts are letters, so it is filled when one is not.
    texts: Vec<String>,
    spelled: bool,
}

impl<'a> Options<'a> {
    /// Without a source letters alone can be read.
    pub fn new(source: Option<&'a Chunked<TextLists>>) -> Self {
        Self { source, row: 0, count: LETTERS, texts: vec![], spelled: source.is_none() }
    }

    /// The option that the text picks. In this order:
    ///
    /// 1. a letter alone, in any brackets: "B", "(b)", "B.", "**B**";
    /// 2. the text of an option;
    /// 3. a number from 1 to the number of options, alone: "2", "(2)";
    /// 4. a letter that opens the text: "B) text", "(B) text", "B. text", "B: text";
    /// 5. what follows the last "answer", "option" or "choice" ("The answer is B"), by rules 1 to 4
    ///    or as an upper-case letter;
    /// 6. the last letter in brackets: "I take (B) then";
    /// 7. the only upper-case letter that stands alone ("A" and "I" are words and do not count);
    /// 8. the only option whose text is contained, in whole words.
    ///
    /// Null where the row's list of options is.
    pub fn choose(&mut self, text: &str, row: usize) -> Option<usize> {
        if let Some(source) = self.source {
            self.count = source.count(row)?;
            self.spelled = false;
            self.row = row;
        }
        // Most texts: nothing to trim.
        if text.len() == 1
            && let Some(index) = self.alone(text)
        {
            return Some(index);
        }
        let text = text.trim();
        self.alone(text)
            .or_else(|| self.by_text(text))
            .or_else(|| self.by_number(text))
            .or_else(|| self.opening(text))
            .or_else(|| self.after_keyword(text))
            .or_else(|| self.in_brackets(text))
            .or_else(|| self.only_capital(text))
            .or_else(|| self.contained(text))
    }

    fn valid(&self, letters: &str) -> Option<usize> {
        index_of(letters).filter(|&i| i < self.count)
    }

    fn alone(&self, text: &str) -> Option<usize> {
        if let &[b] = text.as_bytes() {
            let index = usize::from(b.to_ascii_uppercase().wrapping_sub(b'A'));
            return (index < self.count.min(LETTERS)).then_some(index);
        }
        self.valid(bare(text))
    }

    fn by_text(&mut self, text: &str) -> Option<usize> {
        self.spell();
        let spelled = if self.texts.is_empty() { String::new() } else { normalize(text) };
        if spelled.is_empty() {
            return None;
        }
        // Two options of one text cannot be told apart.
        let mut same = self.texts.iter().enumerate().filter(|(_, option)| **option == spelled);
        let found = same.next()?.0;
        same.next().is_none().then_some(found)
    }

    fn by_number(&self, text: &str) -> Option<usize> {
        let number = bare(text);
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let number: usize = number.parse().ok()?;
        (1..=self.count).contains(&number).then(|| number - 1)
    }

    fn opening(&self, text: &str) -> Option<usize> {
        let text = text.trim_start_matches(['*', '_', '`', '"', '\'', ' ']);
        let inner = text.strip_prefix(['(', '[']);
        let bracketed = inner.is_some();
        let text = inner.unwrap_or(text);
        let end = text.find(|c: char| !c.is_ascii_alphabetic())?;
        let (letters, rest) = text.split_at(end);
        let closes = if bracketed {
            rest.starts_with([')', ']'])
        } else {
            let marked = rest.trim_start_matches(['*', '_', '`']);
            marked.starts_with([')', ':'])
                // "a. b" may begin a sentence; an initial such as "J." is upper-case, and is read.
                || marked.starts_with('.') && letters.bytes().all(|b| b.is_ascii_uppercase())
        };
        if closes { self.valid(letters) } else { None }
    }

    fn after_keyword(&mut self, text: &str) -> Option<usize> {
        let rest = after_last_keyword(text)?;
        let first_word = rest.split_whitespace().next().unwrap_or("");
        let letters = bare(first_word);
        self.alone(rest)
            .or_else(|| self.by_text(rest))
            .or_else(|| self.by_number(rest))
            .or_else(|| self.opening(rest))
            .or_else(|| {
                let upper = letters.bytes().all(|b| b.is_ascii_uppercase());
                if upper { self.valid(letters) } else { None }
            })
    }

    fn in_brackets(&self, text: &str) -> Option<usize> {
        let mut last = None;
        for (open, _) in text.match_indices(['(', '[']) {
            let inside = &text[open + 1..];
            if let Some(close) = inside.find([')', ']']) {
                last = self.valid(bare(&inside[..close])).or(last);
            }
        }
        last
    }

    fn only_capital(&self, text: &str) -> Option<usize> {
        let mut found = None;
        for word in text.split(|c: char| !c.is_alphanumeric() && !matches!(c, '\'' | '’')) {
            if word.len() != 1 || !word.as_bytes()[0].is_ascii_uppercase() {
                continue;
            }
            if matches!(word, "A" | "I") {
                continue;
            }
            if let Some(index) = self.valid(word) {
                if found.is_some_and(|other| other != index) {
                    return None;
                }
                found = Some(index);
            }
        }
        found
    }

    fn contained(&mut self, text: &str) -> Option<usize> {
        self.spell();
        if self.texts.is_empty() {
            return None;
        }
        let padded = format!(" {} ", normalize(text));
        let within = |option: &str| !option.is_empty() && padded.contains(&format!(" {option} "));
        let mut found: Option<usize> = None;
        for (i, option) in self.texts.iter().enumerate().filter(|(_, option)| within(option)) {
            found = match found {
                None => Some(i),
                // "New York City" holds "New York": the longer one is meant.
                Some(j) if self.texts[j].len() > option.len() && holds(&self.texts[j], option) => {
                    Some(j)
                }
                Some(j) if option.len() > self.texts[j].len() && holds(option, &self.texts[j]) => {
                    Some(i)
                }
                Some(_) => return None,
            };
        }
        found
    }

    fn spell(&mut self) {
        if !self.spelled {
            self.texts.clear();
            let options = self.source.and_then(|source| source.get(self.row));
            self.texts.extend(options.into_iter().flatten().map(normalize));
            self.spelled = true;
        }
    }
}

fn holds(long: &str, short: &str) -> bool {
    format!(" {long} ").contains(&format!(" {short} "))
}

/// The text without brackets, quotes, mark-up and final punctuation.
fn bare(text: &str) -> &str {
    text.trim_matches(|c: char| {
        c.is_whitespace()
            || matches!(c, '(' | ')' | '[' | ']' | '{' | '}' | '*' | '_' | '`' | '"' | '\'' | '.')
            || matches!(c, ',' | ':' | ';' | '!')
    })
}

/// What follows the last "answer", "option" or "choice", with "is", ":" and the like left out.
fn after_last_keyword(text: &str) -> Option<&str> {
    let at = last_keyword_end(text)?;
    let mut rest = text[at..].trim_start();
    loop {
        let shorter = rest.trim_start_matches([':', '=', '-', '*', '"', '\'', ' ']);
        let shorter = ["is", "would be", "must be", "should be", "was"]
            .iter()
            .find_map(|word| {
                let after = shorter.strip_prefix(word)?;
                after.starts_with([' ', ':']).then_some(after)
            })
            .unwrap_or(shorter);
        if shorter.len() == rest.len() {
            return Some(rest.trim());
        }
        rest = shorter;
    }
}

fn last_keyword_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let is_letter = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_alphabetic);
    (0..bytes.len()).rev().find_map(|at| {
        if at > 0 && is_letter(at - 1) {
            return None;
        }
        ["answer", "option", "choice"].iter().find_map(|word| {
            let end = at + word.len();
            let found = bytes.get(at..end)?.eq_ignore_ascii_case(word.as_bytes());
            (found && !is_letter(end)).then_some(end)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::Control;
    use crate::texts::text_lists;
    use arrow_array::ArrayRef;
    use arrow_array::builder::{ListBuilder, StringBuilder};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn letter(index: usize) -> String {
        let mut letters = String::new();
        letter_into(index, &mut letters);
        letters
    }

    fn choose(text: &str, options: &[&str]) -> Option<String> {
        let mut lists = ListBuilder::new(StringBuilder::new());
        lists.append_value(options.iter().map(|option| Some(*option)));
        let array: ArrayRef = Arc::new(lists.finish());
        let lists = text_lists(&[array], &Control::default()).unwrap();
        Options::new(Some(&lists)).choose(text, 0).map(letter)
    }

    #[test]
    fn options_are_picked_by_letter_number_or_text() {
        let cities = ["Paris", "London", "New York", "New York City"];
        for (text, want) in [
            ("B", Some("B")),
            (" b ", Some("B")),
            ("(b)", Some("B")),
            ("B.", Some("B")),
            ("**B**", Some("B")),
            ("B) London", Some("B")),
            ("(B) London", Some("B")),
            ("B: because", Some("B")),
            ("b) because", Some("B")),
            ("The answer is B", Some("B")),
            ("The correct answer is (C), as said.", Some("C")),
            ("Answer: A because of the river", Some("A")),
            ("answer: london", Some("B")),
            ("Option D", Some("D")),
            ("answer A? No, answer: C", Some("C")),
            ("2", Some("B")),
            ("(4)", Some("D")),
            ("5", None),
            ("0", None),
            ("E", None),
            ("paris", Some("A")),
            ("It is London!", Some("B")),
            ("It is New York City", Some("D")),
            ("Paris or London", None),
            ("I would go with C here", Some("C")),
            ("B or C", None),
            ("A mammal", None),
            ("", None),
            ("…", None),
        ] {
            assert_eq!(choose(text, &cities).as_deref(), want, "{text:?}");
        }
    }

    #[test]
    fn the_text_of_an_option_goes_before_its_number() {
        assert_eq!(choose("4", &["2", "4", "6", "8"]).as_deref(), Some("B"));
        assert_eq!(choose("C", &["A", "C", "D", "K"]).as_deref(), Some("C"));
        assert_eq!(choose("same", &["same", "Same."]), None);
    }

    #[test]
    fn letters_go_on_after_z() {
        let names: Vec<String> = [0, 25, 26, 51, 52, 701, 702].map(letter).into();
        assert_eq!(names, ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]);
        for i in (0..18_000).step_by(7) {
            assert_eq!(index_of(&letter(i)), Some(i));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_safe(text in any::<String>(), options in prop::collection::vec(any::<String>(), 0..5)) {
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            if let Some(found) = choose(&text, &options) {
                prop_assert!(index_of(&found).unwrap() < options.len());
            }
        }
    }
}
