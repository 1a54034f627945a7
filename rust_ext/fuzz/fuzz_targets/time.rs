//! Time in proportion to the text, whatever it holds: a piece is repeated to two lengths, and the
//! longer text may take little more time for each byte than the shorter one.
#![no_main]

use _native::answers::{Closed, Kind, extract};
use _native::labels::Labels;
use _native::numbers::DecimalMark;
use _native::parallel::Control;
use _native::pattern::Pattern;
use _native::texts::{text_lists, texts};
use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, StringArray};
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

const SHORT_BYTES: usize = 1 << 13;
const TIMES_LONGER: usize = 8;
/// Quadratic, the longer text takes 64 times as long; linear, 8 times.
const MOST: u32 = 24;
/// Below this nothing can be told.
const LEAST: Duration = Duration::from_millis(40);

static LABELS: LazyLock<Labels> = LazyLock::new(|| {
    Labels::new(["positive", "negative", "very positive"].map(str::to_owned).into()).unwrap()
});

fuzz_target!(|input: (u8, &str)| {
    let (choice, piece) = input;
    if piece.is_empty() {
        return;
    }
    let control = Control::default();
    let mut options = ListBuilder::new(StringBuilder::new());
    options.append_value(["Paris", "a", "New York", piece].map(Some));
    let options: ArrayRef = Arc::new(options.finish());
    let options = text_lists(&[options], &control).unwrap();
    let (kind, closed) = match choice % 4 {
        0 => (Kind::MultipleChoice, Closed::Options(&options)),
        1 => (Kind::Label, Closed::Labels(&LABELS)),
        2 => (Kind::Numeric, Closed::None),
        _ => (Kind::Text, Closed::None),
    };
    let mark = if choice & 64 == 0 { DecimalMark::Point } else { DecimalMark::Comma };
    // Those that take the short way: the general engine is linear for each match alone.
    let pattern = match choice / 4 % 4 {
        0 => Some(r"\(([^)]*)\)"),
        1 => Some(r"(?i)answer\s*:\s*([^\s]+)"),
        2 => Some(r"[a-z]+\d"),
        _ => None,
    };
    let pattern = pattern.map(|pattern| Pattern::new(pattern).unwrap());
    let seconds = |bytes: usize| {
        let text = piece.repeat(bytes / piece.len() + 1);
        let column =
            texts(&[Arc::new(StringArray::from(vec![text])) as ArrayRef], &control).unwrap();
        let read = || {
            let start = Instant::now();
            extract(&column, kind, mark, pattern.as_ref(), &closed, &control).unwrap();
            start.elapsed()
        };
        read().min(read())
    };
    let long = seconds(SHORT_BYTES * TIMES_LONGER);
    if long > LEAST {
        let short = seconds(SHORT_BYTES);
        assert!(long < short * MOST, "{kind:?}: {short:?}, then {long:?} for eight times the text");
    }
});
