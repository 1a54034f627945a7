//! What stands around a number's digits: its sign, its currency, and the parentheses of accounts.

pub(crate) enum Sign {
    None,
    Minus,
    Parenthesis,
}

/// Where a currency sign right before a number begins; the number itself where there is none.
pub(crate) fn begin_of_currency(bytes: &[u8], start: usize) -> usize {
    let before = bytes[..start].strip_suffix(b" ").unwrap_or(&bytes[..start]);
    match before {
        [.., b'$'] => without_currency(before).map_or(start, <[u8]>::len),
        _ => start,
    }
}

/// What stands before a number, and where; currency signs and spaces between them are left out.
pub(crate) fn sign_before(bytes: &[u8], start: usize) -> (Sign, usize) {
    let mut before = &bytes[..start];
    let mut currencies = 0;
    loop {
        let text = before.strip_suffix(b" ").unwrap_or(before);
        let text = match without_currency(text).filter(|_| currencies < 2) {
            Some(text) => {
                currencies += 1;
                text
            }
            None => text,
        };
        if text.len() == before.len() {
            break;
        }
        before = text;
    }
    if let Some(begin) = minus_word(before) {
        return (Sign::Minus, begin);
    }
    let sign = match before {
        [.., b'('] => Sign::Parenthesis,
        // "10-5" and "COVID-19" hold no negative number.
        [.., b, b'-'] if b.is_ascii_alphanumeric() || matches!(b, b')' | b'%') => Sign::None,
        // A spaced minus after a number is a subtraction or a range: "5 - 3".
        [.., b, b' ', b'-'] if b.is_ascii_digit() => Sign::None,
        // A dash with a space before its number is a bullet or a range.
        [.., b'-'] if !bytes[before.len()..start].contains(&b' ') || currencies > 0 => Sign::Minus,
        _ => Sign::None,
    };
    (sign, before.len().saturating_sub(1))
}

/// Where "minus" or "negative" begins at the end of a text, where nothing is there to subtract from.
fn minus_word(before: &[u8]) -> Option<usize> {
    ["minus", "negative"].iter().find_map(|word| {
        let begin = before.len().checked_sub(word.len())?;
        let (rest, found) = before.split_at(begin);
        let rest = rest.trim_ascii_end();
        let says = ["is", "was", "be", "equals", "of", "to", "by", "at"];
        let last = rest.rsplit(|b| !b.is_ascii_alphabetic()).next().unwrap_or(rest);
        let alone = rest.last().is_none_or(|b| b":,(=*.".contains(b))
            || says.iter().any(|word| last.eq_ignore_ascii_case(word.as_bytes()));
        (alone && found.eq_ignore_ascii_case(word.as_bytes())).then_some(begin)
    })
}

/// The text without the currency at its end: a sign, with letters ("US$") or without, or a code of
/// three capitals.
fn without_currency(text: &[u8]) -> Option<&[u8]> {
    // `fold` writes every currency sign as `$`.
    let code = |text: &[u8]| text.iter().rev().take_while(|b| b.is_ascii_uppercase()).count();
    let length = match text.strip_suffix(b"$") {
        // LaTeX writes a dollar as \$.
        Some([.., b'\\']) => 2,
        Some(text) if code(text) <= 3 => code(text) + 1,
        Some(_) => 1,
        None if code(text) == 3 => 3,
        None => return None,
    };
    Some(&text[..text.len() - length])
}

/// Whether a whole number in parentheses is a loss: "$(5)", "(5) million", "(5)%", "-3 ( 3 )".
pub(crate) fn is_of_accounts(before: &[u8], digits: &[u8], behind: &[u8]) -> bool {
    let before = before.trim_ascii_end();
    let restated = before.strip_suffix(digits).is_some_and(|rest| {
        without_currency(rest).unwrap_or(rest).trim_ascii_end().ends_with(b"-")
    });
    let behind = behind.trim_ascii_start();
    let unit = [&b"%"[..], b"\\%", b"percent", b"thousand", b"million", b"billion"];
    let word = before.rsplit(|b| !b.is_ascii_alphabetic()).next().unwrap_or(before);
    restated
        || before.last().is_some_and(|b| b":|".contains(b))
        || [&b"of"[..], b"loss"].iter().any(|of| word.eq_ignore_ascii_case(of))
        || without_currency(before).is_some()
        || unit
            .iter()
            .any(|unit| behind.get(..unit.len()).is_some_and(|b| b.eq_ignore_ascii_case(unit)))
}
