//! An open answer as its text has it: what a model is trained on, where votes are counted by the
//! canonical spelling.

use std::borrow::Cow;
use std::ops::Range;

use arrow_array::StringArray;

use crate::answers::Kind;
use crate::arrays::Chunked;
use crate::error::{Error, Result};
use crate::fold::fold;
use crate::numbers::{self, DecimalMark, Reading};
use crate::parallel::{Control, Pace};
use crate::pattern::Pattern;
use crate::strings;
use crate::text::normalize;
use crate::texts::Texts;
use crate::wrapping::unwrapped;

/// A text that begins with its number and has at most so many words is the answer with its unit.
const WORDS_OF_A_QUANTITY: usize = 3;

/// The answer of each text as it is written; null where the text holds none.
pub fn written(
    texts: &Chunked<Texts>,
    kind: Kind,
    mark: DecimalMark,
    pattern: Option<&Pattern>,
    control: &Control,
) -> Result<StringArray> {
    let read: fn(&str, DecimalMark) -> Option<Cow<'_, str>> = match kind {
        Kind::Numeric => number,
        Kind::Text => |text, _| whole(text),
        _ => return Err(Error::input("kind: only numeric and text answers are open")),
    };
    strings::column(texts.len(), control, |rows, answers| {
        let mut pattern = pattern.cloned();
        let mut pace = Pace::new(control);
        for row in rows {
            let Some(text) = texts.get(row) else {
                answers.push(None);
                continue;
            };
            pace.spend(text.len())?;
            let candidate = Pattern::narrow(&mut pattern, text, control)?;
            answers.push(read(candidate, mark).as_deref());
        }
        Ok(())
    })
}

fn whole(text: &str) -> Option<Cow<'_, str>> {
    Some(unwrapped(text)).filter(|text| !normalize(text).is_empty()).map(Cow::Borrowed)
}

fn number(text: &str, mark: DecimalMark) -> Option<Cow<'_, str>> {
    let folded = fold(text);
    let (Reading::Number(canonical), found) = numbers::locate(&folded, mark) else { return None };
    let found = unfolded(text, found);
    let trimmed = text.trim();
    let begins = text[..found.start].trim().is_empty();
    if begins
        && trimmed.split_whitespace().take(WORDS_OF_A_QUANTITY + 1).count() <= WORDS_OF_A_QUANTITY
    {
        return Some(Cow::Borrowed(trimmed));
    }
    let number = text[found].trim();
    // What stood around it may have been part of the reading.
    let same = numbers::read(number, mark) == Reading::Number(canonical.clone());
    Some(if same { Cow::Borrowed(number) } else { Cow::Owned(canonical) })
}

/// Where a range of the folded text stands in the text itself.
fn unfolded(text: &str, range: Range<usize>) -> Range<usize> {
    if text.is_ascii() {
        return range;
    }
    // Folding keeps the order, so that the length of a folded beginning tells the place.
    let ends: Vec<usize> = text.char_indices().map(|(at, c)| at + c.len_utf8()).collect();
    let before = |length: usize| {
        let count = ends.partition_point(|&end| fold(&text[..end]).len() <= length);
        count.checked_sub(1).map_or(0, |last| ends[last])
    };
    let start = before(range.start);
    let count = ends.partition_point(|&end| fold(&text[..end]).len() < range.end);
    let end = ends.get(count).copied().unwrap_or(text.len());
    start.min(end)..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_keeps_its_signs() {
        for (text, want) in [
            ("14.1%", Some("14.1%")),
            ("The answer is 14.1 %.", Some("14.1 %")),
            ("It fell, so: (3.2)", Some("(3.2)")),
            ("so the change is -€5.20 in all", Some("-€5.20")),
            ("That makes US$ 1,234.50 altogether", Some("US$ 1,234.50")),
            ("5 million dollars", Some("5 million dollars")),
            ("  1.234 kg\n", Some("1.234 kg")),
            ("3 + 4 = 7, so it is 7 apples", Some("7")),
            (r"Hence \boxed{42}, of 100", Some("42")),
            ("#### 18\nthat is 6 times 3", Some("18")),
            ("total: ４２ units sold", Some("４２")),
            ("it is 3 × 10⁵ roughly so", Some("3 × 10⁵")),
            ("das sind −5 Grad im Mittel", Some("−5")),
            ("no number", None),
            ("either 1,5 here", None),
        ] {
            assert_eq!(number(text, DecimalMark::Point).as_deref(), want, "{text:?}");
        }
    }

    #[test]
    fn a_text_is_kept_whole() {
        assert_eq!(whole("  The United States.\n").as_deref(), Some("The United States."));
        assert_eq!(whole(" ... ").as_deref(), None);
    }

    proptest::proptest! {
        /// What is trained on says what was voted for.
        #[test]
        fn what_is_written_reads_as_the_text_does(text in "[ a-z(]{0,6}[-−$€]?[0-9٣.,]{1,8}[%)⁵ ]{0,3}[ a-z0-9.]{0,12}") {
            for mark in [DecimalMark::Point, DecimalMark::Comma] {
                let read = numbers::read(&text, mark);
                match (number(&text, mark), read.clone()) {
                    (Some(written), Reading::Number(_)) => {
                        proptest::prop_assert_eq!(numbers::read(&written, mark), read);
                    }
                    (written, _) => proptest::prop_assert_eq!(written, None),
                }
            }
        }
    }
}
