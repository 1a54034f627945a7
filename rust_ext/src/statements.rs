//! Where a reply states its answer: in a box, behind `####`, or where it calls it the answer.

use std::ops::Range;

use crate::cues::{DOUBTS, LATEX, TURNED, WHY};

const ANSWER: &[u8] = b"answer";
/// A cue and what it says are this near, and a clause is at most so long.
const NEAR: usize = 48;
const LONGEST_CLAUSE: usize = 300;
/// Marks around an answer that are no part of it.
const MARKUP: &[u8] = b" \t*_\"'`:#$";

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

/// Where the text last says in words or marks what its answer is; none where it takes that back.
///
/// A line after `####` that begins with a number, or is the text's last; the clause behind
/// "answer is", "Answer:", `<answer>` or JSON's `"answer":`; a number alone on the first line, with
/// an empty one below it.
pub(crate) fn statement(text: &str) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let found = match (marked(text), called(bytes)) {
        (Some(line), Some(clause)) => Some(if line.start > clause.start { line } else { clause }),
        (line, clause) => line.or(clause),
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
        let digits = said.iter().take_while(|b| b.is_ascii_digit()).count();
        // "#### 2. Add them up" counts steps.
        let counts = digits > 0 && matches!(said[digits..], [b'.' | b')', b' ', ..]);
        let number =
            !counts && said.first().is_some_and(|b| b.is_ascii_digit() || b"+-.(\\".contains(b));
        let last = last_line.is_none_or(|at| at < start);
        (number || last).then(|| start..line_end(bytes, start))
    })
}

/// The clause that is last called the answer.
fn called(bytes: &[u8]) -> Option<Range<usize>> {
    let cue = |at: usize| {
        bytes[at..at + ANSWER.len()].eq_ignore_ascii_case(ANSWER) && !bytes[..at].ends_with(b"/")
    };
    let last = bytes.len().checked_sub(ANSWER.len())?;
    let clause = (0..=last).rev().filter(|&at| cue(at)).find_map(|at| {
        let start = said_from(bytes, at + ANSWER.len())?;
        Some(start..clause_end(bytes, start))
    })?;
    (!takes_back(&bytes[clause.end..])).then_some(clause)
}

/// Where that begins which is called the answer, behind the word.
fn said_from(bytes: &[u8], at: usize) -> Option<usize> {
    let near = &bytes[at..bytes.len().min(at + NEAR)];
    let line = &near[..near.iter().position(|&b| b == b'\n').unwrap_or(near.len())];
    let mut start = if line.first() == Some(&b'>') {
        at + 1
    } else if let Some(colon) = line.iter().position(|&b| b == b':') {
        // "answer (in metres):", but not "answer. Note:".
        line[..colon]
            .iter()
            .all(|b| !b.is_ascii_digit() && !b".,;?".contains(b))
            .then_some(at + colon + 1)?
    } else if let Some(is) = line.windows(4).position(|word| word.eq_ignore_ascii_case(b" is ")) {
        line[..is]
            .iter()
            .all(|b| !b.is_ascii_digit() && !b".,;?".contains(b))
            .then_some(at + is + 4)?
    } else {
        // A heading: "### Answer".
        line.iter().all(|b| MARKUP.contains(b)).then_some(at + line.len())?
    };
    // Perhaps it stands on the next line that says something.
    while start < bytes.len()
        && (MARKUP.contains(&bytes[start]) && bytes[start] != b'$' || bytes[start] == b'\n')
    {
        start += 1;
    }
    Some(start)
}

fn clause_end(bytes: &[u8], start: usize) -> usize {
    let line = line_end(bytes, start).min(start + LONGEST_CLAUSE);
    (start + 1..line)
        .find(|&at| match bytes[at..line] {
            [b'<' | b'"', ..] | [b' ', b'(' | b'[', ..] => true,
            [b'.' | b';', b' ', next, ..] => next.is_ascii_uppercase() || b"(*".contains(&next),
            [b',', b' ', b'"', ..] => true,
            [b' ', ref rest @ ..] => {
                let word = rest.iter().take_while(|b| b.is_ascii_alphabetic()).count();
                WHY.iter().any(|why| rest[..word].eq_ignore_ascii_case(why.as_bytes()))
            }
            _ => false,
        })
        .unwrap_or(line)
}

/// Whether what follows a statement takes it back, or goes on to reckon.
fn takes_back(rest: &[u8]) -> bool {
    rest.contains(&b'=')
        || rest.split(|b| !b.is_ascii_alphabetic()).any(|word| {
            DOUBTS.iter().chain(TURNED).any(|doubt| word.eq_ignore_ascii_case(doubt.as_bytes()))
        })
}

/// A number alone on the first line, explained below an empty one.
fn leading(bytes: &[u8]) -> Option<Range<usize>> {
    let start = bytes.len() - bytes.trim_ascii_start().len();
    let end = line_end(bytes, start);
    let line = &bytes[start..end];
    let alone = line.iter().any(u8::is_ascii_digit)
        && line.iter().all(|b| b.is_ascii_digit() || b" ,.+-*$%\r".contains(b));
    let parted =
        bytes[end..].iter().skip(1).take_while(|b| **b != b'\n').all(|b| b" \t\r".contains(b));
    let explained = !bytes[end..].trim_ascii().is_empty();
    (alone && parted && explained && !takes_back(&bytes[end..])).then_some(start..end)
}

