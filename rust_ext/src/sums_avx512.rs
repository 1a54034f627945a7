//! `sums::mean_nll_of_f32` in AVX-512: a lane of the definition in `sums` is a lane of the register,
//! and what lies beyond the end of a list is masked to 0 as it is loaded.

use std::arch::x86_64::*;

use crate::lanes::{BLOCK, LANES, Offset};
use crate::sums_x86::{finish, reduce};

/// Up to this length a list is summed without a branch that depends on it.
const SHORT: usize = 3 * LANES;

/// See `sums::mean_nll_of_f32`. Panics where the offsets leave the values.
#[target_feature(enable = "avx512f,avx2")]
pub fn means<O: Offset>(values: &[f32], offsets: &[O], out: &mut [f64]) -> f32 {
    let mut largest = _mm512_setzero_ps();
    let mut any_nan = false;
    let mut i = 0;
    while i + 8 <= out.len() {
        let group: &[O; 9] = offsets[i..i + 9].try_into().expect("nine offsets");
        let out: &mut [f64; 8] = (&mut out[i..i + 8]).try_into().expect("eight lists");
        any_nan |= eight(values, group, out, &mut largest);
        i += 8;
    }
    for i in i..out.len() {
        let list = &values[offsets[i].at()..offsets[i + 1].at()];
        out[i] = mean(list, &mut largest);
        any_nan |= !list.is_empty() && out[i].is_nan();
    }
    if any_nan { f32::NAN } else { _mm512_reduce_max_ps(largest) }
}

/// Eight lists; whether any sum is NaN.
#[inline]
#[target_feature(enable = "avx512f,avx2")]
fn eight<O: Offset>(
    values: &[f32],
    offsets: &[O; 9],
    out: &mut [f64; 8],
    largest: &mut __m512,
) -> bool {
    let mut halves = [_mm256_setzero_ps(); 8];
    let mut lengths = [0i32; 8];
    let mut long = 0u32;
    for i in 0..8 {
        let list = &values[offsets[i].at()..offsets[i + 1].at()];
        lengths[i] = list.len() as i32;
        if list.len() <= SHORT {
            halves[i] = short(list, largest);
        } else if list.len() <= BLOCK {
            halves[i] = block(list, largest);
        } else {
            long |= 1 << i;
        }
    }
    let mut any_nan = finish(halves, lengths, out);
    while long != 0 {
        let i = long.trailing_zeros() as usize;
        out[i] = mean(&values[offsets[i].at()..offsets[i + 1].at()], largest);
        any_nan |= out[i].is_nan();
        long &= long - 1;
    }
    any_nan
}

/// The lanes of a block of at most `SHORT` values, the upper half added to the lower.
#[inline]
#[target_feature(enable = "avx512f,avx2")]
fn short(list: &[f32], largest: &mut __m512) -> __m256 {
    let mask = (1u64 << list.len()) - 1;
    let step = |i: usize| {
        let start = list.as_ptr().wrapping_add(i * LANES);
        // SAFETY: the mask has a bit for each value of the list alone; the others are not read.
        unsafe { _mm512_maskz_loadu_ps((mask >> (i * LANES)) as u16, start) }
    };
    let x = [step(0), step(1), step(2)];
    *largest = _mm512_max_ps(_mm512_max_ps(x[0], x[1]), _mm512_max_ps(x[2], *largest));
    fold(_mm512_add_ps(_mm512_add_ps(x[0], x[1]), x[2]))
}

/// The same of a block of any length up to `BLOCK`.
#[inline]
#[target_feature(enable = "avx512f,avx2")]
fn block(list: &[f32], largest: &mut __m512) -> __m256 {
    let mut lanes = _mm512_setzero_ps();
    let (steps, rest) = list.as_chunks::<LANES>();
    for step in steps {
        // SAFETY: a step has sixteen values.
        let x = unsafe { _mm512_loadu_ps(step.as_ptr()) };
        lanes = _mm512_add_ps(lanes, x);
        *largest = _mm512_max_ps(x, *largest);
    }
    // SAFETY: the mask has a bit for each value of the rest alone; the others are not read.
    let x = unsafe { _mm512_maskz_loadu_ps(((1u32 << rest.len()) - 1) as u16, rest.as_ptr()) };
    *largest = _mm512_max_ps(x, *largest);
    fold(_mm512_add_ps(lanes, x))
}

/// Lanes 0..8 + lanes 8..16.
#[inline]
#[target_feature(enable = "avx512f,avx2")]
fn fold(lanes: __m512) -> __m256 {
    let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(lanes)));
    _mm256_add_ps(_mm512_castps512_ps256(lanes), high)
}

/// `−mean` of a list of any length.
#[inline]
#[target_feature(enable = "avx512f,avx2")]
fn mean(list: &[f32], largest: &mut __m512) -> f64 {
    let mut total = 0.0;
    for part in list.chunks(BLOCK) {
        total += f64::from(reduce(block(part, largest)));
    }
    -total / list.len() as f64 + 0.0
}
