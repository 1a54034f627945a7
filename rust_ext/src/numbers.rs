//! Numbers in text: the last one, in one canonical decimal spelling.
//!
//! The digits are kept as they are written, so nothing is lost to binary floating point. A percent
//! sign (or the word) divides by 100, as scorers of financial questions do: "45%" and "0.45" are
//! one answer. Parentheses negate as in accounts: "(3.2)" and "($5)" are −3.2 and −5, but "so it is
//! (42)" is 42. What can be read in two ways is not read at all: it is counted as ambiguous.

use std::ops::Range;

use crate::decimal::{Decimal, digit_at};
use crate::error::Error;
use crate::fold::fold;
use crate::latex::{contains, has_formula, latex_separator, with_plain_separators};
use crate::powers::{Power, power, signed, times_power_of_ten};
use crate::signs::{Sign, begin_of_currency, is_of_accounts, sign_before};
use crate::spelling::spell;
use crate::statements::{boxed_range, statement};

pub use crate::spelling::{close, value};

/// What parts the whole from the fraction; the other one of the two parts thousands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecimalMark {
    Point,
    Comma,
}

/// What a text says as a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    None,
    /// In canonical spelling.
    Number(String),
    /// The last number can be read in two ways, or is none that this decimal mark allows.
    Ambiguous,
}

impl Reading {
    pub fn number(self) -> Option<String> {
        match self {
            Self::Number(number) => Some(number),
            _ => None,
        }
    }
}

/// The last number in the text with a decimal point; see `read`.
pub fn last_number(text: &str) -> Option<String> {
    read(text, DecimalMark::Point).number()
}

/// The last number in the text, in canonical spelling: no `+`, no separators, no needless zeros,
/// "0" for every zero. What stands in the last `\boxed{…}` goes before all else, and has to be one
/// number; then what the text states (`statements`).
///
/// - Digits of any script count; those that follow a letter ("Q4", "H2O"), stand in the parentheses
///   of a function ("f(5)") or in an exponent of a letter ("x^2") belong to a name or a formula.
/// - `'`, `_`, no-break and thin spaces part thousands, as does the mark that is not decimal.
/// - Powers are read: "3×10⁵", "10^-3", "2^10". A raised digit after a number is a footnote, but for
///   a power of ten; "5²" could be either, and is ambiguous.
/// - "1,5" with a decimal point, "1.234,5" and "3.2.1" are ambiguous. With a decimal comma a point
///   that cannot part thousands ("1.5") is a decimal point, and spaces part thousands too.
/// - A fraction ("1/2", "\frac{1}{2}"), a root, and "1 000" with a decimal point are ambiguous.
pub fn read(text: &str, mark: DecimalMark) -> Reading {
    locate(&fold(text), mark).0
}

/// The same of a folded text, and where in it that number stands, with its sign, its currency sign
/// and its percent sign.
pub fn locate(text: &str, mark: DecimalMark) -> (Reading, Range<usize>) {
    let bytes = text.as_bytes();
    let within = |part: &Range<usize>, (reading, number): (Reading, Range<usize>)| {
        (reading, part.start + number.start..part.start + number.end)
    };
    if let Some(part) = boxed_range(text).filter(|part| !text[part.clone()].trim().is_empty()) {
        return within(&part, only_of(&bytes[part.clone()], mark));
    }
    if let Some(part) = statement(text) {
        let found = last_of(&bytes[part.clone()], mark, is_lone(&bytes[part.clone()]));
        if found.0 != Reading::None {
            return within(&part, found);
        }
    }
    let found = last_of(bytes, mark, is_lone(bytes));
    // A short text that is a formula: "2\pi".
    let is_formula = bytes.len() <= NEAR
        && has_formula(&bytes[bytes.iter().rposition(|&b| b == b'=').map_or(0, |at| at + 1)..]);
    if is_formula && found.0 != Reading::None { (Reading::Ambiguous, found.1) } else { found }
}

