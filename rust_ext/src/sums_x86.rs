//! `sums::mean_nll_of_f32` in AVX2: eight lists at a time, so that their trees, conversions and
//! divisions are done eight at once. Every addition is one of the definition in `sums`.

use std::arch::x86_64::*;

use crate::lanes::{BLOCK, LANES, Offset};

/// Up to this length a list is summed without a branch that depends on it; what lies beyond its
/// end is masked to 0, which leaves a lane as it is.
const SHORT: usize = 3 * LANES;

/// As many set words as a list has values, counted from `SHORT - length` on.
static MASK: [u32; 2 * SHORT] = {
    let mut mask = [0; 2 * SHORT];
    let mut i = 0;
    while i < SHORT {
        mask[i] = u32::MAX;
        i += 1;
    }
    mask
};

/// See `sums::mean_nll_of_f32`. Panics where the offsets leave the values.
#[target_feature(enable = "avx2")]
pub fn means<O: Offset>(values: &[f32], offsets: &[O], out: &mut [f64]) -> f32 {
    let mut largest = _mm256_setzero_ps();
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
        let sum = blocks(list, &mut largest);
        any_nan |= sum.is_nan();
        out[i] = -sum / list.len() as f64 + 0.0;
    }
    if any_nan { f32::NAN } else { lanes(largest).into_iter().fold(0.0, f32::max) }
}

/// Eight lists; whether any sum is NaN.
#[inline]
#[target_feature(enable = "avx2")]
fn eight<O: Offset>(
    values: &[f32],
    offsets: &[O; 9],
    out: &mut [f64; 8],
    largest: &mut __m256,
) -> bool {
    let mut halves = [_mm256_setzero_ps(); 8];
    let mut lengths = [0i32; 8];
    let mut long = 0u32;
    for i in 0..8 {
        let (start, end) = (offsets[i].at(), offsets[i + 1].at());
        // The list is cut out first: after that its start is known to lie within the values.
        let list = &values[start..end];
        lengths[i] = list.len() as i32;
        if list.len() <= SHORT && values.len() - start >= SHORT {
            // SAFETY: `SHORT` values lie between `start` and the end.
            halves[i] = unsafe { short(list.as_ptr(), list.len(), largest) };
        } else if list.len() <= BLOCK {
            halves[i] = block(&values[start..], list.len(), largest);
        } else {
            long |= 1 << i;
        }
    }
    let mut any_nan = finish(halves, lengths, out);
    while long != 0 {
        let i = long.trailing_zeros() as usize;
        let list = &values[offsets[i].at()..offsets[i + 1].at()];
        let sum = blocks(list, largest);
        any_nan |= sum.is_nan();
        out[i] = -sum / list.len() as f64 + 0.0;
        long &= long - 1;
    }
    any_nan
}

/// The means of eight lists of one block, from eight lanes of each on; whether any sum is NaN.
#[inline]
#[target_feature(enable = "avx2")]
pub fn finish(halves: [__m256; 8], lengths: [i32; 8], out: &mut [f64; 8]) -> bool {
    let sums = trees(halves);
    let lengths = [
        _mm_set_epi32(lengths[3], lengths[2], lengths[1], lengths[0]),
        _mm_set_epi32(lengths[7], lengths[6], lengths[5], lengths[4]),
    ];
    let sums = [_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums)];
    let zero = _mm256_setzero_pd();
    let mut any_nan = _mm256_setzero_pd();
    for half in 0..2 {
        let sum = _mm256_cvtps_pd(sums[half]);
        any_nan = _mm256_or_pd(any_nan, _mm256_cmp_pd::<_CMP_UNORD_Q>(sum, sum));
        let negative = _mm256_xor_pd(sum, _mm256_set1_pd(-0.0));
        let mean = _mm256_div_pd(negative, _mm256_cvtepi32_pd(lengths[half]));
        // SAFETY: four float64 fit into either half of `out`.
        unsafe { _mm256_storeu_pd(out.as_mut_ptr().add(4 * half), _mm256_add_pd(mean, zero)) };
    }
    _mm256_movemask_pd(any_nan) != 0
}

