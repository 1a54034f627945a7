//! Lists of any layout, sliced and with nulls, through the C data interface and the kernels: no
//! panic, no read beyond a buffer (run under AddressSanitizer), and the sums of a plain loop.
#![no_main]

use _native::arrays::float_lists;
use _native::parallel::Control;
use _native::scores::{Score, score};
use arrow_array::ffi::{from_ffi, to_ffi};
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, LargeListArray, ListArray, make_array};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

fuzz_target!(|input: (Vec<Option<Vec<Option<f32>>>>, u8, u8)| {
    let (rows, cut, form) = input;
    let control = Control::default();
    let wide = || {
        rows.iter().map(|row| {
            row.as_ref().map(|row| row.iter().map(|x| x.map(f64::from)).collect::<Vec<_>>())
        })
    };
    let array: ArrayRef = match form % 3 {
        0 => Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(rows.clone())),
        1 => Arc::new(LargeListArray::from_iter_primitive::<Float32Type, _, _>(rows.clone())),
        _ => Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(wide())),
    };
    let cut = usize::from(cut).min(rows.len());
    let sliced = array.slice(cut, rows.len() - cut);
    let (ffi_array, schema) = to_ffi(&sliced.to_data()).unwrap();
    // SAFETY: both come from `to_ffi` just now.
    let data = unsafe { from_ffi(ffi_array, &schema) }.unwrap();
    let column = float_lists(&[make_array(data)], &control).unwrap();
    let Ok(scores) = score(&column, Score::MeanNll, &control) else { return };
    for (row, got) in rows[cut..].iter().zip(scores.values) {
        let known: Vec<f64> = row.iter().flatten().flatten().map(|x| f64::from(*x)).collect();
        let want = -known.iter().sum::<f64>() / known.len() as f64;
        let near = (got - want).abs() <= 1e-6 * want.abs() + 1e-9;
        assert!(near || want.is_nan() || got == want, "{got} {want}");
    }
});