fn line_end(bytes: &[u8], start: usize) -> usize {
    bytes[start..].iter().position(|&b| b == b'\n').map_or(bytes.len(), |length| start + length)
}

/// A text without what wraps an answer: of `\boxed{…}` and `<answer>…</answer>` what they hold, of a
/// last line that begins with "Answer:" or "The answer is" what follows.
pub(crate) fn unwrapped(text: &str) -> &str {
    let text = without_end_marks(text.trim());
    if let Some(inner) = boxed(text).map(str::trim).filter(|inner| !inner.is_empty()) {
        let styled = LATEX.iter().find_map(|name| {
            inner.strip_prefix('\\')?.strip_prefix(name)?.strip_prefix('{')?.strip_suffix('}')
        });
        return styled.filter(|inner| !inner.contains(['{', '}'])).unwrap_or(inner);
    }
    if let Some(at) = text.rfind("<answer>") {
        let inner = &text[at + "<answer>".len()..];
        let inner = inner.find("</answer>").map_or(inner, |end| &inner[..end]).trim();
        return if inner.is_empty() { text } else { inner };
    }
    let line = text.rsplit('\n').next().unwrap_or(text);
    let bare = line.trim_start_matches([' ', '*', '_', '#']);
    let said = [
        "the final answer is",
        "the answer is",
        "final answer:",
        "final answer**:",
        "answer:",
        "answer**:",
    ]
    .iter()
    .find(|cue| bare.get(..cue.len()).is_some_and(|start| start.eq_ignore_ascii_case(cue)))
    .map(|cue| {
        // "**Answer:** Paris", "Answer: **Paris**."
        let said = bare[cue.len()..].trim_start_matches(['*', ':']).trim_start();
        let bold = said.strip_prefix("**").and_then(|inner| inner.split_once("**"));
        bold.map_or(said, |(inner, _)| inner).trim()
    });
    said.filter(|said| !said.is_empty()).unwrap_or(text)
}

/// What a chat template ends a turn with, where a server leaves it in.
fn without_end_marks(mut text: &str) -> &str {
    while let Some(at) = text.rfind("<|").filter(|_| text.ends_with("|>")) {
        if at == 0 || text[at + 2..text.len() - 2].contains([' ', '|']) {
            break;
        }
        text = text[..at].trim_end();
    }
    text
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
            ("The answer is 42. (We used 3 steps.)", Some("42")),
            ("The answer is 42 (3 steps).", Some("42")),
            ("The answer is 42 [1].", Some("42")),
            ("**Answer:** 42\n\nLet me know about question 2!", Some("42")),
            ("So 3 of 5.\n\n### Final Answer\n\n42\n", Some("42")),
            ("The answer to this is 42 since 6 fit 7 times.", Some("42")),
            ("<answer>42</answer> (confidence 90%)", Some("42")),
            ("{\"answer\": \"42\", \"confidence\": 0.9}", Some("42")),
            ("{\"answer\": 42, \"confidence\": 0.9}", Some("42")),
            ("Answer: 3 + 4 = 7", Some("3 + 4 = 7")),
            ("The answer is 40. Wait, there are 2 more: 42", None),
            ("The answer is 40, and 40 + 2 = 42", Some("40, and 40 + 2 = 42")),
            ("I do not know the answer.", None),
            ("What is the answer? 5 or 6", None),
            ("42\n\nExplanation: 6 rows with 7 each.", Some("42")),
            ("6 * 7 = 42\n\nThat is 3 more.", None),
            ("12\n30\n42", None),
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

    #[test]
    fn a_text_is_taken_out_of_its_wrapping() {
        for (text, want) in [
            ("Paris", "Paris"),
            ("The answer is Paris.", "Paris."),
            ("Answer: **Paris**.", "Paris"),
            ("**Answer:** Paris", "Paris"),
            ("It lies on the Seine.\n\n**Final answer:** Paris", "Paris"),
            ("<answer> Paris </answer>", "Paris"),
            ("so $\\boxed{\\text{Paris}}$.", "Paris"),
            ("\\boxed{\\text{a} + \\text{b}}", "\\text{a} + \\text{b}"),
            ("Paris<|im_end|>", "Paris"),
            ("The answer is", "The answer is"),
            ("Answer me\nplease", "Answer me\nplease"),
            ("<|im_end|>", "<|im_end|>"),
        ] {
            assert_eq!(unwrapped(text), want, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_safe(text in "(answer|Answer: |####|<\\||\\|>|\\\\boxed\\{|\\}|is|=|\n| |[0-9é.(\"]){0,12}") {
            if let Some(range) = statement(&text) {
                proptest::prop_assert!(range.start <= range.end && range.end <= text.len());
            }
            unwrapped(&text);
        }
    }
}
