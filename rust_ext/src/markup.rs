//! A text without what marks its answer up.

use std::borrow::Cow;

use crate::cues::LATEX;

/// Longer than any tag that wraps an answer.
const TAG: usize = 24;

/// The text with spaces for braces and LaTeX's commands ("\\text{spam}"), and with what a tag holds
/// on a line of its own: "answer: spam" for "<answer>spam</answer>". Other brackets stay: a label may
/// be ">50K".
pub(crate) fn without_markup(text: &str) -> Cow<'_, str> {
    if !text.contains(['\\', '{', '}', '<']) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        let tag = after.bytes().take(TAG).position(|b| b == b'>').filter(|&end| {
            c == '<'
                && after.bytes().take(end).all(|b| b.is_ascii_alphabetic() || b"/_-|".contains(&b))
        });
        rest = after;
        if let Some(end) = tag {
            match after[..end].strip_prefix('/') {
                Some(_) => out.push('\n'),
                None => out.extend(["\n", &after[..end], ": "]),
            }
            rest = &after[end + 1..];
        } else if matches!(c, '\\' | '{' | '}') {
            out.push(' ');
            let command = LATEX.iter().filter_map(|name| after.strip_prefix(name)).next();
            rest = command.filter(|_| c == '\\').unwrap_or(after);
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}
