//! How LaTeX writes numbers, and what makes a formula of them.

use std::borrow::Cow;

use crate::decimal::digit_at;

/// Commands of LaTeX that make another number of those beside them.
const FORMULAE: [&[u8]; 7] = [b"\\sqrt", b"\\pi", b"\\log", b"\\ln", b"\\infty", b"\\pm", b"\\mp"];
/// Above a line or each other; letters there are units.
const STACKED: [&[u8]; 4] = [b"\\frac", b"\\dfrac", b"\\tfrac", b"\\binom"];

pub(crate) fn has_formula(bytes: &[u8]) -> bool {
    bytes.contains(&b'\\')
        && (FORMULAE.iter().any(|name| contains(bytes, name))
            || STACKED.iter().any(|name| {
                bytes.windows(name.len()).enumerate().any(|(at, found)| {
                    let upper = bytes[at + name.len()..].iter().find(|b| !b" {-".contains(b));
                    found == *name && upper.is_some_and(u8::is_ascii_digit)
                })
            }))
}

pub(crate) fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|found| found == wanted)
}

/// How LaTeX parts thousands: "1{,}000", "1,\!000", "10\,000"; and what it stands for.
const LATEX_SEPARATORS: [(&[u8], u8); 3] = [(b"{,}", b','), (b",\\!", b','), (b"\\,", b'\'')];

pub(crate) fn latex_separator(bytes: &[u8]) -> Option<(&'static [u8], u8)> {
    let found = LATEX_SEPARATORS.into_iter().find(|(written, _)| bytes.starts_with(written));
    found.filter(|(written, _)| digit_at(bytes, written.len()))
}

pub(crate) fn with_plain_separators(token: &[u8]) -> Cow<'_, [u8]> {
    if !token.contains(&b'\\') && !token.contains(&b'{') {
        return Cow::Borrowed(token);
    }
    let mut out = Vec::with_capacity(token.len());
    let mut at = 0;
    while at < token.len() {
        let (length, byte) = latex_separator(&token[at..])
            .map_or((1, token[at]), |(written, by)| (written.len(), by));
        out.push(byte);
        at += length;
    }
    Cow::Owned(out)
}
