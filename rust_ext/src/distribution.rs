//! Distributions over the options of closed-answer tasks, and their average over the collaborators.

use crate::arrays::{Chunked, FloatLists};
use crate::error::{Error, Result};
use crate::groups::Groups;
use crate::parallel::{self, Control};
use crate::scores::ROUNDING;

/// Lists of probabilities: those of example `g` are `values[offsets[g]..offsets[g + 1]]`; an empty
/// list means that there is none.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Distributions {
    pub offsets: Vec<usize>,
    pub values: Vec<f32>,
}

impl Distributions {
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, i: usize) -> &[f32] {
        &self.values[self.offsets[i]..self.offsets[i + 1]]
    }
}

/// A voter rules no option out: in a pool its probabilities are at least this.
const SMALLEST: f64 = 1e-6;

/// For each example the mean over its rows of `softmax(option_logprobs)`; with `weights`, one for
/// each row, their log-linear pool: proportional to the product of `softmax(option_logprobs)^w`,
/// without the rows of weight 0.
///
/// A null or empty list, or one of −∞ alone, is left out; a null or −∞ in a list is a probability
/// of 0. Raises an error with the row for NaN, for values above 0, for lists of different lengths
/// within one example, for more options than `classes`, and for a weight that is negative or not
/// finite.
pub fn combine(
    groups: &Groups,
    logprobs: &Chunked<FloatLists>,
    weights: Option<&[f64]>,
    classes: usize,
    control: &Control,
) -> Result<Distributions> {
    if let Some(weights) = weights {
        check_weights(weights, groups.rows())?;
    }
    if logprobs.len() != groups.rows() {
        return Err(Error::input(format!(
            "{} example ids, but {} option_logprobs",
            groups.rows(),
            logprobs.len()
        )));
    }
    let blocks = parallel::map(groups.len(), control, |range| {
        let mut block = Distributions { offsets: Vec::with_capacity(range.len()), values: vec![] };
        let (mut one, mut sum) = (Vec::new(), Vec::new());
        for group in range {
            let mut voices = 0;
            sum.clear();
            for row in groups.rows_of(group) {
                let weight = weights.map(|weights| weights[row]);
                if weight == Some(0.0) || !softmax(logprobs, row, &mut one)? {
                    continue;
                }
                if one.len() > classes {
                    let message = format!("{} options, but {classes} classes", one.len());
                    return Err(Error::row(row, message));
                }
                if voices > 0 && one.len() != sum.len() {
                    let message = format!("{} options, another row has {}", one.len(), sum.len());
                    return Err(Error::row(row, message));
                }
                sum.resize(one.len(), 0.0);
                match weight {
                    None => sum.iter_mut().zip(&one).for_each(|(sum, p)| *sum += p),
                    Some(w) => sum
                        .iter_mut()
                        .zip(&one)
                        .for_each(|(sum, p)| *sum += w * p.max(SMALLEST).ln()),
                }
                voices += 1;
            }
            if weights.is_some() {
                normalise(&mut sum);
                voices = 1;
            }
            block.values.extend(sum.iter().map(|p| (p / f64::from(voices)) as f32));
            block.offsets.push(block.values.len());
        }
        Ok(block)
    })?;
    let mut all = Distributions { offsets: vec![0], values: vec![] };
    for block in blocks {
        let base = all.values.len();
        all.offsets.extend(block.offsets.iter().map(|end| base + end));
        all.values.extend(block.values);
    }
    Ok(all)
}

/// Softmax of a row's list into `out`; false where there is nothing to take it of.
fn softmax(column: &Chunked<FloatLists>, row: usize, out: &mut Vec<f64>) -> Result<bool> {
    let (chunk, local) = column.locate(row);
    out.clear();
    let Some(span) = chunk.lists.span(local) else { return Ok(false) };
    out.extend(span.map(|i| chunk.value(i).unwrap_or(f64::NEG_INFINITY)));
    if let Some(bad) = out.iter().find(|&&x| x.is_nan() || x > ROUNDING) {
        return Err(Error::row(row, format!("{bad} is not a logprob")));
    }
    let largest = out.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return Ok(false);
    }
    normalise(out);
    Ok(true)
}

/// Logarithms to the probabilities that they are proportional to.
fn normalise(logs: &mut [f64]) {
    let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    logs.iter_mut().for_each(|x| *x = (*x - largest).exp());
    let total: f64 = logs.iter().sum();
    logs.iter_mut().for_each(|p| *p /= total);
}

