//! Numbers in text: the last one, in one canonical decimal spelling.
//!
//! The digits are kept as they are written, so nothing is lost to binary floating point. A percent
//! sign (or the word) divides by 100, as scorers of financial questions do: "45%" and "0.45" are
//! one answer. Parentheses around a lone number negate it, as in accounts: "(3.2)" is −3.2.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization;

/// Powers of ten that are spelled out; beyond them the spelling is `1.5e300`.
const PLAIN: std::ops::RangeInclusive<i64> = -20..=30;
/// An exponent beyond this is not a quantity, and would cost memory to spell.
const LARGEST_EXPONENT: i64 = 9999;

/// The last number in the text, in canonical spelling: no `+`, no separators, no needless zeros,
/// "0" for every zero. Null where there is none.
///
/// Digits that follow a letter belong to a name ("Q4", "H2O") and are no number. `,`, `'`, `_` and
/// no-break spaces part thousands. A fraction "1/2" is two numbers.
pub fn last_number(text: &str) -> Option<String> {
    let text = fold(text);
    let bytes = text.as_bytes();
    let mut last = None;
    let mut at = 0;
    while at < bytes.len() {
        if starts_number(bytes, at) {
            let number = Number::read(bytes, at);
            at = number.end;
            if let Some(spelled) = number.spell() {
                last = Some(spelled);
            }
        } else {
            at += 1;
        }
    }
    last
}

/// The value of a canonical number.
pub fn value(canonical: &str) -> Option<f64> {
    // Rust reads "inf" and "nan" too; they are no numbers here.
    let last = canonical.as_bytes().last()?;
    if last.is_ascii_digit() { canonical.parse().ok() } else { None }
}

/// Whether `|a − b| ≤ tolerance · max(|a|, |b|)`. Not transitive for a tolerance above 0.
pub fn close(a: f64, b: f64, tolerance: f64) -> bool {
    a == b || (a - b).abs() <= tolerance * a.abs().max(b.abs())
}

/// ASCII digits, points, signs and separators for those of other scripts.
fn fold(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let separators = text.chars().map(|c| match c {
        '\u{a0}' | '\u{202f}' | '\u{2009}' | '\u{2019}' => '\'',
        '\u{2212}' | '\u{2012}' | '\u{2013}' => '-',
        _ => c,
    });
    Cow::Owned(separators.nfkc().collect())
}

fn digit_at(bytes: &[u8], at: usize) -> bool {
    bytes.get(at).is_some_and(u8::is_ascii_digit)
}

/// Whether a number's first digit, or the point before it, is here.
fn starts_number(bytes: &[u8], at: usize) -> bool {
    let point = bytes[at] == b'.' && digit_at(bytes, at + 1);
    if !point && !bytes[at].is_ascii_digit() {
        return false;
    }
    let Some(before) = at.checked_sub(1) else { return true };
    // A byte of a multi-byte character may be a letter or a currency sign: only ASCII is decisive.
    match bytes[before] {
        b if b.is_ascii_alphanumeric() => false,
        // The "1" of "3.2.1" is no number of its own.
        b'.' => !(point || before > 0 && bytes[before - 1].is_ascii_digit()),
        _ => true,
    }
}

struct Number<'a> {
    bytes: &'a [u8],
    negative: bool,
    /// Digits with their separators, from here to here, the point among them.
    digits: std::ops::Range<usize>,
    exponent: i64,
    end: usize,
}

impl<'a> Number<'a> {
    fn read(bytes: &'a [u8], start: usize) -> Self {
        let mut end = integer_end(bytes, start);
        if bytes.get(end) == Some(&b'.') && digit_at(bytes, end + 1) {
            end += 1;
            while digit_at(bytes, end) {
                end += 1;
            }
        }
        let digits = start..end;
        let (mut exponent, mut end) = exponent(bytes, end);
        let (percent, after) = percent_end(bytes, end);
        if percent {
            exponent -= 2;
            end = after;
        }
        let sign = sign_before(bytes, start);
        let negative = match sign {
            Sign::Minus => true,
            Sign::Parenthesis => bytes.get(end) == Some(&b')'),
            Sign::None => false,
        };
        Self { bytes, negative, digits, exponent, end }
    }

