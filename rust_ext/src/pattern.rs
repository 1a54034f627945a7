//! Finds the part of a response that is the answer, by the task's regular expression.
//!
//! Most patterns are a plain sequence ("answer", spaces, ":", one group), for which the general
//! engine is a large machine: such a pattern is matched step by step, at many times the speed, on
//! ASCII texts. Both ways give the same match; a test holds them against each other.

use std::ops::Range;

use regex::{CaptureLocations, Regex, RegexBuilder};
use regex_syntax::hir::{Class, Hir, HirKind, Look};

use crate::error::{Error, Result};
use crate::parallel::{Control, Pace};

/// A compiled pattern: the last match's last group that took part is the candidate.
pub struct Pattern {
    regex: Regex,
    locations: CaptureLocations,
    sequence: Option<Sequence>,
}

impl Clone for Pattern {
    // Each thread needs buffers of its own.
    fn clone(&self) -> Self {
        let regex = self.regex.clone();
        Self { locations: regex.capture_locations(), regex, sequence: self.sequence.clone() }
    }
}

impl Pattern {
    pub fn new(pattern: &str) -> Result<Self> {
        let regex = RegexBuilder::new(pattern)
            .size_limit(32 << 20)
            .build()
            .map_err(|error| Error::input(format!("pattern: {error}")))?;
        let sequence = regex_syntax::parse(pattern).ok().and_then(|hir| Sequence::new(&hir));
        Ok(Self { locations: regex.capture_locations(), regex, sequence })
    }

    /// The candidate, or the whole text where the pattern does not match.
    ///
    /// Linear in the text where the pattern is a plain sequence. The general engine is linear for
    /// each match, and may look far ahead of each: it looks at the control as it goes.
    pub fn candidate<'t>(&mut self, text: &'t str, control: &Control) -> Result<&'t str> {
        let short = match &self.sequence {
            Some(sequence) if text.is_ascii() => sequence.last(text.as_bytes()),
            _ => Err(TooFar),
        };
        let found = match short {
            Ok(found) => found,
            Err(TooFar) => self.last(text, control)?,
        };
        Ok(found.map_or(text, |(start, end)| &text[start..end]))
    }

    /// The candidate of a text where there may be no pattern: then it is the whole text.
    pub fn narrow<'t>(
        pattern: &mut Option<Self>,
        text: &'t str,
        control: &Control,
    ) -> Result<&'t str> {
        pattern.as_mut().map_or(Ok(text), |pattern| pattern.candidate(text, control))
    }

    fn last(&mut self, text: &str, control: &Control) -> Result<Option<(usize, usize)>> {
        let mut last = None;
        let mut pace = Pace::new(control);
        for found in self.regex.find_iter(text) {
            // A match may have looked at all that follows it.
            pace.spend(text.len() - found.start())?;
            last = Some(found);
        }
        let Some(last) = last else { return Ok(None) };
        let whole = (last.start(), last.end());
        if self.regex.captures_len() == 1 {
            return Ok(Some(whole));
        }
        self.regex.captures_read_at(&mut self.locations, text, last.start());
        let mut groups = (0..self.locations.len()).rev();
        Ok(Some(groups.find_map(|group| self.locations.get(group)).unwrap_or(whole)))
    }
}

/// A sequence has read many bytes in vain, and is no short way on this text.
struct TooFar;

/// Bytes that attempts which came to nothing may have read, as a multiple of the text's.
const MOST_IN_VAIN: usize = 4;

#[derive(Clone)]
enum Item {
    /// Up to eight bytes, each of a class that is one byte or a letter in either case: compared as
    /// one number.
    Word(Word),
    /// From `min` to `max` bytes of a class, as many as there are.
    Step {
        class: Box<[bool; 256]>,
        min: usize,
        max: usize,
    },
    Look(Look),
}

/// The text's next `length` bytes match where `bytes & mask == value`; both are 0 beyond them.
#[derive(Clone, Copy)]
struct Word {
    mask: [u8; 8],
    value: [u8; 8],
    length: usize,
}

