//! The one canonical spelling of a number, and its value.

/// Powers of ten that are spelled out; beyond them the spelling is `1.5e300`.
const PLAIN: std::ops::RangeInclusive<i64> = -20..=30;
/// An exponent beyond this is not a quantity, and would cost memory to spell.
const LARGEST_EXPONENT: i64 = 9999;

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

/// `digits · 10^exponent` in canonical spelling.
pub fn spell(negative: bool, mut digits: Vec<u8>, mut exponent: i64) -> Option<String> {
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
