//! Powers in text: "10⁵", "2^10", "3 × 10^-4". What can be read in two ways is said to be unclear.

use crate::decimal::{Decimal, digit_at};

/// A whole number with its sign; far too large ones are cut down to what is still too large.
pub(crate) fn signed(bytes: &[u8], at: usize) -> (Option<i64>, usize) {
    let negative = bytes.get(at) == Some(&b'-');
    let first = at + usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
    let mut end = first;
    let mut value: i64 = 0;
    while digit_at(bytes, end) {
        value = (value * 10 + i64::from(bytes[end] - b'0')).min(1 << 20);
        end += 1;
    }
    let value = if negative { -value } else { value };
    ((end > first).then_some(value), end)
}

pub(crate) enum Power {
    Of(Decimal, usize),
    /// Not to be read in one way.
    Unclear(usize),
    /// There is none; footnotes are skipped.
    None(usize),
}

/// What a number is raised to: "10⁵", "10^5", "2**10", "10^{-3}".
pub(crate) fn power(base: &Decimal, bytes: &[u8], at: usize) -> Power {
    let raised = raised(bytes, at);
    let Some((exponent, end, written)) = raised else { return Power::None(at) };
    let ten = base.exponent == 0 && base.digits == b"10";
    match (exponent, written) {
        (Some(exponent), _) if ten => Power::Of(Decimal { digits: vec![b'1'], exponent }, end),
        // A raised digit after a number that nobody raises to a power is a footnote.
        (_, false) if exponent == Some(1) || base.exponent < 0 || base.digits.len() > 2 => {
            Power::None(end)
        }
        (Some(exponent), true) if base.exponent == 0 => {
            let value =
                std::str::from_utf8(&base.digits).ok().and_then(|digits| digits.parse().ok());
            let value = value.zip(u32::try_from(exponent).ok());
            match value.and_then(|(base, exponent): (u128, u32)| base.checked_pow(exponent)) {
                Some(power) => {
                    let digits = power.to_string().into_bytes();
                    Power::Of(Decimal { digits, exponent: 0 }, end)
                }
                None => Power::Unclear(end),
            }
        }
        _ => Power::Unclear(end),
    }
}

/// What is raised here: its value as a whole number, where it ends, and whether a sign (`^` or `**`)
/// says that it is a power.
fn raised(bytes: &[u8], at: usize) -> Option<(Option<i64>, usize, bool)> {
    // `fold` writes superscripts as \x01 and digits.
    if bytes.get(at) == Some(&b'\x01') {
        let (value, end) = signed(bytes, at + 1);
        return Some((value, end, false));
    }
    let rest = &bytes[at..];
    // Degrees are a unit.
    if rest.starts_with(b"^\\circ") || rest.starts_with(b"^{\\circ}") {
        return None;
    }
    let sign = if rest.starts_with(b"^") {
        1
    } else if rest.starts_with(b"**")
        && rest.get(2).is_some_and(|b| b.is_ascii_digit() || *b == b'-')
    {
        2
    } else {
        return None;
    };
    let brace = usize::from(bytes.get(at + sign) == Some(&b'{'));
    let (value, end) = signed(bytes, at + sign + brace);
    let closes = brace == 0 || bytes.get(end) == Some(&b'}');
    // "2^n" is no number that can be told.
    Some((value.filter(|_| closes), end + usize::from(brace == 1 && closes), true))
}

/// The exponent of "× 10^5" and the like, and where it ends.
pub(crate) fn times_power_of_ten(bytes: &[u8], at: usize) -> Option<(i64, usize)> {
    let rest = bytes[at..].trim_ascii_start();
    let times = ["×", "x", "X", "*", "·", "⋅", "\\times", "\\cdot"];
    let rest = times.iter().find_map(|sign| rest.strip_prefix(sign.as_bytes()))?;
    let rest = rest.trim_ascii_start().strip_prefix(b"10")?;
    let (exponent, end, _) = raised(bytes, bytes.len() - rest.len())?;
    Some((exponent?, end))
}