/// Whether it is a number in parentheses, and nothing else.
fn is_lone(bytes: &[u8]) -> bool {
    matches!(bytes.trim_ascii(), [b'(', .., b')'] | [b'(', .., b')', b'.'])
}

/// The number of a box that says nothing else: behind its last `=` or `≈`, where one stands there.
fn only_of(part: &[u8], mark: DecimalMark) -> (Reading, Range<usize>) {
    let signs: [&[u8]; 3] = [b"=", "≈".as_bytes(), b"\\approx"];
    let equations = part.iter().filter(|b| **b == b'=').count();
    let several: [&[u8]; 3] = [b",", b"or", b"and"];
    if equations > 1 && several.iter().any(|sign| contains(part, sign)) {
        return (Reading::Ambiguous, 0..part.len()); // "x = 1 or x = 2"
    }
    let behind = signs.iter().filter_map(|sign| {
        part.windows(sign.len()).rposition(|found| found == *sign).map(|at| at + sign.len())
    });
    let start = behind.max().filter(|&at| last_of(&part[at..], mark, false).0 != Reading::None);
    let start = start.unwrap_or(0);
    let (reading, number) = last_of(&part[start..], mark, false);
    let (before, _) = last_of(&part[start..start + number.start], mark, false);
    let clear = (before == Reading::None || before == reading) && !has_formula(&part[start..]);
    let reading = if clear { reading } else { Reading::Ambiguous };
    (reading, start + number.start..start + number.end)
}

/// The last number of some bytes. `lone`: they are nothing but what stands in parentheses.
fn last_of(bytes: &[u8], mark: DecimalMark, lone: bool) -> (Reading, Range<usize>) {
    let mut last = (Reading::None, 0..0);
    let mut at = 0;
    while at < bytes.len() {
        if starts_number(bytes, at, mark) {
            let token = Token::new(bytes, at, mark);
            let (reading, number) = token.read(mark, lone);
            at = number.end;
            // A number that is out of all proportion does not hide the one before it.
            if reading != Reading::None {
                last = (reading, number);
            }
        } else if digit_at(bytes, at) {
            // The digits of a name: none of them begins a number.
            at = Token::new(bytes, at, mark).digits.end;
        } else {
            at += 1;
        }
    }
    last
}

impl std::str::FromStr for DecimalMark {
    type Err = Error;

    fn from_str(mark: &str) -> Result<Self, Error> {
        match mark {
            "." => Ok(Self::Point),
            "," => Ok(Self::Comma),
            _ => Err(Error::input(format!("decimal_mark: {mark:?} is neither \".\" nor \",\""))),
        }
    }
}

impl DecimalMark {
    fn byte(self) -> u8 {
        match self {
            Self::Point => b'.',
            Self::Comma => b',',
        }
    }
}

/// Whether a number's first digit, or the decimal mark before it, is here.
fn starts_number(bytes: &[u8], at: usize, mark: DecimalMark) -> bool {
    let point = bytes[at] == mark.byte() && digit_at(bytes, at + 1);
    if !point && !bytes[at].is_ascii_digit() {
        return false;
    }
    let before = &bytes[..at];
    match before {
        // A byte of a multi-byte character may be a letter or a currency sign: only ASCII decides.
        [.., b] if b.is_ascii_alphanumeric() => false,
        // An exponent of what is no number, or an index: "x^2", "x^{2}", "a_1".
        [.., b'^'] | [.., b'^', b'{' | b'-'] | [.., b'^', b'{', b'-'] => false,
        [.., b, b'_'] => !b.is_ascii_alphanumeric(),
        // The argument of a function: "f(5)", "sqrt(16)", "\sqrt{16}".
        [.., b, b'('] => !b.is_ascii_alphabetic() || before.ends_with(b"\\left("),
        _ if point => !matches!(before, [.., b'.' | b',']),
        _ => true,
    }
}

