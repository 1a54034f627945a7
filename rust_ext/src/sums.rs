//! Sums of float lists at the speed of memory, with the same bits on every machine.
//!
//! A float32 list is summed in blocks of 128 values: sixteen float32 lanes take at most eight values
//! each, are added as a tree, and the blocks are added in float64. No value passes through more
//! than 12 roundings in float32, so for values of one sign the sum is within 7.2e-7 (relative) of
//! the exact one. The order is part of the definition: the same code is compiled for AVX-512, AVX2
//! and the baseline, nothing is fused, and all give the same bits.

/// Lanes of a block; a whole AVX-512 register, two AVX2 ones.
pub const LANES: usize = 16;
pub const BLOCK: usize = 8 * LANES;

type Lanes = [f32; LANES];

/// An offset of a list array.
pub trait Offset: Copy + Sync {
    fn at(self) -> usize;
}

impl Offset for i32 {
    #[inline(always)]
    fn at(self) -> usize {
        self as usize
    }
}

impl Offset for i64 {
    #[inline(always)]
    fn at(self) -> usize {
        self as usize
    }
}

/// `−mean` of the list `values[offsets[i]..offsets[i + 1]]` into `out[i]`, NaN where it is empty.
/// Gives the largest value seen, 0 at least, and NaN where any value is.
///
/// Panics where the offsets leave the values.
pub fn mean_nll_of_f32<O: Offset>(values: &[f32], offsets: &[O], out: &mut [f64]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the machine has AVX2, the only condition.
        return unsafe { crate::sums_x86::means(values, offsets, out) };
    }
    means(values, offsets, out)
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
            for lane in 0..LANES {
                let x = step[lane];
                lanes[lane] += x;
                largest[lane] = if x > largest[lane] { x } else { largest[lane] };
            }
        }
        for (lane, &x) in rest.iter().enumerate() {
            lanes[lane] += x;
            largest[lane] = if x > largest[lane] { x } else { largest[lane] };
        }
        total += f64::from(tree(lanes));
    }
    total
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

/// The sum of one list by the same definition.
pub fn of_f32(values: &[f32]) -> f64 {
    sum(values, &mut [0.0; LANES])
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

    proptest! {
        #[test]
        fn every_compilation_gives_the_bits_of_the_definition(
            lists in prop::collection::vec(prop::collection::vec(-20.0f32..=0.0, 0..400), 1..20))
        {
            let values: Vec<f32> = lists.concat();
            let mut offsets = vec![0i32];
            for list in &lists {
                offsets.push(offsets[offsets.len() - 1] + list.len() as i32);
            }
            let (mut best, mut plain) = (vec![0.0; lists.len()], vec![0.0; lists.len()]);
            mean_nll_of_f32(&values, &offsets, &mut best);
            means(&values, &offsets, &mut plain);
            for ((best, plain), list) in best.iter().zip(&plain).zip(&lists) {
                prop_assert_eq!(best.to_bits(), plain.to_bits());
                let exact: f64 = list.iter().map(|&x| f64::from(x)).sum();
                if !list.is_empty() {
                    let defined = -of_f32(list) / list.len() as f64 + 0.0;
                    prop_assert_eq!(best.to_bits(), defined.to_bits());
                    prop_assert!((of_f32(list) - exact).abs() <= 7.2e-7 * exact.abs());
                }
            }
        }
    }

    #[test]
    fn what_is_no_logprob_shows() {
        let mut out = [0.0; 2];
        let mut values = vec![-1.0; 100];
        assert_eq!(mean_nll_of_f32(&values, &[0i64, 3, 100], &mut out), 0.0);
        values[99] = 2.0;
        assert_eq!(mean_nll_of_f32(&values, &[0i64, 3, 100], &mut out), 2.0);
        values[1] = f32::NAN;
        assert!(mean_nll_of_f32(&values, &[0i64, 3, 100], &mut out).is_nan());
        values[1] = f32::NEG_INFINITY;
        mean_nll_of_f32(&values, &[0i64, 3, 100], &mut out);
        assert_eq!(out[0], f64::INFINITY);
    }
}
