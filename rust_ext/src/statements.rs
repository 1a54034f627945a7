//! Where a reply states the number that is its answer: in a box, behind `####`, or where it calls it
//! the answer.

use std::ops::Range;

use crate::cues::{DOUBTS, TURNED};

const ANSWER: &[u8] = b"answer";
/// A cue and what it says are this near.
const NEAR: usize = 48;
/// A line that says no more than its answer is shorter.
const LONGEST_LINE: usize = 400;
/// Of a unit behind a number.
const MOST_WORDS: usize = 3;
/// What headings count.
const STEPS: &[&[u8]] =
    &[b"step", b"part", b"problem", b"question", b"example", b"case", b"section", b"option"];
/// Marks around an answer that are no part of it.
const MARKUP: &[u8] = b" \t*_\"'`:#$";
/// What remarks below an answer begin with, and what a model that runs on writes there.
const REMARKS: &[&[u8]] = &[
    b"explanation",
    b"reasoning",
    b"reason",
    b"note",
    b"because",
    b"question",
    b"q",
    b"user",
    b"human",
    b"let",
    b"i",
    b"please",
    b"feel",
    b"confidence",
    b"reference",
    b"references",
    b"source",
    b"sources",
];

/// What the last `\boxed{…}` holds.
pub fn boxed(text: &str) -> Option<&str> {
    boxed_range(text).map(|range| &text[range])
}

pub(crate) fn boxed_range(text: &str) -> Option<Range<usize>> {
    let start = text.rfind("\\boxed{")? + "\\boxed{".len();
    let mut depth = 1;
    for (i, b) in text.bytes().enumerate().skip(start) {
        depth += i32::from(b == b'{') - i32::from(b == b'}');
        if depth == 0 {
            return Some(start..i);
        }
    }
    None
}

/// Where the text states the number that is its answer, and nothing beside it; none where it goes
/// on to say more than a remark, or takes that back.
///
/// The last of: a line after `####` that holds a number and is no heading of a step, or is the text's
/// last; a number and at most a few words right behind "the answer is", "Answer:", `<answer>` or JSON's `"answer":`.
/// Else a number alone on the first line, with its explanation below an empty one.
pub(crate) fn statement(text: &str) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let found = match (marked(text), called(bytes)) {
        (Some(line), Some(said)) => Some(if line.start > said.start { line } else { said }),
        (line, said) => line.or(said),
    };
    found.or_else(|| leading(bytes))
}

/// The line behind the last `####` that is no heading.
fn marked(text: &str) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let last_line = bytes[..bytes.trim_ascii_end().len()].iter().rposition(|&b| b == b'\n');
    text.rmatch_indices("####").map(|(at, mark)| at + mark.len()).find_map(|start| {
        let near = &bytes[start..bytes.len().min(start + NEAR)];
        let said = &near[near.iter().position(|b| !MARKUP.contains(b)).unwrap_or(near.len())..];
        let said = &said[..line_end(said, 0)];
        let digits = said.iter().take_while(|b| b.is_ascii_digit()).count();
        // "#### 2. Add them up" and "#### Step 2: total" count steps.
        let counts = digits > 0
            && matches!(&said[digits..], [b'.' | b')', b' ', b, ..] if b.is_ascii_alphabetic());
        let word = said.iter().take_while(|b| b.is_ascii_alphabetic()).count();
        let names = STEPS.iter().any(|name| said[..word].eq_ignore_ascii_case(name));
        let number = !counts && !names && said.iter().any(u8::is_ascii_digit);
        let last = last_line.is_none_or(|at| at < start);
        (number || last).then(|| start..line_end(bytes, start))
    })
}

/// The number that is last called the answer.
fn called(bytes: &[u8]) -> Option<Range<usize>> {
    let last = bytes.len().checked_sub(ANSWER.len())?;
    let (from, in_words) = (0..=last)
        .rev()
        .filter(|&at| bytes[at..at + ANSWER.len()].eq_ignore_ascii_case(ANSWER))
        .find_map(|at| cue_at(bytes, at))?;
    let skipped = bytes[from..].iter().take(NEAR).take_while(|b| b" \t\r\n*_:\"'`".contains(b));
    let from = from + skipped.count();
    let said = from..from + quantity(&bytes[from..])?;
    let rest = &bytes[said.end..];
    // Prose that goes on below may not be at its end yet.
    let is_last = !in_words || closes(&rest[line_end(rest, 0)..]);
    (is_last && !takes_back(rest)).then_some(said)
}

/// Where that begins which this "answer" calls so, if it does, and whether in prose.
fn cue_at(bytes: &[u8], at: usize) -> Option<(usize, bool)> {
    let rest = &bytes[at + ANSWER.len()..];
    let start = |skipped: &[u8]| bytes.len() - skipped.len();
    Some(match rest {
        [b'>', said @ ..] if bytes[..at].ends_with(b"<") => (start(said), false),
        [b'"' | b'\'', b':', said @ ..] => (start(said), false),
        _ if !calls_it_so(&bytes[..at]) => return None,
        [b':' | b'*' | b'_', said @ ..] => (start(said), true),
        [b' ', b'i' | b'I', b's' | b'S', b' ' | b':' | b'*', said @ ..] => (start(said), true),
        // A heading above it.
        [b'\r' | b'\n', said @ ..] => (start(said), true),
        _ => return None,
    })
}

