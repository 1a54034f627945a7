//! Texts and lists in foreign buffers that keep none of Arrow's promises: what is taken is UTF-8 and
//! lies within its buffers, the rest is an error with its row (run under AddressSanitizer).
#![no_main]

use _native::arrays::lists;
use _native::parallel::Control;
use _native::texts::{Texts, text_lists, texts};
use arrow_array::{Array, ArrayRef, make_array};
use arrow_buffer::Buffer;
use arrow_data::{ArrayData, ArrayDataBuilder};
use arrow_schema::{DataType, Field};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

/// An array of these buffers, unchecked. The last offset stands within the bytes, because the C
/// interface takes their length from it.
fn foreign(
    kind: DataType,
    rows: usize,
    buffers: Vec<Buffer>,
    child: Option<ArrayData>,
) -> ArrayRef {
    let mut builder = ArrayDataBuilder::new(kind).len(rows).buffers(buffers);
    if let Some(child) = child {
        builder = builder.add_child_data(child);
    }
    // SAFETY: none; the point is that the kernels do not rely on it.
    make_array(unsafe { builder.build_unchecked() })
}

fn read(column: &Texts, rows: usize) {
    for row in 0..rows {
        let Some(text) = column.get(row) else { continue };
        assert!(std::str::from_utf8(text.as_bytes()).is_ok());
    }
}

fuzz_target!(|input: (Vec<i32>, Vec<u8>, u8)| {
    let (mut offsets, bytes, form) = input;
    let control = Control::default();
    if offsets.is_empty() {
        return;
    }
    let last = offsets.len() - 1;
    offsets[last] = offsets[last].rem_euclid(bytes.len() as i32 + 1);
    let rows = offsets.len() - 1;
    let list = |child: ArrayData| {
        let kind = DataType::List(Arc::new(Field::new("item", child.data_type().clone(), true)));
        foreign(kind, rows, vec![Buffer::from_vec(offsets.clone())], Some(child))
    };
    match form % 4 {
        0 => {
            let buffers = vec![Buffer::from_vec(offsets.clone()), Buffer::from_vec(bytes)];
            let array = foreign(DataType::Utf8, rows, buffers, None);
            if let Ok(column) = Texts::new(&array, &control) {
                read(&column, rows);
            }
        }
        1 => {
            // Views of sixteen bytes, and one buffer.
            let views: Vec<u128> =
                bytes.as_chunks::<16>().0.iter().map(|view| u128::from_le_bytes(*view)).collect();
            let rows = views.len();
            let buffers = vec![Buffer::from_vec(views), Buffer::from_vec(bytes)];
            let array = foreign(DataType::Utf8View, rows, buffers, None);
            if let Ok(column) = Texts::new(&array, &control) {
                read(&column, rows);
            }
        }
        2 => {
            let values = vec![-1.0f32; bytes.len()];
            let data = arrow_array::Float32Array::from(values).into_data();
            let array = list(data);
            if let Ok(column) = lists(&[array], &control) {
                for row in 0..rows {
                    let span = column.chunks[0].span(row).unwrap_or(0..0);
                    assert!(span.start <= span.end && span.end <= bytes.len());
                }
            }
        }
        _ => {
            let texts_of_bytes: Vec<i32> = (0..=bytes.len() as i32).collect();
            let buffers = vec![Buffer::from_vec(texts_of_bytes), Buffer::from_vec(bytes.clone())];
            let child = foreign(DataType::Utf8, bytes.len(), buffers, None);
            let array = list(child.to_data());
            if let Ok(column) = text_lists(&[array], &control) {
                for row in 0..rows {
                    for text in column.get(row).into_iter().flatten() {
                        assert!(std::str::from_utf8(text.as_bytes()).is_ok());
                    }
                }
            }
            let _ = texts(&[child], &control);
        }
    }
});
