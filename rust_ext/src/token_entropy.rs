//! Entropy of the next-token distributions of a response, of which only the top k are known.
//!
//! What the top k leave over, `r = 1 − Σ p_i`, is bounded and not ignored: every unseen token is at
//! most as probable as the k-th, `p_k`, and there are `V − k` of them. The entropy of the rest is
//! least where it fills as few tokens as it can, each of `p_k`, and largest where it is spread
//! evenly over all of them. Engines put the sampled token beside the top k where it is none of
//! them: its probability is known, and bounds no other.

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, UInt32Type};
use arrow_array::{Array, ArrayRef};
use arrow_buffer::ScalarBuffer;
use arrow_schema::DataType;

use crate::arrays::{Chunked, FloatLists, Lists};
use crate::error::{Error, Result};
use crate::parallel::{self, Control};
use crate::scores::ROUNDING;

/// Bounds of the mean entropy per token, in nats; NaN where a response has no tokens.
pub type Bounds = (f64, f64);

/// How many tokens there are, and how many of the most probable ones a list is known to hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub vocabulary: usize,
    pub k: Option<usize>,
}

/// A response is a list of tokens, a token the list of its top-k logprobs in any order.
///
/// Raises an error with the row for NaN, for values above 0, for a token whose probabilities add up
/// to more than 1.001, and for more values than the vocabulary has.
pub fn token_entropy(
    outer: &Chunked<Lists>,
    inner: &[FloatLists],
    limits: Limits,
    control: &Control,
) -> Result<Vec<Bounds>> {
    let mut out = vec![(f64::NAN, f64::NAN); outer.len()];
    let mut rest = out.as_mut_slice();
    for ((first_row, responses), tokens) in outer.iter().zip(inner) {
        let (here, after) = rest.split_at_mut(responses.rows);
        rest = after;
        parallel::fill(here, control, |start, rows| {
            let mut logprobs = Vec::new();
            for (i, out) in rows.iter_mut().enumerate() {
                *out = response(responses, tokens, start + i, limits, &mut logprobs)
                    .map_err(|message| Error::row(first_row + start + i, message))?;
            }
            Ok(())
        })?;
    }
    Ok(out)
}

fn response(
    responses: &Lists,
    tokens: &FloatLists,
    row: usize,
    limits: Limits,
    logprobs: &mut Vec<f64>,
) -> std::result::Result<Bounds, String> {
    let mut mean = Mean::default();
    for token in responses.span(row).unwrap_or(0..0) {
        logprobs.clear();
        let span = tokens.lists.span(token).unwrap_or(0..0);
        logprobs.extend(span.filter_map(|i| tokens.value(i)));
        mean.add(logprobs, limits)?;
    }
    Ok(mean.bounds())
}

/// The same of two parallel lists: the top-k logprobs of all tokens of a response one after another,
/// and for each of them the position of its token, which never falls.
///
/// Raises an error with the row for lists of different lengths and for a position that falls, too.
pub fn token_entropy_by_position(
    logprobs: &Chunked<FloatLists>,
    positions: &Chunked<IntegerLists>,
    limits: Limits,
    control: &Control,
) -> Result<Vec<Bounds>> {
    if logprobs.len() != positions.len() {
        let (have, need) = (positions.len(), logprobs.len());
        return Err(Error::input(format!("positions has {have} rows, logprobs has {need}")));
    }
    let mut out = vec![(f64::NAN, f64::NAN); logprobs.len()];
    parallel::fill(&mut out[..], control, |start, rows| {
        let mut token = Vec::new();
        for (i, out) in rows.iter_mut().enumerate() {
            let row = start + i;
            *out = flat_response(logprobs.locate(row), positions.locate(row), limits, &mut token)
                .map_err(|message| Error::row(row, message))?;
        }
        Ok(())
    })?;
    Ok(out)
}

fn flat_response(
    (logprobs, row): (&FloatLists, usize),
    (positions, position_row): (&IntegerLists, usize),
    limits: Limits,
    token: &mut Vec<f64>,
) -> std::result::Result<Bounds, String> {
    let values = logprobs.lists.span(row).unwrap_or(0..0);
    let places = positions.lists.span(position_row).unwrap_or(0..0);
    if values.len() != places.len() {
        return Err(format!("{} logprobs, but {} positions", values.len(), places.len()));
    }
    let mut mean = Mean::default();
    let mut previous = None;
    token.clear();
    for (i, place) in values.zip(places) {
        let position = positions.get(place);
        if previous.is_some_and(|previous| position < previous) {
            return Err(format!("position {position} comes after a later one"));
        }
        if previous.replace(position) != Some(position) {
            mean.add(token, limits)?;
            token.clear();
        }
        token.extend(logprobs.value(i));
    }
    mean.add(token, limits)?;
    Ok(mean.bounds())
}

/// Lists of integers.
pub struct IntegerLists {
    lists: Lists,
    values: Integers,
}

enum Integers {
    I32(ScalarBuffer<i32>),
    I64(ScalarBuffer<i64>),
    U32(ScalarBuffer<u32>),
}

