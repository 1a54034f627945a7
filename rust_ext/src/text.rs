//! Normalisation of free text, so that two spellings of one answer compare equal.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use crate::fold::is_invisible;

/// NFKC, folded case ("Straße" is "strasse"), nothing invisible (zero-width characters, direction
/// marks), no punctuation, no articles (a, an, the), single spaces.
///
/// Punctuation inside a word goes ("don't" is "dont"); `-`, `/` and `_` part words. What carries a
/// value stays: `%`, `#`, symbols such as `$`, `+` or `≥`, the point of a decimal, a colon or comma
/// between digits ("10:30" is not "1030") that does not part thousands, the sign of a number. A text that consists of articles alone keeps them: "A" is "a".
pub fn normalize(text: &str) -> String {
    normalized(text, false)
}

/// The same with the articles that do not begin the text: "Vitamin A" is not "vitamin".
pub fn normalize_leading(text: &str) -> String {
    normalized(text, true)
}

fn normalized(text: &str, inner_articles: bool) -> String {
    let mut normal = once(text, inner_articles);
    // Without the punctuation between them characters may compose, and digits be thousands: seldom,
    // and never without end.
    while !normal.is_ascii() || normal.contains(',') {
        let again = once(&normal, inner_articles);
        if again == normal {
            break;
        }
        normal = again;
    }
    normal
}

fn once(text: &str, inner_articles: bool) -> String {
    let folded: Cow<str> = if text.is_ascii() {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        let visible = text.nfkc().filter(|c| !is_invisible(*c));
        // Folded case may leave NFKC (İ), hence the second pass.
        let folded: String = visible.flat_map(fold_case).collect();
        Cow::Owned(folded.nfkc().collect())
    };
    let words = words(&folded);
    let mut out = String::with_capacity(words.len());
    for word in words.split_ascii_whitespace() {
        let kept = inner_articles && !out.is_empty() || !matches!(word, "a" | "an" | "the");
        if kept {
            push_word(&mut out, word);
        }
    }
    if out.is_empty() {
        for word in words.split_ascii_whitespace() {
            push_word(&mut out, word);
        }
    }
    out
}

/// The lower case of the upper case of the lower case: one form for ß, ẞ and SS, or σ and ς.
fn fold_case(c: char) -> impl Iterator<Item = char> {
    c.to_lowercase().flat_map(char::to_uppercase).flat_map(char::to_lowercase)
}

fn push_word(out: &mut String, word: &str) {
    if !out.is_empty() {
        out.push(' ');
    }
    out.push_str(word);
}

/// The text with punctuation gone and everything that parts words turned into a space.
fn words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut previous = ' ';
    // What is left before the character, which decides whether a dash is a sign.
    let in_word = |out: &str| out.chars().next_back().is_some_and(char::is_alphanumeric);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let next_is_digit = chars.peek().is_some_and(char::is_ascii_digit);
        match c {
            '.' | ':' if previous.is_ascii_digit() && next_is_digit => out.push(c),
            ',' if previous.is_ascii_digit() && next_is_digit => {
                if !thousands_follow(&mut chars.clone()) {
                    out.push(',');
                }
            }
            '-' | '\u{2212}' if next_is_digit && !in_word(&out) => out.push('-'),
            '-' | '/' | '_' | '\u{2010}'..='\u{2015}' => out.push(' '),
            '%' | '#' => out.push(c),
            _ if c.is_whitespace() || c.is_control() => out.push(' '),
            _ if is_punctuation(c) => {}
            _ => out.push(c),
        }
        previous = c;
    }
    out
}

const LONGEST_NUMBER: usize = 40;

/// Whether digits behind a comma are thousands: "234", "234,567", India's "34,567".
fn thousands_follow(chars: &mut impl Iterator<Item = char>) -> bool {
    let (mut group, mut whole) = (0, 0);
    // No number that is written so is longer.
    for c in chars.take(LONGEST_NUMBER) {
        match c {
            '0'..='9' => group += 1,
            ',' if group == 2 || group == 3 => (group, whole) = (0, group),
            _ => break,
        }
    }
    group == 3 || group == 0 && whole == 3
}

fn is_punctuation(c: char) -> bool {
    if c.is_ascii() {
        // The rest of ASCII's punctuation is Unicode's symbols: $ + < = > ^ ` | ~
        c.is_ascii_punctuation() && !matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '|' | '~')
    } else {
        c.general_category_group() == GeneralCategoryGroup::Punctuation
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_of_one_answer_are_one_text() {
        for (text, want) in [
            ("  The Quick,  brown fox. ", "quick brown fox"),
            ("card_payment-fee/charged", "card payment fee charged"),
            ("Don't", "dont"),
            ("Ｆｕｌｌ　ｗｉｄｔｈ", "full width"),
            ("ﬁnance", "finance"),
            ("$1,234.50", "$1234.50"),
            ("1,234,567", "1234567"),
            ("1,5", "1,5"),
            ("[1,2]", "1,2"),
            ("1,23'4", "1234"),
            ("12,34,567", "1234567"),
            ("1,234, and 5", "1234 and 5"),
            ("1,23, and 5", "1,23 and 5"),
            ("10:30", "10:30"),
            ("Ratio: 3:2.", "ratio 3:2"),
            ("-5", "-5"),
            ("−5", "-5"),
            ("50%", "50%"),
            ("C#", "c#"),
            ("A", "a"),
            ("the a", "the a"),
            ("", ""),
            ("?!…", ""),
            ("**Neutral**", "neutral"),
            ("41&-111", "41 111"),
            ("e\u{2019}\u{301}", "é"),
            ("Straße", "strasse"),
            ("STRASSE", "strasse"),
            ("STRAẞE", "strasse"),
            ("ΟΔΥΣΣΕΥΣ", "οδυσσευσ"),
            ("Οδυσσεύς", "οδυσσεύσ"),
            ("\u{feff}neu\u{200b}tral\u{200e}", "neutral"),
            ("\u{202b}שלום\u{202c}", "שלום"),
            ("ne\u{ad}gative", "negative"),
        ] {
            assert_eq!(normalize(text), want, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn twice_is_once(text in any::<String>()) {
            let once = normalize(&text);
            prop_assert_eq!(normalize(&once), once);
        }
    }
}
