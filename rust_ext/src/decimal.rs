//! A number as its digits, before it is spelled.

/// Digits of a number, and the power of ten of the last of them.
pub(crate) struct Decimal {
    pub digits: Vec<u8>,
    pub exponent: i64,
}

pub(crate) fn digit_at(bytes: &[u8], at: usize) -> bool {
    bytes.get(at).is_some_and(u8::is_ascii_digit)
}