/// Digits with single separators between them, as far as they go.
struct Token<'a> {
    bytes: &'a [u8],
    digits: Range<usize>,
}

impl<'a> Token<'a> {
    fn new(bytes: &'a [u8], start: usize, mark: DecimalMark) -> Self {
        let spaced = |at: usize| {
            // Plain spaces part groups of three digits alone: "1 234", but not "5 6" or "3 2019".
            mark == DecimalMark::Comma
                && bytes[at] == b' '
                && bytes[at + 1..].iter().take(4).take_while(|b| b.is_ascii_digit()).count() == 3
        };
        let mut end = start;
        let mut group = 0;
        while end < bytes.len() {
            let separates = matches!(bytes[end], b'.' | b',' | b'\'' | b'_')
                || group <= 3 && group > 0 && spaced(end);
            if bytes[end].is_ascii_digit() {
                group += 1;
            } else if separates && digit_at(bytes, end + 1) {
                group = 0;
            } else if let Some((written, _)) = latex_separator(&bytes[end..]) {
                group = 0;
                end += written.len() - 1;
            } else {
                break;
            }
            end += 1;
        }
        Self { bytes, digits: start..end }
    }

    /// The number with its sign, power and percent, and where all of that stands.
    fn read(&self, mark: DecimalMark, lone: bool) -> (Reading, Range<usize>) {
        let bytes = self.bytes;
        let start = self.digits.start;
        let digits = with_plain_separators(&bytes[self.digits.clone()]);
        let part = is_part(bytes, start, &digits);
        let Some(mut decimal) = decimal(&digits, mark).filter(|_| !part) else {
            return (Reading::Ambiguous, self.digits.clone());
        };
        let (exponent, mut end) = exponent(bytes, self.digits.end);
        decimal.exponent += exponent;
        let power = match power(&decimal, bytes, end) {
            Power::Of(power, after) => {
                (decimal, end) = (power, after);
                true
            }
            Power::Unclear(after) => return (Reading::Ambiguous, start..after),
            Power::None(after) => {
                end = after;
                false
            }
        };
        if !power && let Some((tens, after)) = times_power_of_ten(bytes, end) {
            decimal.exponent += tens;
            end = after;
        }
        let (hundredths, after) = percent(bytes, end);
        decimal.exponent -= hundredths;
        end = after;
        let (sign, begin) = sign_before(bytes, start);
        let closing = bytes.len() - bytes[end..].trim_ascii_start().len();
        let negative = match sign {
            Sign::Minus => true,
            Sign::Parenthesis => {
                bytes.get(closing) == Some(&b')')
                    && (lone
                        || hundredths > 0
                        || begin + 1 < start
                        || digits.iter().any(|b| !b.is_ascii_digit())
                        || is_of_accounts(&bytes[..begin], &digits, &bytes[closing + 1..]))
            }
            Sign::None => false,
        };
        let whole = match sign {
            Sign::Parenthesis if negative => {
                let (hundredths, after) = percent(bytes, closing + 1);
                decimal.exponent -= hundredths;
                begin..after
            }
            Sign::Minus => begin..end,
            _ => begin_of_currency(bytes, start)..end,
        };
        let reading = spell(negative, decimal.digits, decimal.exponent);
        (reading.map_or(Reading::None, Reading::Number), whole)
    }
}

/// How far before a number is looked for what it is part of.
const NEAR: usize = 48;

