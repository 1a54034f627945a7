//! `cargo bench --no-default-features`: each kernel on one thread. The kept baseline is
//! benchmarks/results/kernels.txt.

use _native::answers::{Closed, Kind, extract};
use _native::arrays::{Chunked, FloatLists, float_lists};
use _native::consensus::{Votes, consensus};
use _native::duplicates;
use _native::groups::Groups;
use _native::numbers::DecimalMark;
use _native::parallel::Control;
use _native::pattern::Pattern;
use _native::scores::{Score, score};
use _native::sums;
use _native::texts::{Texts, texts};
use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, ListArray, StringArray};
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use std::sync::Arc;

const ROWS: usize = 100_000;

fn main() {
    divan::main();
}

/// Lengths that spread around a mean, the same every time.
fn lists(mean: usize) -> (Chunked<FloatLists>, usize) {
    let length = |i: usize| mean / 2 + i.wrapping_mul(2_654_435_761) % (mean + 1);
    let rows = ROWS * 31 / mean;
    let lists = (0..rows).map(|i| Some((0..length(i)).map(|k| Some(-(k as f32) / 8.0))));
    let array: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(lists));
    let bytes = (0..rows).map(length).sum::<usize>() * 4;
    (float_lists(&[array], &Control::default()).unwrap(), bytes)
}

fn column(of: impl Fn(usize) -> String) -> Chunked<Texts> {
    let array: ArrayRef = Arc::new(StringArray::from_iter_values((0..ROWS).map(of)));
    texts(&[array], &Control::default()).unwrap()
}

#[divan::bench(args = [31, 256])]
fn mean_nll(bencher: Bencher<'_, '_>, mean: usize) {
    let (lists, bytes) = lists(mean);
    let control = Control::default();
    bencher
        .counter(BytesCount::new(bytes))
        .bench(|| score(black_box(&lists), Score::MeanNll, &control).unwrap());
}

#[divan::bench]
fn read(bencher: Bencher<'_, '_>) {
    let values = vec![-1.0f32; ROWS * 31];
    bencher.counter(BytesCount::of_slice(&values)).bench(|| sums::read(black_box(&values)));
}

#[divan::bench(args = [r"(?i)answer\s*:\s*([A-Z])", r"(?i)answer\s*:\s*(?:\(([A-Z])\)|([A-Z]))"])]
fn extract_letters(bencher: Bencher<'_, '_>, pattern: &str) {
    let texts = column(|i| format!("Answer: {}", ["A", "B", "C", "D"][i % 4]));
    let pattern = Pattern::new(pattern).unwrap();
    let control = Control::default();
    bencher.counter(ItemsCount::new(ROWS)).bench(|| {
        extract(
            &texts,
            Kind::MultipleChoice,
            DecimalMark::Point,
            Some(&pattern),
            &Closed::None,
            &control,
        )
        .unwrap()
    });
}

#[divan::bench(args = ["Numeric", "Text"])]
fn extract_open(bencher: Bencher<'_, '_>, kind: &str) {
    let texts = column(|i| format!("The total is ${i},123.50."));
    let kind = if kind == "Text" { Kind::Text } else { Kind::Numeric };
    let control = Control::default();
    bencher.counter(ItemsCount::new(ROWS)).bench(|| {
        extract(&texts, kind, DecimalMark::Point, None, &Closed::None, &control).unwrap()
    });
}

#[divan::bench]
fn group_and_vote(bencher: Bencher<'_, '_>) {
    let ids = column(|i| format!("example-{:08}", i / 4));
    let answers = column(|i| ["A", "A", "B", "A", "C"][i % 5].to_owned());
    let nll = vec![0.5; ROWS];
    let control = Control::default();
    bencher.counter(ItemsCount::new(ROWS)).bench(|| {
        let groups = Groups::new(&ids, &control).unwrap();
        let votes = Votes { answers: &answers, nll: &nll, weights: None, tolerance: 0.0 };
        consensus(&groups, &votes, &control).unwrap()
    });
}

#[divan::bench]
fn minhash(bencher: Bencher<'_, '_>) {
    let texts = column(|i| format!("Operating profit of unit {i} rose to EUR {i} mn"));
    let control = Control::default();
    bencher.counter(ItemsCount::new(ROWS)).bench(|| duplicates::signatures(&texts, &control));
}
