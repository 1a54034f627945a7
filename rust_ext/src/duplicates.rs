//! Near-duplicates among texts by MinHash and LSH.
//!
//! Signatures are made shard by shard and merged by appending; only they are compared, so the texts
//! themselves are never gathered.

use rustc_hash::FxHashMap;

use crate::arrays::Chunked;
use crate::error::{Error, Result};
use crate::parallel::{self, Control, Pace};
use crate::ranks::hash;
use crate::text::normalize;
use crate::texts::Texts;

/// Hashes of a signature: the estimate of a similarity `s` has a standard error of
/// `√(s (1 − s) / 128)`, 0.035 at 0.8.
pub const HASHES: usize = 128;
pub type Signature = [u32; HASHES];

/// Characters of a shingle.
const SHINGLE: usize = 5;
/// Of the different signatures that share a band, this many are compared with all of them.
const MOST_COMPARED: usize = 256;
/// Rows that are compared between two looks at the control.
const COMPARED_ROWS: usize = 1024;

/// The MinHash signature of each normalised text, over its shingles of five characters; a null or
/// empty text has none.
pub fn signatures(texts: &Chunked<Texts>, control: &Control) -> Result<Vec<Option<Signature>>> {
    let seeds = seeds();
    let mut out = vec![None; texts.len()];
    parallel::fill(&mut out[..], control, |start, rows| {
        let mut pace = Pace::new(control);
        for (i, out) in rows.iter_mut().enumerate() {
            if let Some(text) = texts.get(start + i) {
                pace.spend(text.len())?;
                *out = signature(text, &seeds);
            }
        }
        Ok(())
    })?;
    Ok(out)
}

fn seeds() -> [(u32, u32); HASHES] {
    std::array::from_fn(|i| {
        let seed = hash(&(i as u64).to_le_bytes());
        (seed as u32 | 1, (seed >> 32) as u32)
    })
}

fn signature(text: &str, seeds: &[(u32, u32); HASHES]) -> Option<Signature> {
    let text = normalize(text);
    let ends: Vec<usize> = text.char_indices().map(|(at, c)| at + c.len_utf8()).collect();
    let mut signature = [u32::MAX; HASHES];
    let last = ends.len().checked_sub(1)?;
    for end in SHINGLE.min(last + 1) - 1..=last {
        let start = if end >= SHINGLE { ends[end - SHINGLE] } else { 0 };
        let shingle = hash(&text.as_bytes()[start..ends[end]]) as u32;
        for (least, (multiply, flip)) in signature.iter_mut().zip(seeds) {
            let mut x = (shingle ^ flip).wrapping_mul(*multiply);
            x ^= x >> 15;
            x = x.wrapping_mul(0x2c1b_3c6d);
            *least = (*least).min(x ^ (x >> 12));
        }
    }
    Some(signature)
}

/// The estimated Jaccard similarity.
fn similarity(a: &Signature, b: &Signature) -> f64 {
    a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / HASHES as f64
}

/// For each row the first row that it is a near-duplicate of, itself where there is none before it:
/// rows whose estimated similarity is at least `threshold`, and chains of such, are one cluster.
///
/// Which rows are a cluster does not depend on their order: different signatures are compared in an
/// order of their own.
pub fn near_duplicates(
    signatures: &[Option<Signature>],
    threshold: f64,
    control: &Control,
) -> Result<Vec<usize>> {
    if !(threshold > 0.0 && threshold <= 1.0) {
        return Err(Error::input(format!("threshold: {threshold} does not lie in (0, 1]")));
    }
    let signature = |row: usize| signatures[row].as_ref();
    let mut rows: Vec<usize> =
        (0..signatures.len()).filter(|&row| signature(row).is_some()).collect();
    // Rows of one signature come one after another, the first of them first.
    rows.sort_by_key(|&row| signature(row));
    let mut first: Vec<usize> = (0..signatures.len()).collect();
    let mut different = Vec::new();
    for same in rows.chunk_by(|&a, &b| signature(a) == signature(b)) {
        same.iter().for_each(|&row| first[row] = same[0]);
        different.push(same[0]);
    }
    let rows_of_band = band_rows(threshold);
    for band in 0..HASHES / rows_of_band {
        let words = band * rows_of_band..(band + 1) * rows_of_band;
        let mut buckets: FxHashMap<&[u32], Vec<usize>> = FxHashMap::default();
        for (i, &row) in different.iter().enumerate() {
            if i % COMPARED_ROWS == 0 {
                control.check()?;
            }
            let Some(mine) = signature(row) else { continue };
            let bucket = buckets.entry(&mine[words.clone()]).or_default();
            for &other in bucket.iter() {
                let alike = |other: &Signature| similarity(other, mine) >= threshold;
                if root(&mut first, other) != root(&mut first, row)
                    && signature(other).is_some_and(alike)
                {
                    join(&mut first, other, row);
                }
            }
            if bucket.len() < MOST_COMPARED {
                bucket.push(row);
            }
        }
    }
    for row in 0..first.len() {
        first[row] = root(&mut first, row);
    }
    Ok(first)
}

