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
    let (control, answers) = (Control::default(), texts(&[column], &Control::default()).unwrap());
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
    assert!((got.agreement - 2.0 / 3.0).abs() < 1e-15 && (got.margin - 1.0 / 3.0).abs() < 1e-15);
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