/// Whether what stands below a statement is nothing, or a remark that reckons no further.
fn closes(below: &[u8]) -> bool {
    let word = below.iter().skip_while(|b| !b.is_ascii_alphanumeric()).take(16);
    let word: Vec<u8> =
        word.take_while(|b| b.is_ascii_alphabetic()).map(u8::to_ascii_lowercase).collect();
    below.trim_ascii().is_empty() || REMARKS.contains(&&word[..]) && !below.contains(&b'=')
}

/// Whether "answer" behind this is the one that is given: "the", "the correct", "my final" answer,
/// or one that begins its line; and nobody only thinks so.
fn calls_it_so(before: &[u8]) -> bool {
    let near = &before[before.len().saturating_sub(NEAR)..];
    let line = &near[near.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1)..];
    let mut words = line
        .split(|b| !b.is_ascii_alphabetic())
        .filter(|word| !word.is_empty())
        .rev()
        .map(<[u8]>::to_ascii_lowercase);
    let kind = |word: &[u8]| matches!(word, b"final" | b"correct" | b"right");
    let mut word = words.next();
    while word.as_deref().is_some_and(kind) {
        let next = words.next();
        if next.is_none() && word.as_deref() == Some(b"final") {
            return true;
        }
        word = next;
    }
    match word.as_deref() {
        None => line.iter().all(|b| MARKUP.contains(b)),
        Some(b"the" | b"my") => !words.any(|word| {
            matches!(
                &word[..],
                b"think" | b"thought" | b"not" | b"wrong" | b"if" | b"whether" | b"guess" | b"say"
            )
        }),
        _ => false,
    }
}

/// How long the number is, with at most a few words behind it, that a line or a tag holds alone;
/// what stands in parentheses to the end of the line says nothing else.
fn quantity(bytes: &[u8]) -> Option<usize> {
    let line = &bytes[..line_end(&bytes[..bytes.len().min(LONGEST_LINE)], 0)];
    if line.len() == LONGEST_LINE {
        return None;
    }
    let line = &line[..line.iter().position(|b| matches!(b, b'<' | b'"')).unwrap_or(line.len())];
    let sign =
        line.iter().take_while(|b| b"+-($\\*`".contains(b) || b.is_ascii_uppercase()).count();
    let number =
        line[sign..].iter().take_while(|b| b.is_ascii_digit() || b"., '{}\\!".contains(b)).count();
    let number = line[sign..sign + number].iter().rposition(u8::is_ascii_digit)? + 1;
    if line[sign..sign + number].contains(&b' ') || sign > NEAR {
        return None;
    }
    let rest = &line[sign + number..];
    let stop = rest.windows(2).position(|two| matches!(two, b" (" | b" [")).unwrap_or(rest.len());
    let open = rest[stop..].trim_ascii_end();
    let opened = open.iter().filter(|b| matches!(b, b'(' | b'[')).count();
    let aside = open.is_empty()
        || opened == 1 && matches!(open, [.., b')' | b']'] | [.., b')' | b']', b'.']);
    // In Python's dicts more keys follow, and in JSON behind the quote at which the line was cut.
    let stop = rest[..stop].windows(3).position(|next| next == b", '").unwrap_or(stop);
    let stop = rest[..stop].trim_ascii_end().strip_suffix(b",").map_or(stop, <[u8]>::len);
    let unit = &rest[..stop];
    let words = unit.split(|b| *b == b' ').filter(|word| !word.is_empty()).count();
    let plain = unit.iter().all(|b| !b.is_ascii_digit() && !b"=+/^;<>?".contains(b));
    // Another sentence in the line goes on.
    let ends = unit.trim_ascii_end();
    let more = ends.windows(2).any(|two| matches!(two, b". " | b"! " | b": "));
    (aside && plain && !more && words <= MOST_WORDS).then_some(sign + number + stop)
}

/// Whether what follows a statement takes it back.
fn takes_back(rest: &[u8]) -> bool {
    rest.split(|b| !b.is_ascii_alphabetic()).any(|word| {
        DOUBTS.iter().chain(TURNED).any(|doubt| word.eq_ignore_ascii_case(doubt.as_bytes()))
    })
}

