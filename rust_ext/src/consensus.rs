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
mod tests {
    use super::*;
    use crate::texts::texts;
    use arrow_array::{ArrayRef, StringArray};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn verdict(votes: &[(Option<&str>, f64, f64)], tolerance: f64) -> Verdict {
        let answers: ArrayRef = Arc::new(votes.iter().map(|v| v.0).collect::<StringArray>());
        let answers = texts(&[answers], &Control::default()).unwrap();
        let nll: Vec<f64> = votes.iter().map(|v| v.1).collect();
        let weights: Vec<f64> = votes.iter().map(|v| v.2).collect();
        let given = Votes { answers: &answers, nll: &nll, weights: Some(&weights), tolerance };
        Counter::default().count(0..votes.len(), &given)
    }

    #[test]
    fn every_block_of_the_columns_is_filled() {
        let n = 2 * crate::parallel::BLOCK_ROWS + 3;
        let ids: Vec<String> = (0..2 * n).map(|row| format!("{:06}", row / 2)).collect();
        let ids: ArrayRef = Arc::new(StringArray::from(ids));
        let column: ArrayRef =
            Arc::new((0..2 * n).map(|r| (r % 3 > 0).then_some("a")).collect::<StringArray>());
        let (control, answers) =
            (Control::default(), texts(&[column], &Control::default()).unwrap());
        let nll: Vec<f64> = (0..2 * n).map(|row| row as f64).collect();
        let votes = Votes { answers: &answers, nll: &nll, weights: None, tolerance: 0.0 };
        let groups = Groups::new(&texts(&[ids], &control).unwrap(), &control).unwrap();
        let got = consensus(&groups, &votes, &control).unwrap();
        for g in 0..n {
            let voters: Vec<usize> = (2 * g..2 * g + 2).filter(|row| row % 3 > 0).collect();
            assert_eq!(got.winner_row[g], voters.first().map_or(-1, |row| *row as i64));
            assert_eq!(got.n_valid[g] as usize, voters.len());
            assert_eq!(got.agreement[g], if voters.is_empty() { 0.0 } else { 1.0 });
        }
        let winners = winners(&got, &answers, &control).unwrap();
        assert_eq!(winners.iter().filter(Option::is_some).count(), n);
    }

    #[test]
    fn ties_go_to_the_lower_nll_and_then_to_the_first() {
        let got = verdict(&[(Some("a"), 0.5, 1.0), (Some("b"), 0.2, 1.0)], 0.0);
        assert_eq!((got.winner_row, got.margin, got.agreement), (Some(1), 0.0, 0.5));
        assert!((got.vote_entropy - std::f64::consts::LN_2).abs() < 1e-15);
        let got = verdict(&[(Some("a"), 0.5, 1.0), (Some("b"), 0.5, 1.0)], 0.0);
        assert_eq!(got.winner_row, Some(0));
        let got = verdict(&[(Some("a"), 0.5, 1.0), (Some("b"), 0.9, 1.5)], 0.0);
        assert_eq!(got.winner_row, Some(1));
        let got = verdict(&[(Some("a"), f64::NAN, 1.0), (Some("b"), 9.0, 1.0)], 0.0);
        assert_eq!(got.winner_row, Some(1));
    }

    #[test]
    fn an_unknown_nll_loses_to_an_infinite_one() {
        for [a, b] in [["a", "b"], ["b", "a"]] {
            let votes = [(Some(a), f64::NAN, 1.0), (Some(b), f64::INFINITY, 1.0)];
            assert_eq!(verdict(&votes, 0.0).winner_row, Some(1));
            let votes = [votes[1], votes[0]];
            assert_eq!(verdict(&votes, 0.0).winner_row, Some(0));
            let votes = [(Some("a"), f64::NAN, 1.0), (Some("a"), f64::INFINITY, 1.0)];
            assert_eq!(verdict(&votes, 0.0).winner_row, Some(1));
        }
    }

