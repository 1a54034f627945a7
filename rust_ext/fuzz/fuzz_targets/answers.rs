//! Any text through every way to read an answer: no panic, and an answer is its own answer.
#![no_main]

use _native::answers::{Closed, Kind, extract, same};
use _native::labels::Labels;
use _native::numbers::DecimalMark;
use _native::parallel::Control;
use _native::pattern::Pattern;
use _native::texts::{text_lists, texts};
use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{Array, ArrayRef, StringArray};
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use std::sync::{Arc, LazyLock};

static LABELS: LazyLock<Labels> = LazyLock::new(|| {
    Labels::new(["positive", "negative", "very positive"].map(str::to_owned).into()).unwrap()
});

thread_local! {
    // The first two take the short way, the last the general one.
    static PATTERNS: RefCell<[Pattern; 3]> = RefCell::new(
        [r"(?i)answer\s*:\s*([^\s]+)", r"\*\*([^*]+)\*\*", r"(a|b)+?(?:\((.)\))?"]
            .map(|p| Pattern::new(p).unwrap()),
    );
}

// The first byte chooses the kind and the pattern: trying all of them costs ten times the runs.
fuzz_target!(|input: (u8, &str)| {
    let (choice, text) = input;
    let control = Control::default();
    // Options and text both come from the input: the first lines are the options.
    let (head, tail) = text.split_once("\n\n").unwrap_or(("", text));
    let mut options = ListBuilder::new(StringBuilder::new());
    options.append_value(head.lines().map(Some));
    let options: ArrayRef = Arc::new(options.finish());
    let options = text_lists(&[options], &control).unwrap();
    let (kind, closed) = match choice % 4 {
        0 => (Kind::MultipleChoice, Closed::Options(&options)),
        1 => (Kind::Label, Closed::Labels(&LABELS)),
        2 => (Kind::Numeric, Closed::None),
        _ => (Kind::Text, Closed::None),
    };
    let candidate =
        PATTERNS.with_borrow_mut(|patterns| match patterns.get_mut(usize::from(choice / 4 % 4)) {
            Some(pattern) => pattern.candidate(tail, &control).unwrap(),
            None => tail,
        });
    let read = |text: &str| {
        let column =
            texts(&[Arc::new(StringArray::from(vec![text])) as ArrayRef], &control).unwrap();
        extract(&column, kind, DecimalMark::Point, None, &closed, &control).unwrap()
    };
    let once = read(candidate);
    if once.is_valid(0) {
        let answer = once.value(0);
        assert!(same(answer, answer, kind, 0.01));
        assert_eq!(read(answer).value(0), answer, "{kind:?}");
    }
});
