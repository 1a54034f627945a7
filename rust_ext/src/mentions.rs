//! The letters that a text speaks of, and how: what `choice` decides by.
//!
//! A letter may be named, named and rejected ("not B", "B is wrong"), or named where it looks like an
//! answer ("(B)", "I pick B", "it is B"). What a text merely holds ("vitamin C") speaks against
//! another letter, never for itself.

use crate::cues::{
    CONNECTIVES, CUES, FAULTS, FILLERS, JOINS, NAMES, PRAISE, REASONS, RETRACTIONS, REVISIONS,
    SUBJECTS, TURNS,
};
use crate::words::{Word, words};

/// A letter that the text names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mention {
    /// Its place among the words.
    pub word: usize,
    /// The option.
    pub option: usize,
    /// "not B", "B is wrong".
    pub rejected: bool,
    /// "(B)", "I pick B".
    pub supported: bool,
}

/// A statement of the form "the answer is B".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Declaration {
    /// The keyword's place among the words.
    pub keyword: usize,
    /// The word that what is declared begins with.
    pub value: usize,
    /// The letter, where it is one.
    pub mention: Option<usize>,
}

/// A text with its words and the letters that it names.
pub struct Reading<'t> {
    pub text: &'t str,
    pub words: Vec<Word<'t>>,
    pub mentions: Vec<Mention>,
}

impl<'t> Reading<'t> {
    /// `option` gives the option that letters stand for, `number` the one that a number does.
    pub fn new(
        text: &'t str,
        option: impl Fn(&str) -> Option<usize>,
        number: impl Fn(&str) -> Option<usize>,
    ) -> Self {
        let mut reading = Self { text, words: words(text), mentions: vec![] };
        for word in 0..reading.words.len() {
            let name = reading.words[word].text;
            let named = match option(name) {
                Some(option) => reading.is_letter(word).then_some(option),
                None => number(name).filter(|_| reading.before(word, 1).is(&["option", "choice"])),
            };
            if let Some(option) = named {
                let rejected = reading.is_rejected(word);
                let supported = reading.is_supported(word);
                reading.mentions.push(Mention { word, option, rejected, supported });
            }
        }
        reading
    }