impl Word {
    #[inline]
    fn matches(&self, text: &[u8], at: usize) -> bool {
        if let Some(bytes) = text.get(at..).and_then(<[u8]>::first_chunk) {
            let number = u64::from_ne_bytes;
            return number(*bytes) & number(self.mask) == number(self.value);
        }
        let Some(bytes) = text.get(at..at + self.length) else { return false };
        let pairs = self.mask.iter().zip(&self.value);
        bytes.iter().zip(pairs).all(|(b, (mask, value))| b & mask == *value)
    }
}

/// A pattern without alternatives, in which a repeated class never holds a byte that could also
/// begin what follows it: then taking as many as there are is right at the first try.
#[derive(Clone)]
struct Sequence {
    before: Vec<Item>,
    /// What the last group matches; all of it where there is no group.
    group: Vec<Item>,
    after: Vec<Item>,
    /// Which bytes a match can begin with.
    first: Box<[bool; 256]>,
}

impl Sequence {
    fn new(hir: &Hir) -> Option<Self> {
        let mut items = Vec::new();
        let groups = hir.properties().explicit_captures_len();
        let mut group = 0..0;
        flatten(hir, groups as u32, &mut items, &mut group)?;
        if groups == 0 {
            group = 0..items.len();
        }
        for (i, item) in items.iter().enumerate() {
            if let Item::Step { class, min, max } = item
                && min != max
                && !is_decided(class, &items[i + 1..])
            {
                return None;
            }
        }
        let first = items.iter().find_map(|item| match item {
            Item::Step { class, min, .. } => Some((*min > 0).then(|| class.clone())),
            _ => None,
        })??;
        Some(Self {
            before: with_words(&items[..group.start]),
            group: with_words(&items[group.clone()]),
            after: with_words(&items[group.end..]),
            first,
        })
    }

    /// The last of the matches from left to right, its last group.
    fn last(&self, text: &[u8]) -> std::result::Result<Option<(usize, usize)>, TooFar> {
        let mut last = None;
        let mut at = 0;
        let mut in_vain = 0;
        while at < text.len() {
            if self.first[text[at] as usize] {
                match self.match_at(text, at) {
                    Ok((group, end)) => {
                        last = Some(group);
                        // The first step takes a byte at least, so a match is never empty.
                        at = end;
                        continue;
                    }
                    Err(reached) => in_vain += reached - at,
                }
                if in_vain > MOST_IN_VAIN * text.len() + MOST_IN_VAIN {
                    return Err(TooFar);
                }
            }
            at += 1;
        }
        Ok(last)
    }

    /// The last group's place and the end of a match that begins here, or how far it went.
    #[inline]
    fn match_at(
        &self,
        text: &[u8],
        at: usize,
    ) -> std::result::Result<((usize, usize), usize), usize> {
        let start = run(&self.before, text, at)?;
        let end = run(&self.group, text, start)?;
        Ok(((start, end), run(&self.after, text, end)?))
    }
}

/// Where the items end that begin here, or else how far they match.
#[inline]
fn run(items: &[Item], text: &[u8], mut at: usize) -> std::result::Result<usize, usize> {
    for item in items {
        match item {
            Item::Word(word) => {
                if !word.matches(text, at) {
                    return Err(at);
                }
                at += word.length;
            }
            Item::Step { class, min: 1, max: 1 } => {
                if !text.get(at).is_some_and(|b| class[usize::from(*b)]) {
                    return Err(at);
                }
                at += 1;
            }
            Item::Step { class, min, max } => {
                let rest = &text[at..text.len().min(at.saturating_add(*max))];
                let taken = rest.iter().take_while(|b| class[**b as usize]).count();
                if taken < *min {
                    return Err(at + taken);
                }
                at += taken;
            }
            Item::Look(look) => {
                let word =
                    |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
                let before = at.checked_sub(1).and_then(|i| text.get(i));
                let holds = match look {
                    Look::Start => at == 0,
                    Look::End => at == text.len(),
                    _ => word(before) != word(text.get(at)),
                };
                if !holds {
                    return Err(at);
                }
            }
        }
    }
    Ok(at)
}

