//! Scores of a response from the logprobs of its tokens, in nats.
//!
//! A null or empty list has no score (its sum is 0 where it is empty). A null token was not scored
//! by the engine and is left out, also of the length. −∞ is the logarithm of 0: the NLL is +∞. NaN
//! and positive values are no logprobs and are refused.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::arrays::{Chunked, FloatLists, Floats, Spans};
use crate::error::{Error, Result};
use crate::parallel::{self, Control};
use crate::sums;

/// Rounding of a log-softmax in low precision may end this far above 0.
pub const ROUNDING: f64 = 1e-4;

/// What a list of logprobs `r_1 … r_L` is reduced to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Score {
    /// `−(1/L) Σ r_k`, the length-normalised negative log-likelihood (Eq. 6).
    MeanNll,
    /// `Σ r_k`
    Sum,
    /// `exp(−(1/L) Σ r_k)`
    Perplexity,
    /// `min r_k`
    Min,
    /// `r_1`
    First,
    /// `−(1/n) Σ r_k` over the last `n` tokens, or all where there are fewer.
    TailMeanNll(usize),
}

impl Score {
    fn of<T: Real>(self, logprobs: &[T]) -> f64 {
        let mean_nll = |values: &[T]| {
            let (sum, n) = (T::sum(values), values.len() as f64);
            // A sum beyond float64 may still have a mean.
            let mean =
                if sum.is_finite() { sum / n } else { values.iter().map(|x| x.f64() / n).sum() };
            -mean + 0.0
        };
        match self {
            Self::Sum => T::sum(logprobs),
            _ if logprobs.is_empty() => f64::NAN,
            Self::MeanNll => mean_nll(logprobs),
            Self::Perplexity => mean_nll(logprobs).exp(),
            Self::Min => logprobs.iter().map(|x| x.f64()).fold(f64::INFINITY, f64::min),
            Self::First => logprobs[0].f64(),
            Self::TailMeanNll(n) => mean_nll(&logprobs[logprobs.len().saturating_sub(n.max(1))..]),
        }
    }
}

/// A width that logprobs come in. Adding 0 turns the −0 of a certain response into 0.
trait Real: Copy {
    fn f64(self) -> f64;
    fn sum(values: &[Self]) -> f64;
}

impl Real for f32 {
    fn f64(self) -> f64 {
        f64::from(self)
    }

    fn sum(values: &[Self]) -> f64 {
        sums::of_f32(values) + 0.0
    }
}

impl Real for f64 {
    fn f64(self) -> f64 {
        self
    }

    fn sum(values: &[Self]) -> f64 {
        sums::of_f64(values) + 0.0
    }
}

/// One score for each list.
#[derive(Debug)]
pub struct Scores {
    /// NaN stands for null.
    pub values: Vec<f64>,
    pub any_null: bool,
}

/// The score of each list.
pub fn score(column: &Chunked<FloatLists>, score: Score, control: &Control) -> Result<Scores> {
    // Looked for where a block was just written, and not in memory once more.
    let any_null = AtomicBool::new(false);
    let values = parallel::filled(column.len(), control, |start, mut rows: &mut [f64]| {
        let mut at = start;
        for (first_row, chunk) in column.iter() {
            let here = (first_row + chunk.lists.rows).saturating_sub(at).min(rows.len());
            let (out, rest) = rows.split_at_mut(here);
            if !out.is_empty() {
                score_rows(chunk, score, at - first_row, out).map_err(|e| e.shifted(first_row))?;
                if out.iter().fold(false, |any, x| any | x.is_nan()) {
                    any_null.store(true, Ordering::Relaxed);
                }
            }
            (rows, at) = (rest, at + here);
        }
        Ok(())
    })?;
    Ok(Scores { values, any_null: any_null.into_inner() })
}

fn score_rows(chunk: &FloatLists, score: Score, start: usize, out: &mut [f64]) -> Result<()> {
    if score == Score::MeanNll
        && chunk.value_nulls.is_none()
        && let Floats::F32(values) = &chunk.values
    {
        let largest = match &chunk.lists.spans {
            Spans::Small(offsets) => sums::mean_nll_of_f32(values, &offsets[start..], out),
            Spans::Large(offsets) => sums::mean_nll_of_f32(values, &offsets[start..], out),
            _ => f32::NAN,
        };
        // NaN says that there is something to look at one by one: so does a value above 0.
        if f64::from(largest) <= ROUNDING {
            if let Some(nulls) = &chunk.lists.nulls {
                for (i, out) in out.iter_mut().enumerate() {
                    if nulls.is_null(start + i) {
                        *out = f64::NAN;
                    }
                }
            }
            return Ok(());
        }
    }
    match &chunk.values {
        Floats::F16(values) => one_by_one(chunk, |i| values[i].to_f32(), score, start, out),
        Floats::F32(values) => one_by_one(chunk, |i| values[i], score, start, out),
        Floats::F64(values) => one_by_one(chunk, |i| values[i], score, start, out),
    }
}