    /// The n-th word before; an empty one where there is none.
    fn before(&self, word: usize, n: usize) -> Word<'t> {
        self.nth(word.checked_sub(n))
    }

    fn nth(&self, word: Option<usize>) -> Word<'t> {
        let none = Word { text: "", start: 0, end: 0, clause: usize::MAX, sentence: usize::MAX };
        word.and_then(|word| self.words.get(word)).copied().unwrap_or(none)
    }

    /// The characters around a word, mark-up left out.
    fn around(&self, word: usize) -> (Option<char>, Option<char>) {
        let markup = ['*', '_', '`', '$'];
        let word = self.words[word];
        let before = self.text[..word.start].trim_end_matches(markup).chars().next_back();
        let after = self.text[word.end..].trim_start_matches(markup).chars().next();
        (before, after)
    }

    /// "(B)", "[B]", "{B}", "B)", "**B**", "`B`", "'B'".
    fn is_marked(&self, word: usize) -> bool {
        let (before, after) = self.around(word);
        let Word { start, end, .. } = self.words[word];
        let touching = (self.text[..start].chars().next_back(), self.text[end..].chars().next());
        let wrapped =
            matches!(before, Some('(' | '[' | '{')) && matches!(after, Some(')' | ']' | '}'));
        let closed = after == Some(')') && before.is_none_or(char::is_whitespace);
        let paired = matches!(
            touching,
            (Some('*'), Some('*'))
                | (Some('`'), Some('`'))
                | (Some('$'), Some('$'))
                | (Some('"'), Some('"'))
                | (Some('\''), Some('\''))
                | (Some('“'), Some('”'))
        );
        wrapped || closed || paired
    }

    /// Whether letters are an option's, and no article, initial, unit or variable.
    fn is_letter(&self, word: usize) -> bool {
        let Word { text: letters, start, end, .. } = self.words[word];
        if self.is_marked(word) {
            return true;
        }
        let after = &self.text[end..];
        let joined = |text: &str| text.starts_with(|c: char| c.is_alphanumeric());
        // "U.S.", "B-52", "C#", "f(x)", "E = mc²", "25 °C", "100 C".
        let bound = after.starts_with(['#', '+', '(', '=', '_', '^', '%', '°', '\\'])
            || after.trim_start().starts_with('=')
            || after.starts_with(['.', '-', '/', '\''])
                && joined(&after[1..])
                && !after.starts_with('/')
            || self.text[..start].ends_with(['°', '_', '^', '\\', '-', '+', '#'])
            || self.text[..start].ends_with('.') && {
                let rest = &self.text[..start - 1];
                rest.ends_with(|c: char| c.is_alphanumeric())
            };
        let previous = self.before(word, 1);
        let unit = previous.text.ends_with(|c: char| c.is_ascii_digit())
            && &self.text[previous.end..start] == " ";
        if bound || unit {
            return false;
        }
        if !letters.bytes().all(|b| b.is_ascii_uppercase()) {
            // "The answer is b.", "option c".
            let next = self.nth(Some(word + 1));
            let ends = next.clause != self.words[word].clause;
            let named = previous.is(NAMES) && (ends || next.is(CONNECTIVES));
            return letters.len() == 1 && (named || ends && previous.is(&["is", "be"]));
        }
        if !matches!(letters, "A" | "I") {
            return true;
        }
        let next = self.nth(Some(word + 1));
        let stands_alone = after.trim_end().is_empty()
            || after.starts_with([
                ',', '.', ';', ':', '!', '?', '/', '\n', '|', ']', ')', '}', '—', '–',
            ])
            || after.starts_with(" -")
            || after.starts_with(" &")
            || after.starts_with(" (");
        let named =
            previous.is(NAMES) || previous.is(JOINS) && letters == "A" && next.text.is_empty();
        let joins = next.is(CONNECTIVES) && letters == "A";
        stands_alone || named || joins
    }

    fn is_rejected(&self, word: usize) -> bool {
        let me = self.words[word];
        let all_but = self.before(word, 2).is(&["anything", "nothing", "everything", "all", "any"]);
        if self.before(word, 1).is(&["but"]) && all_but {
            return true;
        }
        for n in 1..=4 {
            let before = self.before(word, n);
            if before.clause != me.clause || before.is(TURNS) {
                break;
            }
            if before.denies() {
                let only = self.nth(Some(word - n + 1)).is(&["only"]);
                return !only;
            }
        }
        for n in 1..=4 {
            let after = self.nth(Some(word + n));
            if after.clause != me.clause || after.is(REASONS) {
                break;
            }
            if after.is(FAULTS) || after.denies() {
                return true;
            }
        }
        false
    }

    fn is_supported(&self, word: usize) -> bool {
        let me = self.words[word];
        let (previous, next) = (self.before(word, 1), self.nth(Some(word + 1)));
        if self.is_marked(word) || previous.is(&["option", "choice"]) {
            return true;
        }
        let near = previous.sentence == me.sentence;
        let within = |words: &[&str]| {
            (2..=5).map(|n| self.before(word, n)).any(|w| w.sentence == me.sentence && w.is(words))
        };
        if near && previous.is(CUES)
            || near && previous.is(&["is", "be", "was"]) && within(SUBJECTS)
            || near && previous.is(&["with"]) && within(&["go", "going", "went", "stick", "answer"])
        {
            return true;
        }
        // "B is correct", but not "vitamin C is correct".
        let leads =
            !near || previous.clause != me.clause || previous.is(CUES) || previous.is(&["that"]);
        let praised = next.is(&["is", "seems", "looks", "fits", "sounds", "must", "would"])
            && next.clause == me.clause
            && (1..=5)
                .map(|n| self.nth(Some(word + n)))
                .any(|w| w.sentence == me.sentence && w.is(PRAISE));
        if leads && praised {
            return true;
        }
        // "Okay, B."
        let few = self.words.len() <= 3 && next.text.is_empty() && previous.clause != me.clause;
        let few = few && !self.text[previous.end..me.start].contains(':');
        let opens = word == 0 || !near;
        let gap =
            &self.text[me.end..if next.text.is_empty() { self.text.len() } else { next.start }];
        let parted = !gap.trim_matches(' ').is_empty() || next.text.is_empty();
        // What stands alone in a sentence or opens the text. "E. coli" and "J. K. Rowling" do so too.
        let initial = gap.trim_start_matches(['*', '_', '`']).starts_with('.')
            && !gap.contains('\n')
            && !next.text.is_empty();
        few || opens
            && !initial
            && (next.sentence != me.sentence
                || word == 0 && parted
                || word == 0 && next.is(REASONS))
    }

    /// Where "B. text" begins: the letter's mention and what follows the point.
    pub fn numbered(&self) -> Option<(Mention, &'t str)> {
        let mention = *self.mentions.first()?;
        let rest = self.text[self.words[mention.word].end..].trim_start_matches(['*', '_', '`']);
        let rest = rest.strip_prefix('.')?;
        (mention.word == 0).then(|| (mention, rest.trim_start_matches(['*', '_', '`', ' '])))
    }

    /// The first mention from a word on.
    fn mention_from(&self, word: usize) -> usize {
        self.mentions.partition_point(|mention| mention.word < word)
    }

    /// Where what an answer is said to be begins, by what an answer may be called, and whether it is
    /// only supposed ("would be"); values that are denied before they are named are left out.
    pub fn values(&self, names: &[&str]) -> Vec<(usize, bool)> {
        let keywords = (0..self.words.len()).filter(|&at| self.words[at].is(names));
        let found = keywords.filter_map(|keyword| {
            let (value, denied) = self.value_of(keyword)?;
            let supposed = self.words[keyword..value.min(self.words.len())]
                .iter()
                .any(|word| word.is(&["would", "could", "might", "may", "should"]));
            (!denied).then_some((value, supposed))
        });
        found.collect()
    }

    /// The statements "answer: B" and "the answer … is B", in their order. Those that are denied
    /// ("the answer is not B", "a wrong answer is B") reject their letter instead.
    pub fn declarations(&mut self) -> Vec<Declaration> {
        let mut found = Vec::new();
        for keyword in 0..self.words.len() {
            if !self.words[keyword].is(&["answer", "ans"]) {
                continue;
            }
            match self.declared(keyword) {
                Some((declaration, false)) => found.push(declaration),
                Some((Declaration { mention: Some(mention), .. }, true)) => {
                    self.mentions[mention].rejected = true;
                }
                _ => {}
            }
        }
        found
    }

    /// Where the value of a keyword begins, and whether that is denied before it.
    fn value_of(&self, keyword: usize) -> Option<(usize, bool)> {
        let me = self.words[keyword];
        let mut denied = false;
        for n in 1..=6 {
            let before = self.before(keyword, n);
            if before.sentence != me.sentence || before.clause != me.clause || before.is(TURNS) {
                break;
            }
            // What is only supposed declares nothing.
            if before.is(&["if", "whether", "suppose", "assume", "assuming"]) {
                return None;
            }
            denied |= before.denies();
        }
        let mut value = None;
        for n in 1..=9 {
            let word = self.nth(Some(keyword + n));
            let gap = self.text.get(self.before(keyword + n, 1).end..word.start).unwrap_or("");
            if word.text.is_empty() {
                break;
            }
            if gap.contains([':', '=', '→', '>'])
                || n == 1 && gap.contains(['(', '[', '-', '*', '{'])
            {
                value = Some(keyword + n);
                break;
            }
            if word.sentence != me.sentence {
                break;
            }
            if n == 1 && self.is_mention(keyword + n) {
                value = Some(keyword + n);
                break;
            }
            denied |= word.denies();
            if word.is(&["is", "be", "was", "equals"]) {
                value = Some(keyword + n + 1);
                break;
            }
        }
        Some((value?, denied))
    }

    /// What a keyword declares, and whether that is denied.
    fn declared(&self, keyword: usize) -> Option<(Declaration, bool)> {
        let (value, mut denied) = self.value_of(keyword)?;
        let start = self.nth(Some(value));
        for n in 0..12 {
            let at = value + n;
            let word = self.nth(Some(at));
            if word.text.is_empty() || word.sentence != start.sentence {
                break;
            }
            let pronoun = word.text == "I" && self.nth(Some(at + 1)).is(FILLERS);
            if !pronoun && self.is_mention(at) {
                let mention = Some(self.mention_from(at));
                return Some((Declaration { keyword, value, mention }, denied));
            }
            denied |= word.denies();
            if !(word.is(FILLERS) || word.denies()) {
                break;
            }
        }
        Some((Declaration { keyword, value, mention: None }, denied))
    }

    fn is_mention(&self, word: usize) -> bool {
        self.mentions.get(self.mention_from(word)).is_some_and(|mention| mention.word == word)
    }

    /// Whether a second declaration takes the place of the first: a word says so between the two
    /// ("no", "so", "actually"), and no new question begins.
    pub fn revises(&self, first: usize, second: usize) -> bool {
        let between = &self.words[first..second];
        let question = between.iter().any(|word| word.is(&["question", "q"]));
        !question && between.iter().any(|word| word.is(REVISIONS))
    }

    /// Whether another letter is named in the sentence of a mention, or right after it.
    pub fn rivals_within_sentence(&self, mention: Mention) -> bool {
        let sentence = self.words[mention.word].sentence;
        let after = &self.mentions[self.mention_from(mention.word + 1)..];
        let mut after = after.iter().filter(|m| !m.rejected && m.option != mention.option);
        after.next().is_some_and(|m| self.words[m.word].sentence == sentence)
    }

    /// Whether what comes later takes a mention back: "B. Wait, it is C."
    pub fn is_taken_back(&self, mention: Mention) -> bool {
        let later = &self.words[mention.word + 1..];
        let doubt = later.iter().position(|word| word.is(RETRACTIONS));
        doubt.is_some_and(|doubt| {
            let from = self.mention_from(mention.word + 1 + doubt);
            self.mentions[from..].iter().any(|m| !m.rejected && m.option != mention.option)
        })
    }
}