/// Whether digits are only a part of what is meant: below a fraction's line, under a root, or the
/// thousands of "1 000".
fn is_part(bytes: &[u8], start: usize, digits: &[u8]) -> bool {
    let run = |of: &[u8]| of.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    match &bytes[..start] {
        [.., b, b'/'] | [.., b, b' ', b'/', b' '] => b.is_ascii_digit(),
        [above @ .., b'}' | b']', b'{'] => {
            // "\frac{1}{2}" and "\sqrt[3]{8}", but "\color{red}{8}".
            let near = &above[above.len().saturating_sub(NEAR)..];
            let name =
                near.iter().rposition(|b| matches!(b, b'{' | b'[')).map_or(near, |at| &near[..at]);
            [&b"frac"[..], b"binom", b"sqrt"].iter().any(|part| name.ends_with(part))
        }
        [before @ .., b' '] if (1..=3).contains(&run(before)) => {
            digits.len() >= 3
                && digits[..3].iter().all(u8::is_ascii_digit)
                && digits.get(3).is_none_or(|b| !b.is_ascii_digit())
        }
        before => {
            before.ends_with("\u{2044}".as_bytes())
                || before.ends_with("√".as_bytes())
                || before.ends_with(b"sqrt{")
        }
    }
}

/// A token's digits by its separators; none where these are not those of one number.
fn decimal(token: &[u8], mark: DecimalMark) -> Option<Decimal> {
    let separator = |b: &u8| !b.is_ascii_digit();
    let grouped = |whole: &[u8], by: u8| {
        let mut groups = whole.split(separator);
        let first = groups.next().is_some_and(|group| (1..=3).contains(&group.len()));
        let sizes: Vec<usize> = groups.map(<[u8]>::len).collect();
        let same = whole.iter().all(|b| b.is_ascii_digit() || *b == by);
        // Groups of two or three digits (as in 12,34,567), the last one of three.
        first && same && sizes.last() == Some(&3) && sizes.iter().all(|n| (2..=3).contains(n))
    };
    let is_whole = |whole: &[u8]| match whole.iter().find(|b| separator(b)) {
        None => true,
        Some(&by) => by != mark.byte() && grouped(whole, by),
    };
    let split = |at: usize| {
        let (whole, fraction) = (&token[..at], &token[at + 1..]);
        let digits = whole.iter().chain(fraction).copied().filter(u8::is_ascii_digit).collect();
        Decimal { digits, exponent: -(fraction.len() as i64) }
    };
    let last = token.iter().rposition(separator);
    if is_whole(token) {
        let digits = token.iter().copied().filter(u8::is_ascii_digit).collect();
        return Some(Decimal { digits, exponent: 0 });
    }
    let at = last?;
    if token[at] == mark.byte() && is_whole(&token[..at]) {
        return Some(split(at));
    }
    // A point that cannot part thousands is a decimal point even where the mark is a comma.
    let lone_point = mark == DecimalMark::Comma
        && token[at] == b'.'
        && token.iter().filter(|b| separator(b)).count() == 1;
    lone_point.then(|| split(at))
}

/// The exponent of scientific notation and where it ends.
fn exponent(bytes: &[u8], at: usize) -> (i64, usize) {
    if !matches!(bytes.get(at), Some(b'e' | b'E')) {
        return (0, at);
    }
    let (value, end) = signed(bytes, at + 1);
    value.map_or((0, at), |value| (value, end))
}

/// By how many powers of ten a percent or permille sign divides, and where it ends.
fn percent(bytes: &[u8], at: usize) -> (i64, usize) {
    let mut rest = bytes[at..].trim_ascii_start();
    while let Some(next) = [&b"\\,"[..], b"\\;", b"\\ ", b"~", b"\\text{"]
        .iter()
        .find_map(|space| rest.strip_prefix(*space))
    {
        rest = next.trim_ascii_start();
    }
    let after = |length: usize| bytes.len() - rest.len() + length;
    for (mark, tens) in
        [("%", 2), ("\\%", 2), ("percent", 2), ("per cent", 2), ("pct", 2), ("‰", 3)]
    {
        let found = rest.get(..mark.len()).is_some_and(|b| b.eq_ignore_ascii_case(mark.as_bytes()));
        // "percentage points" are not percent.
        if found && !rest.get(mark.len()).is_some_and(u8::is_ascii_alphabetic) {
            return (tens, after(mark.len()));
        }
    }
    (0, at)
}

#[cfg(test)]
#[path = "numbers_tests.rs"]
mod tests;
