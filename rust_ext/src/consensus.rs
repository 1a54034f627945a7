//! What the collaborators of an example agree on.

use std::sync::LazyLock;

use arrow_array::StringArray;
use rustc_hash::FxHashMap;

use crate::arrays::Chunked;
use crate::error::{Error, Result};
use crate::groups::Groups;
use crate::numbers;
use crate::parallel::{self, Control, Rows};
use crate::strings;
use crate::texts::Texts;

/// Beyond this many different answers an example's tallies are looked up by hash.
const FEW: usize = 16;

/// The verdicts on many examples, a column for each of their parts.
#[derive(Debug, Default)]
pub struct Verdicts {
    /// The vote for the winner with the lowest NLL: its row, −1 where nobody voted.
    pub winner_row: Vec<i64>,
    /// That vote's NLL; NaN where there is none.
    pub winner_nll: Vec<f64>,
    /// The first vote's NLL; NaN where there is none.
    pub first_nll: Vec<f64>,
    /// How many rows have an answer.
    pub n_valid: Vec<i32>,
    /// The winner's share of the weight; 0 where nobody voted.
    pub agreement: Vec<f64>,
    /// The winner's share less the runner-up's.
    pub margin: Vec<f64>,
    /// `−Σ p ln p` over the answers' shares, in nats.
    pub vote_entropy: Vec<f64>,
}

/// The same columns while they are filled.
struct Block<'a> {
    winner_row: &'a mut [i64],
    winner_nll: &'a mut [f64],
    first_nll: &'a mut [f64],
    n_valid: &'a mut [i32],
    agreement: &'a mut [f64],
    margin: &'a mut [f64],
    vote_entropy: &'a mut [f64],
}

impl Rows for Block<'_> {
    fn rows(&self) -> usize {
        self.winner_row.len()
    }

    fn split(self, row: usize) -> (Self, Self) {
        let winner_row = self.winner_row.split_at_mut(row);
        let winner_nll = self.winner_nll.split_at_mut(row);
        let first_nll = self.first_nll.split_at_mut(row);
        let n_valid = self.n_valid.split_at_mut(row);
        let agreement = self.agreement.split_at_mut(row);
        let margin = self.margin.split_at_mut(row);
        let vote_entropy = self.vote_entropy.split_at_mut(row);
        let before = Self {
            winner_row: winner_row.0,
            winner_nll: winner_nll.0,
            first_nll: first_nll.0,
            n_valid: n_valid.0,
            agreement: agreement.0,
            margin: margin.0,
            vote_entropy: vote_entropy.0,
        };
        let after = Self {
            winner_row: winner_row.1,
            winner_nll: winner_nll.1,
            first_nll: first_nll.1,
            n_valid: n_valid.1,
            agreement: agreement.1,
            margin: margin.1,
            vote_entropy: vote_entropy.1,
        };
        (before, after)
    }
}

/// The votes of one example; see `Verdicts`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Verdict {
    winner_row: Option<usize>,
    first_row: Option<usize>,
    n_valid: i32,
    agreement: f64,
    margin: f64,
    vote_entropy: f64,
}

/// What a row's vote rests on. All have a value for each row of the table.
pub struct Votes<'a> {
    /// Canonical answers; null is no vote.
    pub answers: &'a Chunked<Texts>,
    /// Mean NLL, NaN where there is none: it then loses every tie, to +inf too.
    pub nll: &'a [f64],
    /// Weights, finite and not negative; a weight of 0 is no vote. All 1 where absent.
    pub weights: Option<&'a [f64]>,
    /// For numbers: answers this close count as one. Closeness is not transitive, so answers that
    /// a chain of close ones links count as one too. 0 compares spellings.
    pub tolerance: f64,
}

impl Votes<'_> {
    fn check(&self, rows: usize) -> Result<()> {
        let lengths = [self.answers.len(), self.nll.len(), self.weights.map_or(rows, <[f64]>::len)];
        if lengths.iter().any(|&n| n != rows) {
            return Err(Error::input(format!(
                "{rows} example ids, but {} answers, {} NLLs, {} weights",
                lengths[0], lengths[1], lengths[2]
            )));
        }
        if !(self.tolerance >= 0.0 && self.tolerance.is_finite()) {
            return Err(Error::input(format!("tolerance: {} is not a share", self.tolerance)));
        }
        let bad = |w: &f64| !(*w >= 0.0 && w.is_finite());
        if let Some(row) = self.weights.and_then(|weights| weights.iter().position(bad)) {
            let weight = self.weights.map_or(0.0, |weights| weights[row]);
            return Err(Error::row(row, format!("{weight} is not a weight")));
        }
        Ok(())
    }
}

