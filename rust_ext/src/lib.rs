//! Selection kernels: pure functions over Arrow arrays, and (feature `python`) the module
//! `semievol_ray._native` that wraps them.

pub mod agreement;
pub mod alignment;
pub mod answers;
pub mod arrays;
pub mod choice;
pub mod consensus;
mod cues;
pub mod dealt;
mod decimal;
pub mod distribution;
pub mod duplicates;
pub mod error;
pub mod fold;
pub mod groups;
pub mod ids;
mod label_replies;
pub mod labels;
pub mod lanes;
mod latex;
mod markup;
pub mod mentions;
pub mod numbers;
pub mod parallel;
pub mod pattern;
mod powers;
pub mod ranks;
pub mod scores;
mod signs;
pub mod spelling;
pub mod statements;
pub mod strings;
pub mod sums;
#[cfg(target_arch = "x86_64")]
mod sums_avx512;
#[cfg(target_arch = "x86_64")]
mod sums_x86;
pub mod text;
pub mod texts;
pub mod token_entropy;
mod validate;
mod words;
pub mod wrapping;
pub mod written;

// Unit tests link no Python.
#[cfg(all(feature = "python", not(test)))]
mod python;
