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

/// For each example the mean over its rows of `softmax(option_logprobs)`.
///
/// A null or empty list, or one of −∞ alone, is left out; a null or −∞ in a list is a probability
/// of 0. Raises an error with the row for NaN, for values above 0, for lists of different lengths
/// within one example, and for more options than `classes`.
pub fn average(
    groups: &Groups,
    logprobs: &Chunked<FloatLists>,
    classes: usize,
    control: &Control,
) -> Result<Distributions> {
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
                if !softmax(logprobs, row, &mut one)? {
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
                sum.iter_mut().zip(&one).for_each(|(sum, p)| *sum += p);
                voices += 1;
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
    out.iter_mut().for_each(|x| *x = (*x - largest).exp());
    let total: f64 = out.iter().sum();
    out.iter_mut().for_each(|p| *p /= total);
    Ok(true)
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

    fn averaged(rows: Vec<Option<Vec<Option<f32>>>>) -> Result<Distributions> {
        let ids: ArrayRef = Arc::new(StringArray::from(vec!["x"; rows.len()]));
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(rows));
        let control = Control::default();
        let groups = Groups::new(&texts(&[ids], &control)?, &control)?;
        average(&groups, &float_lists(&[lists], &control)?, 3, &control)
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
