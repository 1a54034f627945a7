//! How far collaborators agree with each other over a table: pairwise shares, Cohen's and Fleiss'
//! kappa. An example counts for a pair where both have an answer.

use rustc_hash::FxHashMap;

use crate::arrays::Chunked;
use crate::error::{Error, Result};
use crate::groups::Groups;
use crate::parallel::{BLOCK_ROWS, Control};
use crate::texts::Texts;

#[derive(Debug, Clone, PartialEq)]
pub struct Agreement {
    /// In the order in which they first occur.
    pub collaborators: Vec<String>,
    /// Row-major matrices, collaborators × collaborators. Examples that both answered:
    pub both: Vec<u64>,
    /// Of these the share with equal answers; NaN where there are none.
    pub agreement: Vec<f64>,
    /// Cohen's kappa `(p_o − p_e) / (1 − p_e)`, where `p_e = Σ_c p_a(c) p_b(c)`; NaN where
    /// `p_e` is 1 (both always say one and the same) or there are no examples.
    pub kappa: Vec<f64>,
    /// Fleiss' kappa over the examples with two votes or more: `p_o` is the mean over the examples
    /// of the share of agreeing pairs of votes, `p_e = Σ_c p_c²` over all their votes.
    pub fleiss_kappa: f64,
}

/// Compares canonical answers by spelling. Raises an error with the row for a null collaborator,
/// and for one that answers an example twice.
pub fn agreement(
    groups: &Groups,
    collaborators: &Chunked<Texts>,
    answers: &Chunked<Texts>,
    control: &Control,
) -> Result<Agreement> {
    if collaborators.len() != groups.rows() || answers.len() != groups.rows() {
        return Err(Error::input("example ids, collaborators and answers differ in length"));
    }
    let mut names: FxHashMap<&str, usize> = FxHashMap::default();
    let mut codes: FxHashMap<&str, usize> = FxHashMap::default();
    let mut pairs: FxHashMap<(usize, usize), Pair> = FxHashMap::default();
    let mut fleiss = Fleiss::default();
    let mut votes: Vec<(usize, usize)> = Vec::new();
    for group in 0..groups.len() {
        if group % BLOCK_ROWS == 0 {
            control.check()?;
        }
        votes.clear();
        let mut seen = Vec::new();
        for row in groups.rows_of(group) {
            let name =
                collaborators.get(row).ok_or_else(|| Error::row(row, "collaborator is null"))?;
            let next = names.len();
            let who = *names.entry(name).or_insert(next);
            if seen.contains(&who) {
                let message = format!("collaborator {name:?} has two rows of this example");
                return Err(Error::row(row, message));
            }
            seen.push(who);
            if let Some(answer) = answers.get(row) {
                let next = codes.len();
                votes.push((who, *codes.entry(answer).or_insert(next)));
            }
        }
        votes.sort_unstable();
        for (i, &(a, x)) in votes.iter().enumerate() {
            for &(b, y) in &votes[i..] {
                pairs.entry((a, b)).or_default().add(x, y);
            }
        }
        fleiss.add(&votes);
    }
    let n = names.len();
    let mut ordered = vec![String::new(); n];
    names.into_iter().for_each(|(name, i)| ordered[i] = name.to_owned());
    let (mut both, mut share, mut kappa) =
        (vec![0; n * n], vec![f64::NAN; n * n], vec![f64::NAN; n * n]);
    for ((a, b), pair) in pairs {
        for at in [a * n + b, b * n + a] {
            both[at] = pair.both;
            share[at] = pair.equal as f64 / pair.both as f64;
            kappa[at] = pair.kappa();
        }
    }
    Ok(Agreement {
        collaborators: ordered,
        both,
        agreement: share,
        kappa,
        fleiss_kappa: fleiss.kappa(),
    })
}

#[derive(Default)]
struct Pair {
    both: u64,
    equal: u64,
    /// Answer → how often either gave it.
    marginals: FxHashMap<usize, (u64, u64)>,
}

impl Pair {
    fn add(&mut self, x: usize, y: usize) {
        self.both += 1;
        self.equal += u64::from(x == y);
        self.marginals.entry(x).or_default().0 += 1;
        self.marginals.entry(y).or_default().1 += 1;
    }

    fn kappa(&self) -> f64 {
        let n = self.both as f64;
        // In whole numbers, so that the order of the map does not show.
        let chance: u128 = self.marginals.values().map(|m| u128::from(m.0) * u128::from(m.1)).sum();
        kappa(self.equal as f64 / n, chance as f64 / (n * n))
    }
}

#[derive(Default)]
struct Fleiss {
    examples: u64,
    votes: u64,
    agreeing: f64,
    counts: FxHashMap<usize, u64>,
}

impl Fleiss {
    fn add(&mut self, votes: &[(usize, usize)]) {
        let n = votes.len();
        if n < 2 {
            return;
        }
        let same = |x: usize| votes.iter().filter(|v| v.1 == x).count() - 1;
        let pairs: usize = votes.iter().map(|v| same(v.1)).sum();
        self.examples += 1;
        self.votes += n as u64;
        self.agreeing += pairs as f64 / (n * (n - 1)) as f64;
        votes.iter().for_each(|v| *self.counts.entry(v.1).or_default() += 1);
    }

    fn kappa(&self) -> f64 {
        let n = self.votes as f64;
        let chance: u128 = self.counts.values().map(|c| u128::from(*c) * u128::from(*c)).sum();
        kappa(self.agreeing / self.examples as f64, chance as f64 / (n * n))
    }
}

fn kappa(observed: f64, chance: f64) -> f64 {
    if chance < 1.0 { (observed - chance) / (1.0 - chance) } else { f64::NAN }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::texts::texts;
    use arrow_array::{ArrayRef, StringArray};
    use std::sync::Arc;

    #[test]
    fn kappas_are_those_of_the_textbook() {
        // Cohen's example: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no; kappa 0.4.
        let cells = [(20, "y", "y"), (5, "y", "n"), (10, "n", "y"), (15, "n", "n")];
        let (mut ids, mut who, mut said) = (vec![], vec![], vec![]);
        for (times, a, b) in cells {
            for i in 0..times {
                let id = format!("{a}{b}{i}");
                ids.extend([id.clone(), id]);
                who.extend(["one", "two"]);
                said.extend([a, b]);
            }
        }
        let column = |values: Vec<String>| {
            texts(&[Arc::new(StringArray::from(values)) as ArrayRef], &Control::default())
        };
        let owned = |values: Vec<&str>| values.into_iter().map(str::to_owned).collect();
        let control = Control::default();
        let groups = Groups::new(&column(ids).unwrap(), &control).unwrap();
        let (who, said) = (column(owned(who)).unwrap(), column(owned(said)).unwrap());
        let got = agreement(&groups, &who, &said, &control).unwrap();
        assert_eq!(got.collaborators, ["one", "two"]);
        assert_eq!(got.both, [50; 4]);
        assert_eq!(got.agreement, [1.0, 0.7, 0.7, 1.0]);
        assert!((got.kappa[1] - 0.4).abs() < 1e-12);
        // Fleiss: p_e = (55² + 45²) / 100².
        assert!((got.fleiss_kappa - (0.7 - 0.505) / 0.495).abs() < 1e-12);
    }
}