/// The verdict on each example. The winner has the largest weight; ties go to the lower NLL (of
/// each answer's best vote), then to the answer that was given first.
pub fn consensus(groups: &Groups, votes: &Votes<'_>, control: &Control) -> Result<Verdicts> {
    votes.check(groups.rows())?;
    let n = groups.len();
    let mut all = Verdicts {
        winner_row: vec![0; n],
        winner_nll: vec![0.0; n],
        first_nll: vec![0.0; n],
        n_valid: vec![0; n],
        agreement: vec![0.0; n],
        margin: vec![0.0; n],
        vote_entropy: vec![0.0; n],
    };
    let columns = Block {
        winner_row: &mut all.winner_row,
        winner_nll: &mut all.winner_nll,
        first_nll: &mut all.first_nll,
        n_valid: &mut all.n_valid,
        agreement: &mut all.agreement,
        margin: &mut all.margin,
        vote_entropy: &mut all.vote_entropy,
    };
    parallel::fill(columns, control, |start, block| {
        let mut counter = Counter::default();
        for i in 0..block.rows() {
            let verdict = counter.count(groups.rows_of(start + i), votes);
            block.winner_row[i] = verdict.winner_row.map_or(-1, |row| row as i64);
            block.winner_nll[i] = verdict.winner_row.map_or(f64::NAN, |row| votes.nll[row]);
            block.first_nll[i] = verdict.first_row.map_or(f64::NAN, |row| votes.nll[row]);
            block.n_valid[i] = verdict.n_valid;
            block.agreement[i] = verdict.agreement;
            block.margin[i] = verdict.margin;
            block.vote_entropy[i] = verdict.vote_entropy;
        }
        Ok(())
    })?;
    Ok(all)
}

/// The winning answers themselves: of numbers that are close the spelling of the best vote.
pub fn winners(
    verdicts: &Verdicts,
    answers: &Chunked<Texts>,
    control: &Control,
) -> Result<StringArray> {
    let rows = &verdicts.winner_row;
    strings::column(rows.len(), control, |range, winners| {
        for &row in &rows[range] {
            winners.push(usize::try_from(row).ok().and_then(|row| answers.get(row)));
        }
        Ok(())
    })
}

/// The votes for one answer.
struct Tally<'a> {
    answer: &'a str,
    weight: f64,
    nll: f64,
    row: usize,
}

/// Buffers that serve one example after another.
#[derive(Default)]
struct Counter<'a> {
    tallies: Vec<Tally<'a>>,
    index: FxHashMap<&'a str, usize>,
}

impl<'a> Counter<'a> {
    fn count(&mut self, rows: impl Iterator<Item = usize> + Clone, votes: &Votes<'a>) -> Verdict {
        let scale =
            votes.weights.map_or(1.0, |weights| scale(rows.clone().map(|row| weights[row])));
        self.tallies.clear();
        self.index.clear();
        let (mut n_valid, mut first_row) = (0, None);
        for row in rows {
            let Some(answer) = votes.answers.get(row) else { continue };
            let weight = votes.weights.map_or(1.0, |weights| weights[row]);
            if weight == 0.0 {
                continue;
            }
            n_valid += 1;
            first_row = first_row.or(Some(row));
            self.add(Tally { answer, weight: weight * scale, nll: votes.nll[row], row });
        }
        if votes.tolerance > 0.0 && self.tallies.len() > 1 {
            self.merge_close(votes.tolerance);
        }
        self.verdict(n_valid, first_row)
    }

    fn add(&mut self, vote: Tally<'a>) {
        match self.find(vote.answer) {
            Some(at) => self.tallies[at].absorb(vote),
            None => {
                if self.tallies.len() >= FEW {
                    if self.index.is_empty() {
                        self.index
                            .extend(self.tallies.iter().enumerate().map(|(i, t)| (t.answer, i)));
                    }
                    self.index.insert(vote.answer, self.tallies.len());
                }
                self.tallies.push(vote);
            }
        }
    }

    fn find(&self, answer: &str) -> Option<usize> {
        if self.index.is_empty() {
            self.tallies.iter().position(|tally| is_same(tally.answer, answer))
        } else {
            self.index.get(answer).copied()
        }
    }