/// A number alone on the first line, explained or run on from below an empty one.
fn leading(bytes: &[u8]) -> Option<Range<usize>> {
    let start = bytes.len() - bytes.trim_ascii_start().len();
    let end = line_end(bytes, start);
    let line = bytes[start..end].trim_ascii_end();
    let alone = line.last().is_some_and(|b| b.is_ascii_digit() || b"*%".contains(b))
        && line.iter().any(u8::is_ascii_digit)
        && line.iter().all(|b| b.is_ascii_digit() || b",.*$%".contains(b));
    let below = bytes[end..].strip_prefix(b"\n")?;
    let empty = line_end(below, 0);
    let explained = below[..empty].trim_ascii().is_empty() && !below.trim_ascii().is_empty();
    (alone && explained && closes(below) && !takes_back(below)).then_some(start..end)
}

fn line_end(bytes: &[u8], start: usize) -> usize {
    bytes[start..].iter().position(|&b| b == b'\n').map_or(bytes.len(), |length| start + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stated(text: &str) -> Option<&str> {
        statement(text).map(|range| text[range].trim())
    }

    #[test]
    fn what_is_called_the_answer_is_found() {
        for (text, want) in [
            ("The answer is 9 eggs, which sell for $18.", None),
            ("Answer: 9\nFinal Answer: Janet has 45 eggs left", None),
            ("Answer: 9\n\nRevised answer: 45", None),
            ("The answer is 9.\n\nSince each sells for $2, she makes $18.", None),
            ("The answer is 45.7\nSo we need 46 buses.", None),
            ("John thinks the answer is 5\nIt is 15", None),
            ("The answer is 9 (eggs) and $18 (revenue)", None),
            ("Answer: 50\n\nLet me double-check: he lost 5, so he has 45.", None),
            ("16\n\nExplanation: 16-7 = 9, 9*2 = 18.", None),
            ("#### Total: $45\n\nQuestion: Tom has 7", Some("Total: $45")),
            ("#### 45. \nQ 5", Some("45.")),
            ("The answer is 42. (We used 3 steps.)", Some("42.")),
            ("The answer is 42 (3 steps).", Some("42")),
            ("The answer is 42 [1].", Some("42")),
            ("The correct answer is $42", Some("$42")),
            ("**Answer:** 42 km\n\nLet me know about question 2 or another!", Some("42 km")),
            ("So 3 of 5.\n\n### Final Answer\n\n42\n", Some("42")),
            ("<answer>42</answer> (confidence 90%)", Some("42")),
            ("<answer>42</answer>\n<explanation>6 * 7 = 42 in 2 steps</explanation>", Some("42")),
            ("{\"answer\": \"42\", \"confidence\": 0.9}", Some("42")),
            ("{\"answer\": 42, \"confidence\": 0.9}", Some("42")),
            ("{'answer': 42, 'confidence': 0.9}", Some("42")),
            // What goes on in the same line may say more.
            ("Answer: 3 + 4 = 7", None),
            ("The answer is 6 * 7, which gives us 42.", None),
            ("The answer is 60 minus 18, which equals 42.", None),
            ("The answer is 1.5 hours. In minutes that is 90.", None),
            ("The answer is 1 500.", None),
            ("The answer is 40.\nWait, there are 2 more: 42", None),
            ("Answer: She sold 48 clips in April. Altogether she sold 72.", None),
            ("Answer:\n1. Ducks lay 16 eggs.\n2. She has $18.", None),
            ("## Answer\n\n- Eggs: 16\n- Total: $18", None),
            ("<answer>\nJanet sells 9 eggs.\nShe makes $18.\n</answer>", None),
            ("Each correct answer is 5 points\nShe has 50 points", None),
            ("You might think the answer is 5\nIt is 6.", None),
            ("The answer is not 5. It is 6.", None),
            ("A wrong answer is -2 points\nThe score is 31.", None),
            ("I do not know the answer.", None),
            ("What is the answer? 5 or 6", None),
            ("42\n\nExplanation: 6 rows with 7 each.", Some("42")),
            ("42\n\nUser: What is 5?", Some("42")),
            ("6 * 7 = 42\n\nExplanation: 3 more.", None),
            ("1.\n\nFirst we add 5 and 7.", None),
            ("12\n\n30\n\n42", None),
            ("2019\n\n$45.2 million", None),
            ("12\n30\n42", None),
            ("#### 18\n\nQuestion: 5?\nAnswer: Tom has 5 apples at first", Some("18")),
            ("#### 36\nQ: 5 + 5?", Some("36")),
            ("#### $36\n", Some("$36")),
            ("#### Step 1\nAdd 5 and 37.\n\nThe answer is 42.", Some("42.")),
            ("#### 1. First step\n5 and 37.\n**Answer: 42**", Some("42**")),
            ("#### Step 2: total\n5 and 37, so 42", None),
            ("7\n#### Total: 42", Some("Total: 42")),
            ("", None),
        ] {
            assert_eq!(stated(text), want, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_safe(text in "(answer|Answer: |the answer is |<answer>|####|<\\||\\|>|<\\|>|\\*\\*|\\\\boxed\\{|\\}|is|=|\n| |[0-9é.(\"]){0,12}") {
            if let Some(range) = statement(&text) {
                proptest::prop_assert!(range.start <= range.end && range.end <= text.len());
            }
        }
    }
}