    fn spell(&self) -> Option<String> {
        let mut digits = Vec::with_capacity(self.digits.len());
        let mut decimals = 0;
        let mut after_point = false;
        for &b in &self.bytes[self.digits.clone()] {
            if b == b'.' {
                after_point = true;
            } else if b.is_ascii_digit() {
                digits.push(b);
                decimals += i64::from(after_point);
            }
        }
        spell(self.negative, digits, self.exponent - decimals)
    }
}

/// The end of an integer part: digits, or digits in groups that separators part.
fn integer_end(bytes: &[u8], start: usize) -> usize {
    let run = |mut at: usize| {
        while digit_at(bytes, at) {
            at += 1;
        }
        at
    };
    let plain = run(start);
    let separator = match bytes.get(plain) {
        Some(&b) if matches!(b, b',' | b'\'' | b'_') && (1..=3).contains(&(plain - start)) => b,
        _ => return plain,
    };
    // Groups of two or three digits (as in 12,34,567), the last one of three.
    let mut end = plain;
    let mut last_group = 0;
    while bytes.get(end) == Some(&separator) && digit_at(bytes, end + 1) {
        let group_end = run(end + 1);
        last_group = group_end - end - 1;
        if !(2..=3).contains(&last_group) {
            return plain;
        }
        end = group_end;
    }
    if last_group == 3 { end } else { plain }
}

/// The exponent of scientific notation and where it ends.
fn exponent(bytes: &[u8], at: usize) -> (i64, usize) {
    if !matches!(bytes.get(at), Some(b'e' | b'E')) {
        return (0, at);
    }
    let signed = matches!(bytes.get(at + 1), Some(b'+' | b'-'));
    let first = at + 1 + usize::from(signed);
    let mut end = first;
    let mut value: i64 = 0;
    while digit_at(bytes, end) {
        value = (value * 10 + i64::from(bytes[end] - b'0')).min(LARGEST_EXPONENT * 10);
        end += 1;
    }
    if end == first {
        return (0, at);
    }
    (if bytes[at + 1] == b'-' { -value } else { value }, end)
}

fn percent_end(bytes: &[u8], at: usize) -> (bool, usize) {
    let spaces = bytes[at..].iter().take_while(|b| **b == b' ').count();
    let rest = &bytes[at + spaces..];
    for mark in ["%", "percent", "per cent"] {
        let found = rest.get(..mark.len()).is_some_and(|b| b.eq_ignore_ascii_case(mark.as_bytes()));
        // "percentage points" are not percent.
        let whole = !rest.get(mark.len()).is_some_and(u8::is_ascii_alphabetic);
        if found && whole {
            return (true, at + spaces + mark.len());
        }
    }
    (false, at)
}

enum Sign {
    None,
    Minus,
    Parenthesis,
}

/// What stands before a number, currency signs and spaces between them left out.
fn sign_before(bytes: &[u8], start: usize) -> Sign {
    let mut before = &bytes[..start];
    loop {
        let text = before.strip_suffix(b" ").unwrap_or(before);
        let text = ["$", "€", "£", "¥", "₹"]
            .iter()
            .find_map(|sign| text.strip_suffix(sign.as_bytes()))
            .unwrap_or(text);
        if text.len() == before.len() {
            break;
        }
        before = text;
    }
    match before {
        [.., b'('] => Sign::Parenthesis,
        // "10-5" and "COVID-19" hold no negative number.
        [.., b, b'-'] if b.is_ascii_alphanumeric() || matches!(b, b')' | b'%') => Sign::None,
        // A spaced minus after a number is a subtraction or a range: "5 - 3".
        [.., b, b' ', b'-'] if b.is_ascii_digit() => Sign::None,
        [.., b'-'] if before.len() == start || !before_is_spaced(bytes, before.len(), start) => {
            Sign::Minus
        }
        _ => Sign::None,
    }
}

