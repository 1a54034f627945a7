//! Which option of a multiple-choice question a text picks.
//!
//! A text that picks none, or could be said to pick two, gives null: a wrong vote costs more than a
//! missing one. How letters are found is `mentions`; here stands what follows from them.

use crate::arrays::Chunked;
use crate::cues::{DENIALS, EXPLAINS};
use crate::fold::{fold, is_invisible};
use crate::mentions::{Declaration, Mention, Reading};
use crate::statements::boxed;
use crate::text::normalize_leading as normalize;
use crate::texts::TextLists;
use crate::words::words;

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

/// What a rule finds: an option, nothing, or that the text speaks for two.
enum Found {
    One(usize),
    None,
    Conflict,
}

impl<'a> Options<'a> {
    /// Without a source letters alone can be read.
    pub fn new(source: Option<&'a Chunked<TextLists>>) -> Self {
        Self { source, row: 0, count: LETTERS, texts: vec![], spelled: source.is_none() }
    }

    /// The option that the text picks. What follows the last `</think>`, or stands in the last
    /// `\boxed{…}`, is read alone. In this order:
    ///
    /// 1. a letter alone, in any brackets: "B", "(b)", "B.", "**B**";
    /// 2. the text of an option;
    /// 3. its number from 1 on, alone, where no option is a number itself: "2", "(2)";
    /// 4. what an "answer" is said to be: "Answer: B", "the answer is London"; where two are said
    ///    the last one, if a word such as "no" or "so" says that it is;
    /// 5. the only letter that is picked: "B) text", "I take (B)", "option B", "it is B", "B is right";
    /// 6. the only option whose text is contained, in whole words.
    ///
    /// Null where the row's list of options is, where another letter is named beside the one that is
    /// picked ("A or B"), and where that one is denied ("not B", "B is wrong").
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
        let text = fold(text);
        let thought = text.rfind("</think>").map_or(0, |at| at + "</think>".len());
        let text = text[thought..].trim();
        if let Some(found) = boxed(text).and_then(|boxed| self.said(boxed)) {
            return Some(found);
        }
        match self.said(text) {
            Some(found) => Some(found),
            None => self.spoken_of(text),
        }
    }

    /// The option that the text is: by its letter, its text or its number.
    fn said(&mut self, text: &str) -> Option<usize> {
        let found = self.alone(text);
        // "A. mammal" is option A with its text; "A mammal" would be the text alone.
        let lettered = text.trim_start_matches(['(', '*']).as_bytes().get(1);
        let text_of = |me: &mut Self| match lettered {
            Some(b'.' | b')' | b':') => None,
            _ => me.by_text(text),
        };
        found.or_else(|| text_of(self)).or_else(|| self.by_number(text))
    }

    /// The option that the text speaks of.
    fn spoken_of(&mut self, text: &str) -> Option<usize> {
        self.spell();
        if self.texts.is_empty() && !names_letters(text) {
            return None;
        }
        let numbered = self.numbers_count();
        let option = |word: &str| {
            let letters = word.len() == 1 || word.bytes().all(|b| b.is_ascii_uppercase());
            self.valid(word).filter(|_| letters)
        };
        let number = |word: &str| numbered.then(|| self.number(word)).flatten();
        let mut reading = Reading::new(text, option, number);
        let declarations = reading.declarations();
        match self.declared(&reading, &declarations) {
            Found::One(option) => return Some(option),
            Found::Conflict => return None,
            Found::None => {}
        }
        match self.picked(&reading) {
            Found::One(option) => {
                let other = self.contained(text).filter(|other| *other != option);
                other.is_none().then_some(option)
            }
            Found::Conflict => None,
            Found::None => self.contained(text).filter(|&option| self.is_free(&reading, option)),
        }
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

    fn by_number(&mut self, text: &str) -> Option<usize> {
        self.spell();
        self.numbers_count().then(|| self.number(bare(text))).flatten()
    }

    fn number(&self, number: &str) -> Option<usize> {
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let number: usize = number.parse().ok().filter(|_| digits)?;
        (1..=self.count).contains(&number).then(|| number - 1)
    }

    /// Whether a number can stand for an option: not where an option is a number itself.
    fn numbers_count(&self) -> bool {
        let is_number = |text: &String| text.bytes().any(|b| b.is_ascii_digit());
        self.source.is_some() && !self.texts.iter().any(is_number)
    }

    fn declared(&mut self, reading: &Reading<'_>, declarations: &[Declaration]) -> Found {
        let of = |d: &Declaration| d.mention.map(|mention| reading.mentions[mention]);
        let lettered: Vec<(&Declaration, Mention)> =
            declarations.iter().filter_map(|d| Some((d, of(d)?))).collect();
        let Some(&(_, mention)) = lettered.last() else {
            return self.declared_text(reading, declarations);
        };
        let other = lettered.iter().rev().find(|(_, m)| m.option != mention.option);
        if let Some((other, _)) = other
            && !reading.revises(other.value, mention.word)
        {
            return Found::Conflict;
        }
        let contradicted = reading.rivals_within_sentence(mention)
            || reading.is_taken_back(mention)
            || self.contradicts_text(reading, mention);
        if contradicted { Found::Conflict } else { Found::One(mention.option) }
    }

    /// "The answer is London", "Answer: 2".
    fn declared_text(&mut self, reading: &Reading<'_>, declarations: &[Declaration]) -> Found {
        let Some(last) = declarations.last() else { return Found::None };
        let Some(first) = reading.words.get(last.value) else { return Found::None };
        let rest = &reading.text[first.start..];
        let line = rest.lines().next().unwrap_or("");
        let sentence = line.split_inclusive(['.', '!', '?', ';']).next().unwrap_or("");
        let clause = line.split([',', '.', ';', ':', '(', '!', '?']).next().unwrap_or("");
        let found = [line, sentence, clause].iter().find_map(|text| self.said(text));
        match found {
            Some(found) if self.is_free(reading, found) => Found::One(found),
            Some(_) => Found::Conflict,
            None => Found::None,
        }
    }

    /// The only letter that is picked, and that no other one is named beside.
    fn picked(&mut self, reading: &Reading<'_>) -> Found {
        let mut mentions = reading.mentions.clone();
        if let Some((mention, rest)) = reading.numbered() {
            // "B. London", and not "E. coli": its text, or the beginning of a sentence, follows.
            mentions[0].supported |= self.begins(rest, mention.option);
        }
        let standing = || mentions.iter().filter(|mention| !mention.rejected);
        let Some(found) = standing().find(|mention| mention.supported) else { return Found::None };
        let rival = standing().any(|mention| mention.option != found.option);
        if rival || self.contradicts_text(reading, *found) {
            return Found::Conflict;
        }
        Found::One(found.option)
    }

    /// Whether what follows "B." is that option's text, or an explanation.
    fn begins(&self, rest: &str, option: usize) -> bool {
        let spelled = |text: &String| !text.is_empty() && starts_with(&normalize(rest), text);
        let first = words(rest.lines().next().unwrap_or(""));
        first.first().is_none_or(|word| word.is(EXPLAINS))
            || self.texts.get(option).is_some_and(spelled)
    }

    /// Whether a letter is followed by another option's text: "B) Paris" where Paris is A.
    fn contradicts_text(&mut self, reading: &Reading<'_>, mention: Mention) -> bool {
        let rest = &reading.text[reading.words[mention.word].end..];
        let line = rest.lines().next().unwrap_or("");
        let part = line.split(['(', ')', ',', ';']).find(|part| !bare(part).is_empty());
        let texts = [Some(line), part];
        let mut others = texts.into_iter().flatten().filter_map(|text| self.by_text(text));
        others.any(|other| other != mention.option)
    }

    /// Whether no letter speaks against an option that was found by its text.
    fn is_free(&self, reading: &Reading<'_>, option: usize) -> bool {
        let own = self.texts.get(option).map_or("", String::as_str);
        reading.mentions.iter().filter(|m| !m.rejected).all(|mention| {
            let letter = reading.words[mention.word].text.to_ascii_lowercase();
            // A letter within the option's text is no other; where it is all of it, who knows.
            mention.option == option || own != letter && own.split(' ').any(|word| word == letter)
        })
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
        // "It is not London."
        let own = format!(" {} ", self.texts[found?]);
        let rest = padded.replace(&own, " ");
        found.filter(|_| !rest.split(' ').any(|word| DENIALS.contains(&word)))
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

/// Whether a letter stands alone somewhere, the pronoun left out: most texts without an answer have
/// none, and need no closer look.
fn names_letters(text: &str) -> bool {
    let bytes = text.as_bytes();
    let word = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    (0..bytes.len()).any(|i| {
        let (before, after) = (i.checked_sub(1).and_then(|i| bytes.get(i)), bytes.get(i + 1));
        let pronoun = bytes[i] == b'I'
            && after == Some(&b' ')
            && bytes.get(i + 2).is_some_and(u8::is_ascii_lowercase);
        bytes[i].is_ascii_alphabetic() && !word(before) && !word(after) && !pronoun
    })
}

fn holds(long: &str, short: &str) -> bool {
    format!(" {long} ").contains(&format!(" {short} "))
}

fn starts_with(text: &str, words: &str) -> bool {
    text.strip_prefix(words).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

/// The text without brackets, quotes, mark-up and final punctuation.
fn bare(text: &str) -> &str {
    let text = text.trim_matches(|c: char| {
        c.is_whitespace()
            || matches!(c, '(' | ')' | '[' | ']' | '{' | '}' | '*' | '_' | '`' | '"' | '\'' | '.')
            || matches!(c, ',' | ':' | ';' | '!' | '$' | '“' | '”' | '#' | '<' | '>')
            || is_invisible(c)
    });
    // LaTeX: \\text{B}.
    text.strip_prefix("\\text{").or_else(|| text.strip_prefix("\\mathbf{")).unwrap_or(text)
}

#[cfg(test)]
#[path = "choice_tests.rs"]
mod tests;
