//! Any text through every way to read an answer: no panic, and an answer is its own answer.
#![no_main]

use _native::answers::{Closed, Kind, extract, same};
use _native::arrays::{text_lists, texts};
use _native::labels::Labels;
use _native::parallel::Control;
use _native::pattern::Pattern;
use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{Array, ArrayRef, StringArray};
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};

static LABELS: LazyLock<Labels> = LazyLock::new(|| {
    Labels::new(["positive", "negative", "very positive"].map(str::to_owned).into()).unwrap()
});
static PATTERNS: LazyLock<[Pattern; 2]> = LazyLock::new(|| {
    [r"(?i)answer\s*:\s*([^\s]+)", r"(a|b)+?(?:\((.)\))?"].map(|p| Pattern::new(p).unwrap())
});

fuzz_target!(|text: &str| {
    let control = Control::default();
    // Options and text both come from the input: the first lines are the options.
    let (head, tail) = text.split_once("\n\n").unwrap_or(("", text));
    let mut options = ListBuilder::new(StringBuilder::new());
    options.append_value(head.lines().map(Some));
    let options: ArrayRef = Arc::new(options.finish());
    let options = text_lists(&[options]).unwrap();
    let column = |text: &str| texts(&[Arc::new(StringArray::from(vec![text])) as ArrayRef]).unwrap();
    for kind in [Kind::MultipleChoice, Kind::Label, Kind::Numeric, Kind::Text] {
        let closed = match kind {
            Kind::MultipleChoice => Closed::Options(&options),
            Kind::Label => Closed::Labels(&LABELS),
            _ => Closed::None,
        };
        for pattern in [None, Some(&PATTERNS[0]), Some(&PATTERNS[1])] {
            let once = extract(&column(tail), kind, pattern, &closed, &control).unwrap();
            if once.is_valid(0) {
                let answer = once.value(0);
                assert!(same(answer, answer, kind, 0.01));
                let again = extract(&column(answer), kind, None, &closed, &control).unwrap();
                assert_eq!(again.value(0), answer, "{kind:?}");
            }
        }
    }
});
