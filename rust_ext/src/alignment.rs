//! Alignment of many distributions to a prior of their classes, by iterated scaling.
//!
//! Weights are kept as logarithms: an example that rules a class out (a probability of 0, which is
//! what an option outside an endpoint's top logprobs has) can make a prior unreachable, and the
//! weights then grow without end. How near the means come to the prior is measured in every round,
//! the weights of the nearest one are the result, and no weights at all are the first candidate: so
//! it is never further from the prior than what came in.

use crate::distribution::Distributions;
use crate::error::{Error, Result};
use crate::parallel::{self, Control};

/// What came of an alignment.
#[derive(Debug, Clone, PartialEq)]
pub struct Alignment {
    /// One for each class, finite; the largest is 1, and 0 is that of a class of prior 0.
    pub weights: Vec<f64>,
    /// How far the means stay from the prior over the classes that any example can be, as total
    /// variation: half the sum of the absolute differences.
    pub distance: f64,
}

const MOST_ROUNDS: usize = 1000;
/// Means this near the prior are there.
const NEAR: f64 = 1e-9;
/// The scaling has stalled where it comes less than a hundredth nearer in this many rounds.
const PATIENCE: usize = 50;
/// Least logarithm of a weight, the largest being 0: with it no product with a probability of
/// float32 is lost.
const LEAST: f64 = -500.0;

/// The class weights `w` with which the mean of `p_i(c) w_c / Σ_k p_i(k) w_k` over the examples is
/// the prior, or as near to it as scaling comes (`w_c ← w_c · prior_c / mean_c`).
///
/// The prior is that of the classes which some example can be; all weights are 1 where it has none
/// of them. Sums run in the order of the examples; a caller who wants the same bits from any order
/// sorts first.
pub fn alignment(p: &Distributions, prior: &[f64], control: &Control) -> Result<Alignment> {
    let total: f64 = prior.iter().sum();
    if prior.iter().any(|x| *x < 0.0) || !total.is_finite() || total == 0.0 {
        return Err(Error::input("prior: shares are finite, not negative and not all 0"));
    }
    let mut possible = vec![false; prior.len()];
    for i in 0..p.len() {
        possible.iter_mut().zip(p.get(i)).for_each(|(any, p)| *any |= *p > 0.0);
    }
    let shares =
        prior.iter().zip(&possible).map(|(share, any)| if *any { share / total } else { 0.0 });
    let mut prior: Vec<f64> = shares.collect();
    let reachable: f64 = prior.iter().sum();
    if reachable == 0.0 {
        return Ok(Alignment { weights: vec![1.0; prior.len()], distance: 1.0 });
    }
    prior.iter_mut().for_each(|share| *share /= reachable);
    let start =
        |(share, any): (&f64, &bool)| if *share > 0.0 || !any { 0.0 } else { f64::NEG_INFINITY };
    let logs: Vec<f64> = prior.iter().zip(&possible).map(start).collect();
    scaled(p, &prior, logs, control)
}

fn scaled(
    p: &Distributions,
    prior: &[f64],
    mut logs: Vec<f64>,
    control: &Control,
) -> Result<Alignment> {
    let mut best = Alignment { weights: vec![], distance: f64::INFINITY };
    let mut before = f64::INFINITY;
    for round in 0..MOST_ROUNDS {
        control.check()?;
        let weights: Vec<f64> = logs.iter().map(|log| log.exp()).collect();
        let means = means(p, &weights, control)?;
        let distance = prior.iter().zip(&means).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0;
        // No better by more than rounding is no better.
        if best.weights.is_empty() || distance < best.distance - 1e-12 {
            best = Alignment { weights, distance };
        }
        if best.distance < NEAR {
            break;
        }
        if round % PATIENCE == 0 {
            if best.distance > 0.99 * before {
                break;
            }
            before = best.distance;
        }
        for ((log, mean), prior) in logs.iter_mut().zip(&means).zip(prior) {
            if *mean > 0.0 && *prior > 0.0 {
                *log += (prior / mean).ln();
            }
        }
        let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for log in logs.iter_mut().filter(|log| log.is_finite()) {
            *log = (*log - largest).max(LEAST);
        }
    }
    Ok(best)
}

