//! Sums of float lists at the speed of memory, with the same bits on every machine.
//!
//! A float32 list is summed in blocks of 128 values: sixteen float32 lanes take at most eight values
//! each, are added as a tree, and the blocks are added in float64. No value passes through more
//! than 12 roundings in float32, so for values of one sign the sum is within 7.2e-7 (relative) of
//! the exact one. The order is part of the definition, and nothing is fused: AVX-512, AVX2 (whichever
//! of them is fast where it runs) and the plain loop give the same bits. The plain loop's lanes are
//! independent, so the compiler makes vectors of them too: of SSE2, or on aarch64 of NEON, which is
//! the baseline there. Only where the float32 lanes overflow is a list added up in float64.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::lanes::{BLOCK, LANES, Lanes, Offset};

/// `−mean` of the list `values[offsets[i]..offsets[i + 1]]` into `out[i]`, NaN where it is empty.
/// Gives the largest value seen, 0 at least, and NaN where any value is.
///
/// Panics where the offsets leave the values.
pub fn mean_nll_of_f32<O: Offset>(values: &[f32], offsets: &[O], out: &mut [f64]) -> f32 {
    let largest = way().means(values, offsets, out);
    for (pair, out) in offsets.windows(2).zip(out) {
        if out.is_infinite() {
            let list = &values[pair[0].at()..pair[1].at()];
            *out = -of_f32(list) / list.len() as f64;
        }
    }
    largest
}

/// A way to add up, of which all give the same bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    Portable,
    Avx2,
    Avx512,
}

impl Way {
    pub const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    pub fn name(self) -> &'static str {
        ["portable", "avx2", "avx512"][self as usize]
    }

    /// Whether this machine can go it.
    pub fn is_here(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return match self {
            Self::Portable => true,
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            Self::Avx512 => is_x86_feature_detected!("avx512f") && Self::Avx2.is_here(),
        };
        #[cfg(not(target_arch = "x86_64"))]
        return self == Self::Portable;
    }

    /// `means` this way; the plain one where the machine has not that one.
    fn means<O: Offset>(self, values: &[f32], offsets: &[O], out: &mut [f64]) -> f32 {
        #[cfg(target_arch = "x86_64")]
        if self.is_here() {
            match self {
                // SAFETY: the machine has AVX-512 and AVX2, the only condition.
                Self::Avx512 => {
                    return unsafe { crate::sums_avx512::means(values, offsets, out) };
                }
                // SAFETY: the machine has AVX2, the only condition.
                Self::Avx2 => return unsafe { crate::sums_x86::means(values, offsets, out) },
                Self::Portable => {}
            }
        }
        means(values, offsets, out)
    }
}

/// 0: the fastest; else one more than a way's number.
static FORCED: AtomicUsize = AtomicUsize::new(0);

/// Go one way from now on, or again the fastest; for benchmarks.
pub fn force(way: Option<Way>) {
    FORCED.store(way.map_or(0, |way| way as usize + 1), Ordering::Relaxed);
}

/// The way that is gone: the fastest on this processor, found out once.
///
/// What a processor can do is not what it is fast at: some slow down for wide registers, some split
/// them in two.
pub fn way() -> Way {
    static FASTEST: OnceLock<Way> = OnceLock::new();
    match FORCED.load(Ordering::Relaxed) {
        0 => *FASTEST.get_or_init(find_fastest),
        forced => Way::ALL[forced - 1],
    }
}

fn find_fastest() -> Way {
    const LISTS: usize = 256;
    const LENGTH: usize = 31;
    let values = vec![-1.0f32; LISTS * LENGTH];
    let offsets: Vec<i32> = (0..=LISTS).map(|i| (i * LENGTH) as i32).collect();
    let mut out = [0.0; LISTS];
    let mut fastest = (Duration::MAX, Way::Portable);
    for way in Way::ALL.into_iter().filter(|way| way.is_here()) {
        for _ in 0..16 {
            let start = Instant::now();
            std::hint::black_box(way.means(std::hint::black_box(&values), &offsets, &mut out));
            let taken = start.elapsed();
            if taken < fastest.0 {
                fastest = (taken, way);
            }
        }
    }
    fastest.1
}