    /// Merges tallies whose numbers are linked by closeness; what is no number stays alone.
    fn merge_close(&mut self, tolerance: f64) {
        let value = |tally: &Tally<'_>| numbers::value(tally.answer).filter(|v| v.is_finite());
        let mut numbered: Vec<(f64, usize)> =
            self.tallies.iter().enumerate().filter_map(|(i, t)| Some((value(t)?, i))).collect();
        // Equal values may be spelled in two ways: the order of the rows must not show.
        let answer = |i: usize| self.tallies[i].answer;
        numbered.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| answer(a.1).cmp(answer(b.1))));
        let mut merged: Vec<Option<Tally<'a>>> = self.tallies.drain(..).map(Some).collect();
        for chain in numbered.chunk_by(|a, b| numbers::close(a.0, b.0, tolerance)) {
            let whole =
                chain.iter().filter_map(|&(_, i)| merged[i].take()).reduce(|mut all, one| {
                    all.absorb(one);
                    all
                });
            // The earliest answer's place stands for its chain: order breaks ties.
            let place = chain.iter().map(|&(_, i)| i).min();
            if let (Some(place), Some(whole)) = (place, whole) {
                merged[place] = Some(whole);
            }
        }
        self.tallies.extend(merged.into_iter().flatten());
    }

    fn verdict(&self, n_valid: i32, first_row: Option<usize>) -> Verdict {
        if let [only] = self.tallies.as_slice() {
            let winner_row = Some(only.row);
            let (agreement, margin, vote_entropy) = (1.0, 1.0, 0.0);
            return Verdict { winner_row, first_row, n_valid, agreement, margin, vote_entropy };
        }
        let total: f64 = self.tallies.iter().map(|t| t.weight).sum();
        let mut winner: Option<&Tally<'_>> = None;
        for tally in &self.tallies {
            // Strictly better: an equal one that came later loses.
            if winner.is_none_or(|w| {
                tally.weight > w.weight || tally.weight == w.weight && surer(tally.nll, w.nll)
            }) {
                winner = Some(tally);
            }
        }
        let runner_up = self
            .tallies
            .iter()
            .filter(|t| winner.is_some_and(|w| !std::ptr::eq(w, *t)))
            .map(|t| t.weight)
            .fold(0.0, f64::max);
        let share = |weight: f64| if total > 0.0 { weight / total } else { 0.0 };
        let best = winner.map_or(0.0, |w| w.weight);
        let vote_entropy = self.tallies.iter().fold(0.0, |h, t| h - p_ln_p(share(t.weight)));
        Verdict {
            winner_row: winner.map(|w| w.row),
            first_row,
            n_valid,
            agreement: share(best),
            margin: share(best) - share(runner_up),
            vote_entropy,
        }
    }
}

/// `a == b`, without a call for the letters and numbers that most answers are.
#[inline]
fn is_same(a: &str, b: &str) -> bool {
    const SHORT: usize = 8;
    a.len() == b.len()
        && if a.len() <= SHORT { a.bytes().zip(b.bytes()).all(|(a, b)| a == b) } else { a == b }
}

/// `p ln p`. The commonest shares, of two, three and four votes, are kept.
fn p_ln_p(p: f64) -> f64 {
    static COMMON: LazyLock<[(f64, f64); 5]> =
        LazyLock::new(|| [0.5, 0.25, 0.75, 1.0 / 3.0, 2.0 / 3.0].map(|p: f64| (p, p * p.ln())));
    COMMON.iter().find(|c| c.0 == p).map_or_else(|| p * p.ln(), |c| c.1)
}

impl Tally<'_> {
    fn absorb(&mut self, other: Self) {
        self.weight += other.weight;
        if surer(other.nll, self.nll) {
            self.nll = other.nll;
            self.row = other.row;
            self.answer = other.answer;
        }
    }
}

/// Whether an NLL is the lower one. One that is not known (NaN) loses to any other, +inf too.
fn surer(a: f64, b: f64) -> bool {
    a < b || b.is_nan() && !a.is_nan()
}

/// A power of two that keeps sums of such weights finite: 1 but for huge ones, and so exact.
fn scale(weights: impl Iterator<Item = f64>) -> f64 {
    const HUGE: f64 = 1e200;
    if weights.fold(0.0, f64::max) > HUGE { 2f64.powi(-400) } else { 1.0 }
}

#[cfg(test)]
#[path = "consensus_tests.rs"]
mod tests;