/// The mean over the examples of their distributions under these weights.
fn means(p: &Distributions, weights: &[f64], control: &Control) -> Result<Vec<f64>> {
    let blocks = parallel::map(p.len(), control, |range| {
        let (mut sums, mut n) = (vec![0.0; weights.len()], 0usize);
        let mut one = Vec::new();
        for i in range {
            if scale(p.get(i), weights, &mut one) {
                n += 1;
                sums.iter_mut().zip(&one).for_each(|(sum, p)| *sum += p);
            }
        }
        Ok((sums, n))
    })?;
    let mut sums = vec![0.0; weights.len()];
    let mut n = 0;
    for (block, m) in blocks {
        sums.iter_mut().zip(block).for_each(|(sum, x)| *sum += x);
        n += m;
    }
    Ok(sums.into_iter().map(|sum| sum / n.max(1) as f64).collect())
}

/// `p_c w_c / Σ p_k w_k` into `out`; false where there is no distribution.
fn scale(p: &[f32], weights: &[f64], out: &mut Vec<f64>) -> bool {
    out.clear();
    out.extend(p.iter().zip(weights).map(|(p, w)| f64::from(*p) * w));
    let total: f64 = out.iter().sum();
    if total > 0.0 {
        out.iter_mut().for_each(|p| *p /= total);
    }
    // All of a row's mass may lie on classes of prior 0: then it has nothing to say.
    total > 0.0
}

/// The most probable class and its probability.
pub type Best = Option<(usize, f32)>;