/// The general way: any list type, any width, null tokens, and the error that names the row.
fn one_by_one<T: Real>(
    chunk: &FloatLists,
    value: impl Fn(usize) -> T,
    score: Score,
    start: usize,
    out: &mut [f64],
) -> Result<()> {
    let mut logprobs = Vec::new();
    for (i, out) in out.iter_mut().enumerate() {
        let row = start + i;
        let Some(span) = chunk.lists.span(row) else {
            *out = f64::NAN;
            continue;
        };
        logprobs.clear();
        match &chunk.value_nulls {
            Some(nulls) => logprobs.extend(span.filter(|&k| nulls.is_valid(k)).map(&value)),
            None => logprobs.extend(span.map(&value)),
        }
        let bad = logprobs.iter().map(|x| x.f64()).find(|&x| x.is_nan() || x > ROUNDING);
        if let Some(bad) = bad {
            return Err(Error::row(row, format!("{bad} is not a logprob")));
        }
        *out = score.of(&logprobs);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrays::float_lists;
    use arrow_array::types::Float32Type;
    use arrow_array::{Array, ArrayRef, ListArray};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn column(rows: Vec<Option<Vec<Option<f32>>>>) -> Chunked<FloatLists> {
        let array: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(rows));
        // Two chunks, the second one sliced: offsets that do not begin at 0.
        let half = array.len() / 2;
        float_lists(
            &[array.slice(0, half), array.slice(half, array.len() - half)],
            &Control::default(),
        )
        .unwrap()
    }

    #[test]
    fn edges_have_their_written_meaning() {
        let lists = column(vec![
            None,
            Some(vec![]),
            Some(vec![Some(-1.0), None, Some(-3.0)]),
            Some(vec![Some(f32::NEG_INFINITY)]),
            Some(vec![Some(0.0)]),
        ]);
        let nll = score(&lists, Score::MeanNll, &Control::default()).unwrap();
        assert!(nll.any_null);
        let nll = nll.values;
        assert!(nll[0].is_nan() && nll[1].is_nan());
        assert_eq!(nll[2..], [2.0, f64::INFINITY, 0.0]);
        let sums = score(&lists, Score::Sum, &Control::default()).unwrap().values;
        assert_eq!(sums[1..], [0.0, -4.0, f64::NEG_INFINITY, 0.0]);
    }

    #[test]
    fn chunks_of_any_size_are_scored_as_one() {
        let rows: Vec<_> = (0..40_000).map(|i| Some(vec![Some(-(i as f32)); i % 5])).collect();
        let array: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(rows));
        let control = Control::default();
        let whole = float_lists(std::slice::from_ref(&array), &control).unwrap();
        let cuts = [0, 0, 3, 8_191, 8_192, 8_193, 30_000, 40_000];
        let parts: Vec<_> = cuts.windows(2).map(|w| array.slice(w[0], w[1] - w[0])).collect();
        let parts = float_lists(&parts, &control).unwrap();
        let bits = |column| {
            let found = score(column, Score::MeanNll, &control).unwrap();
            found.values.into_iter().map(f64::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(bits(&whole), bits(&parts));
    }

    #[test]
    fn what_is_no_logprob_is_refused_with_its_row() {
        for bad in [f32::NAN, 0.5, f32::INFINITY] {
            let good = vec![Some(vec![Some(-1.0)]); 3];
            let lists = column([good, vec![Some(vec![Some(-1.0), Some(bad)])]].concat());
            let error = score(&lists, Score::MeanNll, &Control::default()).unwrap_err();
            assert!(error.to_string().starts_with("row 3: "), "{error}");
        }
    }

    proptest! {
        #[test]
        fn scores_are_those_of_float64(rows in prop::collection::vec(
            prop::option::of(prop::collection::vec(prop::option::of(-30.0f32..0.0), 0..70)), 0..40))
        {
            let lists = column(rows.clone());
            let control = Control::default();
            for (kind, n) in [(Score::MeanNll, usize::MAX), (Score::TailMeanNll(3), 3)] {
                let got = score(&lists, kind, &control).unwrap();
                prop_assert_eq!(got.any_null, got.values.iter().any(|x| x.is_nan()));
                for (row, got) in rows.iter().zip(got.values) {
                    let valid: Vec<f64> =
                        row.iter().flatten().flatten().map(|&x| f64::from(x)).collect();
                    let tail = &valid[valid.len().saturating_sub(n)..];
                    let want = -tail.iter().sum::<f64>() / tail.len() as f64;
                    prop_assert!(
                        got.is_nan() && want.is_nan()
                        || (got - want).abs() <= 1e-6 * want.abs());
                }
            }
        }
    }
}