/// The definition, for any machine.
fn means<O: Offset>(values: &[f32], offsets: &[O], out: &mut [f64]) -> f32 {
    let mut largest = [0.0; LANES];
    let mut any_nan = false;
    for (pair, out) in offsets.windows(2).zip(out) {
        let (start, end) = (pair[0].at(), pair[1].at());
        let sum = sum(&values[start..end], &mut largest);
        any_nan |= sum.is_nan();
        *out = -sum / (end - start) as f64 + 0.0;
    }
    if any_nan { f32::NAN } else { largest.into_iter().fold(0.0, f32::max) }
}

fn sum(values: &[f32], largest: &mut Lanes) -> f64 {
    let mut total = 0.0;
    for block in values.chunks(BLOCK) {
        let mut lanes = [0.0; LANES];
        let (steps, rest) = block.as_chunks::<LANES>();
        for step in steps {
            add(&mut lanes, largest, step);
        }
        // Adding 0 leaves a lane as it is, and so does it the largest.
        let mut padded = [0.0; LANES];
        padded[..rest.len()].copy_from_slice(rest);
        add(&mut lanes, largest, &padded);
        total += f64::from(tree(lanes));
    }
    total
}

/// One loop for each of the two: of both in one the compiler makes no vectors.
#[inline]
fn add(lanes: &mut Lanes, largest: &mut Lanes, step: &Lanes) {
    for (lane, x) in lanes.iter_mut().zip(step) {
        *lane += x;
    }
    for (most, x) in largest.iter_mut().zip(step) {
        *most = most.max(*x);
    }
}