/// The items of a pattern, and which of them its last group holds.
fn flatten(
    hir: &Hir,
    last_group: u32,
    items: &mut Vec<Item>,
    group: &mut Range<usize>,
) -> Option<()> {
    match hir.kind() {
        HirKind::Empty => {}
        HirKind::Literal(literal) => {
            for &b in &*literal.0 {
                let mut class = Box::new([false; 256]);
                class[usize::from(b)] = true;
                items.push(Item::Step { class, min: 1, max: 1 });
            }
        }
        HirKind::Class(class) => {
            items.push(Item::Step { class: ascii(class), min: 1, max: 1 });
        }
        HirKind::Look(look @ (Look::Start | Look::End | Look::WordUnicode | Look::WordAscii)) => {
            items.push(Item::Look(*look));
        }
        HirKind::Repetition(repetition) if repetition.greedy => {
            let HirKind::Class(class) = repetition.sub.kind() else {
                return one_byte(repetition, items);
            };
            items.push(Item::Step {
                class: ascii(class),
                min: repetition.min as usize,
                max: repetition.max.map_or(usize::MAX, |max| max as usize),
            });
        }
        HirKind::Capture(capture) => {
            let start = items.len();
            flatten(&capture.sub, last_group, items, group)?;
            if capture.index == last_group {
                *group = start..items.len();
            }
        }
        HirKind::Concat(parts) => {
            for part in parts {
                flatten(part, last_group, items, group)?;
            }
        }
        _ => return None,
    }
    Some(())
}

/// The same items, with runs of two to eight single bytes as words.
fn with_words(items: &[Item]) -> Vec<Item> {
    let mut out = Vec::with_capacity(items.len());
    let mut rest = items;
    while let Some(item) = rest.first() {
        let mut word = Word { mask: [0; 8], value: [0; 8], length: 0 };
        for (mask, value) in rest.iter().map_while(Item::mask).take(8) {
            (word.mask[word.length], word.value[word.length]) = (mask, value);
            word.length += 1;
        }
        out.push(if word.length > 1 { Item::Word(word) } else { item.clone() });
        rest = &rest[word.length.max(1)..];
    }
    out
}

impl Item {
    /// `b & mask == value` for the bytes of a single step of one byte, or of two that differ in one
    /// bit.
    fn mask(&self) -> Option<(u8, u8)> {
        let Self::Step { class, min: 1, max: 1 } = self else { return None };
        let members: Vec<u8> = (0..=255).filter(|&b| class[usize::from(b)]).collect();
        match members[..] {
            [b] => Some((0xff, b)),
            [a, b] if (a ^ b).is_power_of_two() => Some((!(a ^ b), a & b)),
            _ => None,
        }
    }
}

/// A repeated literal of one byte, such as the "*" of `\**`.
fn one_byte(repetition: &regex_syntax::hir::Repetition, items: &mut Vec<Item>) -> Option<()> {
    let HirKind::Literal(literal) = repetition.sub.kind() else { return None };
    let [b] = *literal.0 else { return None };
    let mut class = Box::new([false; 256]);
    class[usize::from(b)] = true;
    items.push(Item::Step {
        class,
        min: repetition.min as usize,
        max: repetition.max.map_or(usize::MAX, |max| max as usize),
    });
    Some(())
}

/// The ASCII part of a class: the texts matched here are ASCII.
fn ascii(class: &Class) -> Box<[bool; 256]> {
    let mut table = Box::new([false; 256]);
    let mut set = |start: u32, end: u32| {
        for b in start..=end.min(127) {
            table[b as usize] = true;
        }
    };
    match class {
        Class::Unicode(class) => {
            class.iter().for_each(|range| set(range.start() as u32, range.end() as u32));
        }
        Class::Bytes(class) => {
            class.iter().for_each(|range| set(range.start().into(), range.end().into()));
        }
    }
    table
}

/// Whether no byte of a repeated class can begin what follows.
fn is_decided(class: &[bool; 256], following: &[Item]) -> bool {
    for item in following {
        match item {
            Item::Step { class: next, min, .. } => {
                if (0..256).any(|b| class[b] && next[b]) {
                    return false;
                }
                if *min > 0 {
                    return true;
                }
            }
            // Fewer bytes could satisfy it where all of them do not. Words are made later.
            Item::Look(_) | Item::Word(_) => return false,
        }
    }
    true
}

#[cfg(test)]
#[path = "pattern_tests.rs"]
mod tests;