fn check_weights(weights: &[f64], rows: usize) -> Result<()> {
    if weights.len() != rows {
        return Err(Error::input(format!("{rows} example ids, but {} weights", weights.len())));
    }
    match weights.iter().position(|w| !(w.is_finite() && *w >= 0.0)) {
        Some(row) => Err(Error::row(row, format!("{} is not a weight", weights[row]))),
        None => Ok(()),
    }
}

/// Lists of probabilities, with an empty one for null. Raises an error with the row for what is no
/// probability, and for more options than `classes`.
pub fn from_lists(column: &Chunked<FloatLists>, classes: usize) -> Result<Distributions> {
    let mut all = Distributions { offsets: vec![0], values: vec![] };
    for row in 0..column.len() {
        let (chunk, local) = column.locate(row);
        let span = chunk.lists.span(local).unwrap_or(0..0);
        if span.len() > classes {
            return Err(Error::row(row, format!("{} options, but {classes} classes", span.len())));
        }
        for i in span {
            let p = chunk.value(i).unwrap_or(f64::NAN);
            if !(0.0..=1.0 + ROUNDING).contains(&p) {
                return Err(Error::row(row, format!("{p} is not a probability")));
            }
            all.values.push(p as f32);
        }
        all.offsets.push(all.values.len());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrays::float_lists;
    use crate::texts::texts;
    use arrow_array::types::Float32Type;
    use arrow_array::{ArrayRef, ListArray, StringArray};
    use std::sync::Arc;

    fn combined(
        rows: Vec<Option<Vec<Option<f32>>>>,
        weights: Option<&[f64]>,
    ) -> Result<Distributions> {
        let ids: ArrayRef = Arc::new(StringArray::from(vec!["x"; rows.len()]));
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(rows));
        let control = Control::default();
        let groups = Groups::new(&texts(&[ids], &control)?, &control)?;
        combine(&groups, &float_lists(&[lists], &control)?, weights, 3, &control)
    }

    fn averaged(rows: Vec<Option<Vec<Option<f32>>>>) -> Result<Distributions> {
        combined(rows, None)
    }

    #[test]
    fn a_pool_weighs_its_rows() {
        let ln = |p: [f32; 2]| Some(vec![Some(p[0].ln()), Some(p[1].ln())]);
        let rows = vec![ln([0.8, 0.2]), ln([0.4, 0.6]), ln([0.1, 0.9])];
        let alone = combined(rows.clone(), Some(&[1.0, 0.0, 0.0])).unwrap();
        assert!((alone.get(0)[0] - 0.8).abs() < 1e-6);
        let both = combined(rows.clone(), Some(&[2.0, 1.0, 0.0])).unwrap();
        let want = 0.64 * 0.4 / (0.64 * 0.4 + 0.04 * 0.6);
        assert!((both.get(0)[0] - want).abs() < 1e-6, "{:?}", both.get(0));
        let ruled_out = vec![Some(vec![Some(0.0), None]), ln([0.5, 0.5])];
        let got = combined(ruled_out, Some(&[1.0, 1.0])).unwrap();
        assert!(got.get(0)[1] > 0.0 && got.get(0)[1] < 1e-5);
        assert_eq!(combined(rows.clone(), Some(&[0.0; 3])).unwrap().get(0), [0.0f32; 0]);
        for bad in [-1.0, f64::NAN, f64::INFINITY] {
            let error = combined(rows.clone(), Some(&[1.0, bad, 1.0])).unwrap_err();
            assert!(error.to_string().starts_with("row 1: "), "{error}");
        }
        assert!(combined(rows, Some(&[1.0])).is_err());
    }

    #[test]
    fn what_is_missing_is_left_out() {
        let half = Some(vec![Some(-1.0), Some(-1.0)]);
        let sure = Some(vec![Some(-1.0), None]);
        let nothing = Some(vec![Some(f32::NEG_INFINITY); 2]);
        let got = averaged(vec![half.clone(), None, sure, nothing.clone(), Some(vec![])]).unwrap();
        assert_eq!(got.get(0), [0.75, 0.25]);
        assert_eq!(averaged(vec![None, nothing]).unwrap().get(0), [0.0f32; 0]);
        let error = averaged(vec![half, Some(vec![Some(-1.0)])]).unwrap_err();
        assert!(error.to_string().starts_with("row 1: 1 options"), "{error}");
        assert!(averaged(vec![Some(vec![Some(-1.0); 4])]).is_err());
        assert!(averaged(vec![Some(vec![Some(f32::NAN)])]).is_err());
    }
}