fn tree(lanes: Lanes) -> f32 {
    let mut lanes = lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The sum of one list by the same definition; in float64 where float32 lanes overflow.
pub fn of_f32(values: &[f32]) -> f64 {
    let sum = sum(values, &mut [0.0; LANES]);
    if sum.is_infinite() { values.iter().map(|x| f64::from(*x)).sum() } else { sum }
}

/// The sum of a float64 list: eight lanes, added as a tree.
pub fn of_f64(values: &[f64]) -> f64 {
    let mut lanes = [0.0f64; 8];
    for step in values.chunks(8) {
        for (lane, value) in lanes.iter_mut().zip(step) {
            *lane += value;
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// Reads every value once and does as little as can be: the yardstick of the benchmarks.
pub fn read(values: &[f32]) -> u32 {
    let (steps, rest) = values.as_chunks::<64>();
    let mut lanes = [0u32; 64];
    for step in steps {
        for (lane, x) in lanes.iter_mut().zip(step) {
            *lane ^= x.to_bits();
        }
    }
    lanes.into_iter().chain(rest.iter().map(|x| x.to_bits())).fold(0, |a, b| a ^ b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Means = fn(&[f32], &[i32], &mut [f64]) -> f32;

    /// Every way that this machine can go.
    fn ways() -> Vec<Means> {
        let ways: [(Way, Means); 3] = [
            (Way::Portable, |values, offsets, out| Way::Portable.means(values, offsets, out)),
            (Way::Avx2, |values, offsets, out| Way::Avx2.means(values, offsets, out)),
            (Way::Avx512, |values, offsets, out| Way::Avx512.means(values, offsets, out)),
        ];
        let here = ways.into_iter().filter(|(way, _)| way.is_here()).map(|(_, means)| means);
        here.chain([mean_nll_of_f32 as Means]).collect()
    }

    #[test]
    fn the_fastest_way_is_one_that_the_machine_has() {
        assert!(find_fastest().is_here() && way().is_here());
    }

    #[test]
    fn offsets_that_leave_the_values_panic_and_read_nothing() {
        let values = vec![-1.0f32; 200];
        for offsets in [
            [-5, -1, 3, 3, 3, 3, 3, 3, 3],
            [-5, 3, 3, 3, 3, 3, 3, 3, 3],
            [0, 3, -40, 3, 3, 3, 3, 3, 3],
            [0, 3, 100, 3, 3, 3, 3, 3, 3],
            [0, 0, 0, 0, 0, 0, 0, 190, 201],
            [i32::MIN, i32::MIN, 0, 0, 0, 0, 0, 0, 0],
        ] {
            for lists in [8, 2] {
                for way in ways() {
                    let (values, offsets) = (&values, &offsets[..=lists]);
                    let bad = offsets.windows(2).any(|w| w[0] < 0 || w[0] > w[1] || w[1] > 200);
                    let got =
                        std::panic::catch_unwind(|| way(values, offsets, &mut [0.0; 8][..lists]));
                    assert_eq!(got.is_err(), bad, "{offsets:?}");
                }
            }
        }
    }

    #[test]
    fn sums_beyond_float32_are_finite() {
        let values = vec![f32::MIN; 20];
        let mut out = [0.0; 1];
        mean_nll_of_f32(&values, &[0, 20], &mut out);
        assert_eq!(out[0], f64::from(f32::MAX));
        assert_eq!(of_f32(&[f32::MIN, f32::NEG_INFINITY]), f64::NEG_INFINITY);
    }

    proptest! {
        #[test]
        fn every_way_gives_the_bits_of_the_definition(
            lists in prop::collection::vec(prop::collection::vec(-20.0f32..=0.0, 0..400), 1..20))
        {
            let values: Vec<f32> = lists.concat();
            let mut offsets = vec![0i32];
            for list in &lists {
                offsets.push(offsets[offsets.len() - 1] + list.len() as i32);
            }
            for way in ways() {
                let mut got = vec![1.0; lists.len()];
                prop_assert_eq!(way(&values, &offsets, &mut got), 0.0);
                for (got, list) in got.iter().zip(&lists) {
                    let defined = -of_f32(list) / list.len() as f64 + 0.0;
                    prop_assert!(got.to_bits() == defined.to_bits() || list.is_empty() && got.is_nan());
                    let exact: f64 = list.iter().map(|&x| f64::from(x)).sum();
                    prop_assert!((of_f32(list) - exact).abs() <= 7.2e-7 * exact.abs());
                }
            }
        }
    }

    #[test]
    fn what_is_no_logprob_shows() {
        for way in ways() {
            let mut out = [0.0; 2];
            let mut values = vec![-1.0; 100];
            assert_eq!(way(&values, &[0, 3, 100], &mut out), 0.0);
            values[99] = 2.0;
            assert_eq!(way(&values, &[0, 3, 100], &mut out), 2.0);
            values[1] = f32::NAN;
            assert!(way(&values, &[0, 3, 100], &mut out).is_nan());
            values[1] = f32::NEG_INFINITY;
            way(&values, &[0, 3, 100], &mut out);
            assert_eq!(out[0], f64::INFINITY);
        }
    }

    #[test]
    fn lists_of_every_length_up_to_two_blocks() {
        // Each length at the end of the values, where a read beyond them would show.
        let step = if cfg!(miri) { 13 } else { 1 };
        for length in (0..=2 * BLOCK).step_by(step) {
            let values: Vec<f32> = (0..length).map(|i| -(i as f32) / 7.0).collect();
            let offsets = [vec![0; 8], vec![length as i32; 2]].concat();
            for way in ways() {
                let mut out = [1.0; 9];
                way(&values, &offsets, &mut out);
                let want = -of_f32(&values) / length as f64 + 0.0;
                assert!(out[7].to_bits() == want.to_bits() || length == 0 && out[7].is_nan());
                assert!(out[8].is_nan() && out[0].is_nan());
            }
        }
    }
}
