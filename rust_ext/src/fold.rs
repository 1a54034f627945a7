//! A text with the many forms of one character as one: what all readers of answers look at.
//!
//! Marks that nobody sees (zero-width, direction, variation) go, so that they do not split votes.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// Whether the character takes no place of its own: Unicode's format characters, the grapheme
/// joiner and variation selectors.
pub fn is_invisible(c: char) -> bool {
    c.general_category() == GeneralCategory::Format
        || matches!(c, '\u{34f}' | '\u{180b}'..='\u{180d}' | '\u{180f}' | '\u{fe00}'..='\u{fe0f}')
        || ('\u{e0100}'..='\u{e01ef}').contains(&c)
}

/// NFKC with ASCII digits for those of all scripts, `$` for every currency sign, `-` for the minus
/// sign and short dashes, `'` for what parts thousands (a no-break or thin space between digits), a
/// space for other such spaces, and `\x01` with digits for what is raised ("10⁵", "10⁻³").
pub fn fold(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let mut marked = String::with_capacity(text.len());
    let mut raised = false;
    let mut chars = text.chars().filter(|c| !is_invisible(*c)).peekable();
    let mut before_digit = false;
    while let Some(c) = chars.next() {
        let next_is_digit = chars.peek().is_some_and(|c| digit(*c).is_some());
        let power = superscript(c).filter(|_| before_digit || raised);
        if let Some(power) = power {
            if !raised {
                marked.push('\x01');
            }
            marked.push(power);
        } else {
            match c {
                '\u{a0}' | '\u{202f}' | '\u{2007}' | '\u{2009}' | '\u{2019}'
                    if before_digit && next_is_digit =>
                {
                    marked.push('\'');
                }
                '\u{a0}' | '\u{202f}' | '\u{2000}'..='\u{200a}' => marked.push(' '),
                '\u{2212}' | '\u{2010}'..='\u{2013}' => marked.push('-'),
                '\u{66b}' => marked.push('.'),
                '\u{66c}' => marked.push('\''),
                '\u{66a}' => marked.push('%'),
                _ if c.general_category() == GeneralCategory::CurrencySymbol => marked.push('$'),
                _ => marked.push(digit(c).unwrap_or(c)),
            }
        }
        raised = power.is_some();
        before_digit = digit(c).is_some();
    }
    Cow::Owned(marked.nfkc().collect())
}

/// The ASCII digit of a decimal digit of any script.
fn digit(c: char) -> Option<char> {
    if c.is_ascii() {
        return c.is_ascii_digit().then_some(c);
    }
    let decimal = |c: char| c.general_category() == GeneralCategory::DecimalNumber;
    if !decimal(c) {
        return None;
    }
    // Full-width and mathematical digits: several sets stand in a row.
    if let Some(plain) = [c].into_iter().nfkc().next().filter(char::is_ascii_digit) {
        return Some(plain);
    }
    // Unicode promises that the ten digits of a script follow each other, 0 first; the next script's
    // may follow at once.
    let before = |n: u32| char::from_u32(c as u32 - n).is_some_and(decimal);
    let value = (1..100).take_while(|n| before(*n)).count() % 10;
    char::from_digit(value as u32, 10)
}

/// The plain form of a superscript digit or sign.
fn superscript(c: char) -> Option<char> {
    Some(match c {
        '⁰' => '0',
        '¹' => '1',
        '²' => '2',
        '³' => '3',
        '⁴'..='⁹' => char::from_digit(c as u32 - '⁰' as u32, 10)?,
        '⁺' => '+',
        '⁻' => '-',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_of_all_scripts_are_ascii_ones() {
        for (text, want) in [
            ("٤٢", "42"),
            ("۴۲", "42"),
            ("४२", "42"),
            ("๔๒", "42"),
            ("４２", "42"),
            ("𝟒𝟚", "42"),
            ("٤٫٢٪", "4.2%"),
            ("١٬٢٣٤", "1'234"),
            ("3 × 10⁻⁵", "3 × 10\x01-5"),
            ("m²", "m2"),
            ("₩500", "$500"),
            ("1\u{202f}234\u{a0}%", "1'234 %"),
            ("4\u{200b}2\u{200e}", "42"),
            ("\u{feff}é", "é"),
        ] {
            assert_eq!(fold(text), want, "{text:?}");
        }
        // Every set of digits is whole, and each has ten values.
        let mut counts = [0; 10];
        for c in (0..=0x10ffff).filter_map(char::from_u32) {
            if c.general_category() == GeneralCategory::DecimalNumber {
                counts[digit(c).and_then(|d| d.to_digit(10)).unwrap() as usize] += 1;
            }
        }
        assert!(counts.iter().all(|n| *n == counts[0] && *n > 60), "{counts:?}");
    }
}