/// The distributions under class weights, and the most probable class of each with its probability
/// (the first of equal ones). An example without a distribution has none of the three.
///
/// Raises an error for weights that are negative, not finite, or all 0.
pub fn apply(
    p: &Distributions,
    weights: &[f64],
    control: &Control,
) -> Result<(Distributions, Vec<Best>)> {
    if let Some(bad) = weights.iter().find(|w| !(**w >= 0.0 && w.is_finite())) {
        return Err(Error::input(format!("weights: {bad} is not a weight")));
    }
    let largest = weights.iter().copied().fold(0.0, f64::max);
    if largest == 0.0 && !weights.is_empty() {
        return Err(Error::input("weights: all are 0"));
    }
    // Weights count by their ratios alone, and products of those up to 1 do not overflow.
    let weights: Vec<f64> = weights.iter().map(|w| w / largest).collect();
    let mut scaled = p.clone();
    let mut offsets = vec![0];
    scaled.values.clear();
    let mut best = Vec::with_capacity(p.len());
    let mut one = Vec::new();
    for i in 0..p.len() {
        if i % parallel::BLOCK_ROWS == 0 {
            control.check()?;
        }
        if scale(p.get(i), &weights, &mut one) {
            let mut top = 0;
            let start = scaled.values.len();
            scaled.values.extend(one.iter().map(|x| *x as f32));
            let row = &scaled.values[start..];
            for (class, value) in row.iter().enumerate() {
                if *value > row[top] {
                    top = class;
                }
            }
            best.push(Some((top, row[top])));
        } else {
            best.push(None);
        }
        offsets.push(scaled.values.len());
    }
    scaled.offsets = offsets;
    Ok((scaled, best))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn distributions(rows: &[Vec<f32>]) -> Distributions {
        let ends = rows.iter().scan(0, |end, row| {
            *end += row.len();
            Some(*end)
        });
        Distributions { offsets: [0].into_iter().chain(ends).collect(), values: rows.concat() }
    }

    /// How far the means of these weights lie from a prior over the classes that any row can be.
    fn distance(p: &Distributions, weights: &[f64], prior: &[f64]) -> f64 {
        let possible = |c: usize| (0..p.len()).any(|i| p.get(i).get(c).is_some_and(|p| *p > 0.0));
        let share = |c: usize| if possible(c) { prior[c] } else { 0.0 };
        let total: f64 = (0..prior.len()).map(share).sum();
        let got = means(p, weights, &Control::default()).unwrap();
        (0..prior.len()).map(|c| (got[c] - share(c) / total).abs()).sum::<f64>() / 2.0
    }

    #[test]
    fn a_prior_out_of_reach_leaves_things_as_they_are() {
        let control = Control::default();
        let rows = [vec![vec![1.0, 0.0]; 990], vec![vec![0.0, 1.0]; 10]].concat();
        let p = distributions(&rows);
        let got = alignment(&p, &[0.5, 0.5], &control).unwrap();
        assert_eq!(got.weights, [1.0, 1.0]);
        assert!((got.distance - 0.49).abs() < 1e-12);
        let (scaled, best) = apply(&p, &got.weights, &control).unwrap();
        assert_eq!(scaled, p);
        assert!(best.iter().all(Option::is_some));
    }

    #[test]
    fn classes_that_no_row_can_be_do_not_count() {
        let control = Control::default();
        let p = distributions(&[vec![0.5, 0.5], vec![0.75, 0.25], vec![]]);
        let got = alignment(&p, &[0.125, 0.125, 0.75], &control).unwrap();
        assert!(got.distance < NEAR && distance(&p, &got.weights, &[1.0, 1.0, 6.0]) < NEAR);
        let got = alignment(&p, &[0.0, 0.0, 1.0], &control).unwrap();
        assert_eq!((got.weights, got.distance), (vec![1.0; 3], 1.0));
        let got = alignment(&p, &[0.0, 1.0, 1.0], &control).unwrap();
        assert_eq!(got.weights[0], 0.0);
    }

    #[test]
    fn weights_that_are_none_are_refused() {
        let p = distributions(&[vec![0.5, 0.5]]);
        for bad in [[f64::NAN, 1.0], [f64::INFINITY, 1.0], [-1.0, 1.0], [0.0, 0.0]] {
            assert!(apply(&p, &bad, &Control::default()).is_err());
        }
        let (scaled, _) = apply(&p, &[f64::MAX, f64::MAX], &Control::default()).unwrap();
        assert_eq!(scaled.values, [0.5, 0.5]);
        for bad in [[f64::MAX, f64::MAX], [f64::NAN, 1.0], [0.0, 0.0], [-1.0, 2.0]] {
            assert!(alignment(&p, &bad, &Control::default()).is_err());
        }
    }

    /// Rows of one to four options, some of which they rule out.
    fn rows() -> impl Strategy<Value = Vec<Vec<f32>>> {
        let p = prop_oneof![Just(0.0f32), Just(1e-30f32), 0.01f32..1.0];
        prop::collection::vec(prop::collection::vec(p, 0..5), 1..40).prop_map(|mut rows| {
            for row in &mut rows {
                let total: f32 = row.iter().sum();
                if total > 0.0 {
                    row.iter_mut().for_each(|p| *p /= total);
                } else {
                    row.clear();
                }
            }
            rows
        })
    }

    proptest! {
        #[test]
        fn no_alignment_is_never_nearer_to_the_prior(
            rows in rows(), prior in prop::collection::vec(prop_oneof![Just(1e-9), 0.01f64..1.0], 4))
        {
            let p = distributions(&rows);
            let control = Control::default();
            let got = alignment(&p, &prior, &control).unwrap();
            prop_assert!(got.weights.iter().all(|w| *w > 0.0 && w.is_finite()));
            let known = rows.iter().any(|row| !row.is_empty());
            if known {
                let there = distance(&p, &got.weights, &prior);
                prop_assert!(there <= distance(&p, &[1.0; 4], &prior) + 1e-9);
                prop_assert!((there - got.distance).abs() < 1e-9);
            }
            let (scaled, best) = apply(&p, &got.weights, &control).unwrap();
            for (i, best) in best.iter().enumerate() {
                prop_assert_eq!(best.is_some(), !rows[i].is_empty());
                let sum = scaled.get(i).iter().sum::<f32>();
                prop_assert!(best.is_none() || (sum - 1.0).abs() < 1e-5);
                prop_assert!(scaled.get(i).iter().all(|p| *p <= best.unwrap().1));
            }
        }

        #[test]
        fn aligned_means_are_the_prior(
            rows in prop::collection::vec(prop::collection::vec(0.05f32..1.0, 3), 1..40),
            prior in prop::collection::vec(0.1f64..1.0, 3))
        {
            let rows: Vec<Vec<f32>> = rows.into_iter().map(|row| {
                let total: f32 = row.iter().sum();
                row.into_iter().map(|p| p / total).collect()
            }).collect();
            let p = distributions(&rows);
            let got = alignment(&p, &prior, &Control::default()).unwrap();
            prop_assert!(distance(&p, &got.weights, &prior) < 1e-6);
            prop_assert!(got.distance < 1e-6);
        }
    }
}