    #[test]
    fn huge_weights_are_shares_too() {
        let max = f64::MAX;
        let votes = [(Some("a"), 1.0, max), (Some("b"), 1.0, max), (Some("a"), 1.0, max)];
        let got = verdict(&votes, 0.0);
        assert!(
            (got.agreement - 2.0 / 3.0).abs() < 1e-15 && (got.margin - 1.0 / 3.0).abs() < 1e-15
        );
    }

    #[test]
    fn unparsed_answers_are_no_votes() {
        let got = verdict(&[(None, 0.1, 1.0), (None, 0.1, 1.0)], 0.0);
        let want = Verdict {
            winner_row: None,
            first_row: None,
            n_valid: 0,
            agreement: 0.0,
            margin: 0.0,
            vote_entropy: 0.0,
        };
        assert_eq!(got, want);
        let got = verdict(&[(None, 0.1, 1.0), (Some("a"), 2.0, 1.0), (Some("a"), 1.0, 1.0)], 0.0);
        assert_eq!((got.winner_row, got.first_row, got.n_valid), (Some(2), Some(1), 2));
        assert_eq!((got.agreement, got.margin), (1.0, 1.0));
    }

    #[test]
    fn close_numbers_are_one_answer() {
        let votes = [
            (Some("100"), 0.3, 1.0),
            (Some("x"), 0.1, 1.0),
            (Some("101"), 0.2, 1.0),
            (Some("102"), 0.4, 1.0),
        ];
        let got = verdict(&votes, 0.01);
        assert_eq!((got.winner_row, got.agreement), (Some(2), 0.75));
        assert_eq!(verdict(&votes, 0.0).agreement, 0.25);
    }

    proptest! {
        #[test]
        fn the_spelling_of_close_numbers_does_not_depend_on_the_order(
            votes in prop::collection::vec(
                (prop_oneof![Just("100"), Just("100.5"), Just("1e2"), Just("101"), Just("x")],
                 prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(1.0), Just(2.0)]), 1..7)
                .prop_flat_map(|votes| (Just(votes.clone()), Just(votes).prop_shuffle())))
        {
            let of = |votes: &[(&'static str, f64)]| {
                let rows: Vec<_> = votes.iter().map(|v| (Some(v.0), v.1, 1.0)).collect();
                let got = verdict(&rows, 0.01);
                let winner = votes[got.winner_row.unwrap()];
                (winner.0 == "x", got.agreement, winner)
            };
            let (a, b) = (of(&votes.0), of(&votes.1));
            // A tie between the numbers and "x" goes to the one that was given first.
            if a.0 == b.0 {
                prop_assert_eq!(a.2.0, b.2.0);
                prop_assert_eq!(a.2.1.to_bits(), b.2.1.to_bits());
            }
            prop_assert_eq!(a.1, b.1);
        }

        #[test]
        fn counts_are_those_of_a_naive_count(
            votes in prop::collection::vec((prop::option::of("[a-z]{1,2}"), 0.0f64..3.0), 1..90))
        {
            let rows: Vec<_> = votes.iter().map(|(a, nll)| (a.as_deref(), *nll, 1.0)).collect();
            let got = verdict(&rows, 0.0);
            let valid: Vec<(&str, f64)> = rows.iter().filter_map(|r| Some((r.0?, r.1))).collect();
            prop_assert_eq!(got.n_valid as usize, valid.len());
            let count = |a: &str| valid.iter().filter(|v| v.0 == a).count();
            let nll = |a: &str| valid.iter().filter(|v| v.0 == a).map(|v| v.1).fold(f64::INFINITY, f64::min);
            let best = valid.iter().map(|v| v.0).min_by(|a, b| {
                count(b).cmp(&count(a)).then(nll(a).total_cmp(&nll(b)))
            });
            prop_assert_eq!(got.winner_row.and_then(|row| rows[row].0), best);
            if let Some(best) = best {
                prop_assert_eq!(got.agreement, count(best) as f64 / valid.len() as f64);
                prop_assert_eq!(rows[got.winner_row.unwrap()].1, nll(best));
            }
        }
    }
}
