//! How `sums` lays a list out, whatever adds it up: lanes, blocks, and the offsets of lists.

/// Lanes of a block; a whole AVX-512 register, two AVX2 ones.
pub const LANES: usize = 16;
pub const BLOCK: usize = 8 * LANES;

pub type Lanes = [f32; LANES];

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