/// Rows of a band: as many as still let a pair at the threshold share some band with 95 %.
fn band_rows(threshold: f64) -> usize {
    let found = |rows: usize| {
        1.0 - (1.0 - threshold.powi(rows as i32)).powf((HASHES / rows) as f64) >= 0.95
    };
    [32, 16, 8, 4, 2].into_iter().find(|&rows| found(rows)).unwrap_or(1)
}

fn root(first: &mut [usize], mut row: usize) -> usize {
    while first[row] != row {
        first[row] = first[first[row]];
        row = first[row];
    }
    row
}

/// The lower root stands for both, so that the result does not depend on the order of unions.
fn join(first: &mut [usize], a: usize, b: usize) {
    let (a, b) = (root(first, a), root(first, b));
    first[a.max(b)] = a.min(b);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::texts::texts;
    use arrow_array::{ArrayRef, StringArray};
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::sync::Arc;

    fn clusters(rows: &[Option<&str>], threshold: f64) -> Vec<usize> {
        let array: ArrayRef = Arc::new(rows.iter().copied().collect::<StringArray>());
        let control = Control::default();
        let signatures = signatures(&texts(&[array], &control).unwrap(), &control).unwrap();
        near_duplicates(&signatures, threshold, &control).unwrap()
    }

    #[test]
    fn copies_and_near_copies_point_to_the_first() {
        let long = "Operating profit rose to EUR 13.1 mn from EUR 8.7 mn in the period";
        let near = "Operating profit rose to EUR 13.1 mn from EUR 8.8 mn in the period.";
        let rows = [Some(long), None, Some("else"), Some(near), Some("ELSE!"), Some(""), None];
        assert_eq!(clusters(&rows, 0.7), [0, 1, 2, 0, 2, 5, 6]);
        assert_eq!(clusters(&rows, 1.0), [0, 1, 2, 3, 2, 5, 6]);
    }

    fn shingles(text: &str) -> BTreeSet<String> {
        let chars: Vec<char> = normalize(text).chars().collect();
        let width = SHINGLE.min(chars.len()).max(1);
        chars.windows(width).map(|w| w.iter().collect()).collect()
    }

    proptest! {
        #[test]
        fn clusters_do_not_depend_on_the_order(
            rows in prop::collection::vec("[ab]{3,9}", 1..30)
                .prop_flat_map(|rows| (Just(rows.clone()), Just(rows).prop_shuffle())))
        {
            // Which pairs of texts share a cluster.
            let pairs = |rows: &[String]| {
                let texts: Vec<Option<&str>> = rows.iter().map(|row| Some(row.as_str())).collect();
                let found = clusters(&texts, 0.5);
                let mut pairs = BTreeSet::new();
                for (a, &x) in rows.iter().zip(&found) {
                    for (b, &y) in rows.iter().zip(&found) {
                        pairs.insert((a.clone(), b.clone(), x == y));
                    }
                }
                pairs
            };
            prop_assert_eq!(pairs(&rows.0), pairs(&rows.1));
        }

        #[test]
        fn the_estimate_is_near_the_jaccard_similarity(a in "[ab]{6,40}", b in "[ab]{6,40}") {
            let seeds = seeds();
            let estimate = similarity(
                &signature(&a, &seeds).unwrap(), &signature(&b, &seeds).unwrap());
            let (a, b) = (shingles(&a), shingles(&b));
            let exact = a.intersection(&b).count() as f64 / a.union(&b).count() as f64;
            prop_assert!((estimate - exact).abs() < 0.25, "{estimate} {exact}");
        }
    }
}