/// The sixteen lanes of a block of at most `SHORT` values, its upper half added to its lower.
///
/// # Safety
/// `SHORT` values can be read at `values`, and `length` is at most `SHORT`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn short(values: *const f32, length: usize, largest: &mut __m256) -> __m256 {
    // SAFETY: the mask has `SHORT` words from any start up to `SHORT` on; the values are as many,
    // says the caller.
    let step = |i: usize| unsafe {
        let mask = MASK.as_ptr().add(SHORT - length + i).cast::<f32>();
        _mm256_and_ps(_mm256_loadu_ps(values.add(i)), _mm256_loadu_ps(mask))
    };
    let x = [step(0), step(8), step(16), step(24), step(32), step(40)];
    let low = _mm256_max_ps(_mm256_max_ps(x[0], x[1]), x[2]);
    let high = _mm256_max_ps(_mm256_max_ps(x[3], x[4]), x[5]);
    *largest = _mm256_max_ps(_mm256_max_ps(low, high), *largest);
    let low = _mm256_add_ps(_mm256_add_ps(x[0], x[2]), x[4]);
    let high = _mm256_add_ps(_mm256_add_ps(x[1], x[3]), x[5]);
    _mm256_add_ps(low, high)
}

/// The same of a block of any length up to `BLOCK`: the first `length` of the values.
#[inline]
#[target_feature(enable = "avx2")]
fn block(values: &[f32], length: usize, largest: &mut __m256) -> __m256 {
    let mut low = _mm256_setzero_ps();
    let mut high = _mm256_setzero_ps();
    let mut largest_high = _mm256_setzero_ps();
    let mut add = |a: __m256, b: __m256| {
        low = _mm256_add_ps(low, a);
        high = _mm256_add_ps(high, b);
        *largest = _mm256_max_ps(a, *largest);
        largest_high = _mm256_max_ps(b, largest_high);
    };
    let (steps, rest) = values[..length].as_chunks::<LANES>();
    for step in steps {
        // SAFETY: a step has sixteen values.
        unsafe { add(_mm256_loadu_ps(step.as_ptr()), _mm256_loadu_ps(step.as_ptr().add(8))) };
    }
    if !rest.is_empty() {
        let mut padded = [0.0; LANES];
        let start = length - rest.len();
        let last = if start + LANES <= values.len() {
            values[start..].as_ptr()
        } else {
            padded[..rest.len()].copy_from_slice(rest);
            padded.as_ptr()
        };
        // SAFETY: sixteen values can be read at `last`: checked above, or they are the padding's.
        // The mask has `SHORT` words from any start up to `SHORT` on.
        unsafe {
            let mask = MASK.as_ptr().add(SHORT - rest.len()).cast::<f32>();
            let a = _mm256_and_ps(_mm256_loadu_ps(last), _mm256_loadu_ps(mask));
            let b = _mm256_and_ps(_mm256_loadu_ps(last.add(8)), _mm256_loadu_ps(mask.add(8)));
            add(a, b);
        }
    }
    *largest = _mm256_max_ps(largest_high, *largest);
    _mm256_add_ps(low, high)
}

/// The sum of a list of any length.
#[inline]
#[target_feature(enable = "avx2")]
fn blocks(list: &[f32], largest: &mut __m256) -> f64 {
    let mut total = 0.0;
    for part in list.chunks(BLOCK) {
        total += f64::from(reduce(block(part, part.len(), largest)));
    }
    total
}

/// The tree of one list from eight lanes on.
#[inline]
#[target_feature(enable = "avx2")]
pub fn reduce(half: __m256) -> f32 {
    let quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
    let two = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}

/// The trees of eight lists from eight lanes on.
#[inline]
#[target_feature(enable = "avx2")]
fn trees(x: [__m256; 8]) -> __m256 {
    // Lanes 0..4 + lanes 4..8, of lists i and i + 4 side by side.
    let quarter = |i: usize| {
        let low = _mm256_permute2f128_ps::<0x20>(x[i], x[i + 4]);
        let high = _mm256_permute2f128_ps::<0x31>(x[i], x[i + 4]);
        _mm256_add_ps(low, high)
    };
    // Lanes 0, 1 + lanes 2, 3, of two such pairs.
    let pairs = |a: __m256, b: __m256| {
        let (a, b) = (_mm256_castps_pd(a), _mm256_castps_pd(b));
        let low = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
        let high = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
        _mm256_add_ps(low, high)
    };
    let a = pairs(quarter(0), quarter(1));
    let b = pairs(quarter(2), quarter(3));
    // Lane 0 + lane 1, of all eight.
    _mm256_add_ps(_mm256_shuffle_ps::<0x88>(a, b), _mm256_shuffle_ps::<0xdd>(a, b))
}

#[inline]
#[target_feature(enable = "avx2")]
fn lanes(x: __m256) -> [f32; 8] {
    let mut out = [0.0; 8];
    // SAFETY: eight float32 fit.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), x) };
    out
}