impl IntegerLists {
    /// Raises an error for what is no list of int32, int64 or uint32, and for nulls in one.
    pub fn new(array: &ArrayRef, control: &Control) -> Result<Self> {
        let lists = Lists::new(array, control)?;
        let Some(inner) = &lists.values else {
            return Ok(Self { lists, values: Integers::I64(vec![].into()) });
        };
        let values = match inner.data_type() {
            DataType::Int32 => Integers::I32(inner.as_primitive::<Int32Type>().values().clone()),
            DataType::Int64 => Integers::I64(inner.as_primitive::<Int64Type>().values().clone()),
            DataType::UInt32 => Integers::U32(inner.as_primitive::<UInt32Type>().values().clone()),
            other => return Err(Error::input(format!("expected lists of integers, got {other}"))),
        };
        if inner.null_count() > 0 {
            return Err(Error::input("positions: a list holds a null"));
        }
        Ok(Self { lists, values })
    }

    fn get(&self, i: usize) -> i64 {
        match &self.values {
            Integers::I32(values) => values[i].into(),
            Integers::I64(values) => values[i],
            Integers::U32(values) => values[i].into(),
        }
    }
}

pub fn integer_lists(arrays: &[ArrayRef], control: &Control) -> Result<Chunked<IntegerLists>> {
    Chunked::new(arrays, |array| IntegerLists::new(array, control))
}

/// The mean over the tokens of a response.
#[derive(Default)]
struct Mean {
    low: f64,
    high: f64,
    tokens: usize,
}

impl Mean {
    /// A token of which nothing is known does not count.
    fn add(&mut self, logprobs: &mut [f64], limits: Limits) -> std::result::Result<(), String> {
        if !logprobs.is_empty() {
            let (low, high) = bounds(logprobs, limits)?;
            self.low += low;
            self.high += high;
            self.tokens += 1;
        }
        Ok(())
    }

    fn bounds(&self) -> Bounds {
        (self.low / self.tokens as f64, self.high / self.tokens as f64)
    }
}

/// Bounds of the entropy of one token; sorts its logprobs, the largest first.
fn bounds(logprobs: &mut [f64], limits: Limits) -> std::result::Result<Bounds, String> {
    let vocabulary = limits.vocabulary;
    if logprobs.len() > vocabulary {
        return Err(format!("{} logprobs, the vocabulary has {vocabulary}", logprobs.len()));
    }
    let (mut known, mut entropy) = (0.0, 0.0);
    for &x in &*logprobs {
        if x.is_nan() || x > ROUNDING {
            return Err(format!("{x} is not a logprob"));
        }
        let p = x.exp();
        known += p;
        entropy += h(p);
    }
    if known > 1.001 {
        return Err(format!("the probabilities of a token add up to {known}"));
    }
    let rest = (1.0 - known).max(0.0);
    let unseen = vocabulary - logprobs.len();
    if rest == 0.0 || unseen == 0 {
        return Ok((entropy, entropy));
    }
    logprobs.sort_unstable_by(|a, b| b.total_cmp(a));
    // The tokens that are not in the list come after the k-th, the last one or, where the sampled
    // token may have been put beside the top ones, the last but one.
    let k = limits.k.unwrap_or(logprobs.len() - 1).min(logprobs.len());
    let largest = k.checked_sub(1).map_or(rest, |last| logprobs[last].exp());
    let even = unseen as f64 * h(rest / unseen as f64);
    let packed = if largest > 0.0 {
        let full = (rest / largest).floor();
        full * h(largest) + h((rest - full * largest).max(0.0))
    } else {
        h(rest)
    };
    // Where rounding leaves the unseen tokens too few, all that is known is the even spread.
    Ok((entropy + packed.min(even), entropy + even))
}

fn h(p: f64) -> f64 {
    if p > 0.0 { -p * p.ln() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(logprobs: &[f64], vocabulary: usize, k: Option<usize>) -> Option<Bounds> {
        bounds(&mut logprobs.to_vec(), Limits { vocabulary, k }).ok()
    }

    #[test]
    fn what_is_known_in_full_has_one_value() {
        let (low, high) = of(&[0.5f64.ln(), 0.5f64.ln()], 2, None).unwrap();
        assert!((low - 2f64.ln()).abs() < 1e-12 && (high - low).abs() < 1e-12);
        assert_eq!(of(&[0.0], 100, None), Some((0.0, 0.0)));
        assert_eq!(of(&[0.0, -0.1], 100, None), None);
        assert_eq!(of(&[-1.0, -1.0], 1, None), None);
        assert_eq!(of(&[f64::NAN], 1, None), None);
    }

    proptest! {
        #[test]
        fn the_entropy_lies_between_the_bounds(
            weights in prop::collection::vec(0.001f64..1.0, 2..30), k in 0usize..30, sampled in 0usize..30)
        {
            let total: f64 = weights.iter().sum();
            let mut p: Vec<f64> = weights.iter().map(|w| w / total).collect();
            p.sort_by(|a, b| b.total_cmp(a));
            let exact: f64 = p.iter().map(|p| h(*p)).sum();
            let (k, sampled) = (k.min(p.len()), sampled % p.len());
            // The sampled token comes first, whatever its rank.
            let beside = (sampled >= k).then_some(sampled);
            let ranks = beside.into_iter().chain(0..k);
            let logprobs: Vec<f64> = ranks.map(|rank| p[rank].ln()).collect();
            for k in [None, Some(k)] {
                let Some((low, high)) = of(&logprobs, p.len(), k) else { panic!("refused") };
                prop_assert!(low <= exact + 1e-9 && exact <= high + 1e-9, "{low} {exact} {high}");
            }
        }
    }
}