/// Whether a space lies between a dash and its number: then the dash is a bullet or a range.
fn before_is_spaced(bytes: &[u8], dash_end: usize, start: usize) -> bool {
    bytes[dash_end..start].contains(&b' ')
}

/// `digits · 10^exponent` in canonical spelling.
fn spell(negative: bool, mut digits: Vec<u8>, mut exponent: i64) -> Option<String> {
    let leading = digits.iter().take_while(|&&b| b == b'0').count();
    digits.drain(..leading);
    while digits.last() == Some(&b'0') {
        digits.pop();
        exponent += 1;
    }
    if digits.is_empty() {
        return Some("0".into());
    }
    // The value is 0.digits · 10^point.
    let point = digits.len() as i64 + exponent;
    if point.abs() > LARGEST_EXPONENT {
        return None;
    }
    let digits = String::from_utf8(digits).expect("ASCII digits");
    let magnitude = if !PLAIN.contains(&point) {
        let (first, rest) = digits.split_at(1);
        let dot = if rest.is_empty() { "" } else { "." };
        format!("{first}{dot}{rest}e{}", point - 1)
    } else if point <= 0 {
        format!("0.{}{digits}", "0".repeat(point.unsigned_abs() as usize))
    } else if point as usize >= digits.len() {
        format!("{digits}{}", "0".repeat(point as usize - digits.len()))
    } else {
        let (whole, decimals) = digits.split_at(point as usize);
        format!("{whole}.{decimals}")
    };
    Some(if negative { format!("-{magnitude}") } else { magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_have_one_spelling() {
        for (text, want) in [
            ("42", "42"),
            ("The answer is 1,234,567.50.", "1234567.5"),
            ("12,34,567", "1234567"),
            ("1'234", "1234"),
            ("1\u{a0}234", "1234"),
            ("1_000", "1000"),
            ("1,5", "5"),
            ("007", "7"),
            ("-0.0", "0"),
            ("+3", "3"),
            (".5", "0.5"),
            ("5.", "5"),
            ("45%", "0.45"),
            ("0.45", "0.45"),
            ("45 percent", "0.45"),
            ("4.5 Per Cent.", "0.045"),
            ("3 percentage points", "3"),
            ("(3.2)", "-3.2"),
            ("$(3.2)", "-3.2"),
            ("($3.2 )", "3.2"),
            ("(3.2%)", "-0.032"),
            ("-$5", "-5"),
            ("$-5", "-5"),
            ("−5", "-5"),
            ("€1,000", "1000"),
            ("1.5e3", "1500"),
            ("2E-3", "0.002"),
            ("1e400", "1e400"),
            ("-1.25e-40", "-1.25e-40"),
            ("3.2.1", "3.2"),
            ("10-5", "5"),
            ("5 - 3", "3"),
            ("COVID-19", "19"),
            ("grew in Q4 by 7", "7"),
            ("12 in Q4", "12"),
            ("\\boxed{42}", "42"),
            ("４２", "42"),
            ("1/2", "2"),
            ("x=-7", "-7"),
        ] {
            assert_eq!(last_number(text).as_deref(), Some(want), "{text:?}");
        }
        for text in ["", "none", "Q4", "e5", "-", "%", "1e99999999999999999999"] {
            assert_eq!(last_number(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn spelling_is_stable_and_keeps_the_value(text in "[-+$( ]{0,2}[0-9,.]{1,12}(e-?[0-9]{1,2})?[%)]?") {
            if let Some(once) = last_number(&text) {
                prop_assert_eq!(last_number(&once), Some(once.clone()));
                prop_assert!(value(&once).is_some());
            }
        }

        #[test]
        fn plain_numbers_keep_their_value(x in any::<f64>().prop_filter("finite", |x| x.is_finite())) {
            let spelled = last_number(&format!("{x:e}")).unwrap();
            prop_assert_eq!(value(&spelled), Some(x));
        }

        #[test]
        fn any_text_is_safe(text in any::<String>()) {
            last_number(&text);
        }
    }
}
