//! Ids dealt into parts that each fit the cache and that lie in order.
//!
//! To look at an id somewhere in a large table is to wait for memory, and a sort looks at each many
//! times. So all ids are read once, one after another, and copied to the part that they are of.

use std::ops::Range;

use crate::error::Result;
use crate::ids;
use crate::parallel::{self, BLOCK_ROWS, Control};

/// Ids that a part should hold.
const PART: usize = BLOCK_ROWS;
/// With more parts a block would have but a few ids for each of them.
const MOST_PARTS: usize = 512;
/// Ids that are looked at for each part to find where it ends.
const SAMPLED: usize = 16;

/// Ids in parts: those of each part are above those of the parts before it.
pub struct Dealt {
    parts: usize,
    blocks: Vec<Block>,
}

/// The ids of a block of places by their part, in their order within it.
#[derive(Default)]
struct Block {
    places: Vec<u32>,
    /// Id `i` is `bytes[ends[i]..ends[i + 1]]`.
    ends: Vec<usize>,
    bytes: Vec<u8>,
    /// Where each part ends in the places.
    parts: Vec<usize>,
}

impl Dealt {
    /// The same for any number of threads.
    pub fn new<'a>(
        count: u32,
        control: &Control,
        id: &(impl Fn(u32) -> &'a [u8] + Sync),
    ) -> Result<Self> {
        let bounds = Bounds::new(count as usize, id);
        let parts = bounds.parts();
        let blocks = parallel::map(count as usize, control, |range| {
            Ok(Block::new(range.start as u32..range.end as u32, &bounds, id))
        })?;
        Ok(Self { parts, blocks })
    }

    pub fn parts(&self) -> usize {
        self.parts
    }

    /// The ids of a part, in the order of their places.
    pub fn ids(&self, part: usize) -> Ids {
        let mut ids = Ids { places: vec![], ends: vec![0], bytes: vec![] };
        for block in &self.blocks {
            let range = block.part(part);
            let (start, end) = (block.ends[range.start], block.ends[range.end]);
            let before = ids.bytes.len();
            ids.bytes.extend_from_slice(&block.bytes[start..end]);
            ids.ends.extend(
                block.ends[range.start + 1..=range.end].iter().map(|end| end - start + before),
            );
            ids.places.extend_from_slice(&block.places[range]);
        }
        ids
    }
}

impl Block {
    fn new<'a>(range: Range<u32>, bounds: &Bounds<'_>, id: &impl Fn(u32) -> &'a [u8]) -> Self {
        let parts: Vec<usize> = range.clone().map(|place| bounds.part(id(place))).collect();
        let mut ends = vec![0; bounds.parts()];
        parts.iter().for_each(|part| ends[*part] += 1);
        let mut next = 0;
        for end in &mut ends {
            (*end, next) = (next, next + *end);
        }
        let mut block = Self { places: vec![0; parts.len()], parts: ends, ..Self::default() };
        for (place, part) in range.zip(parts) {
            let end = &mut block.parts[part];
            block.places[*end] = place;
            *end += 1;
        }
        block.ends.reserve(block.places.len() + 1);
        block.ends.push(0);
        for place in &block.places {
            block.bytes.extend_from_slice(id(*place));
            block.ends.push(block.bytes.len());
        }
        block
    }

    fn part(&self, part: usize) -> Range<usize> {
        let start = if part == 0 { 0 } else { self.parts[part - 1] };
        start..self.parts[part]
    }
}

/// The ids of one part, side by side.
pub struct Ids {
    pub places: Vec<u32>,
    /// Id `i` is `bytes[ends[i]..ends[i + 1]]`.
    ends: Vec<usize>,
    bytes: Vec<u8>,
}

impl Ids {
    #[inline]
    pub fn get(&self, at: u32) -> &[u8] {
        &self.bytes[self.ends[at as usize]..self.ends[at as usize + 1]]
    }
}

/// Where parts begin, all but the first one.
struct Bounds<'a> {
    /// What the ids that were looked at begin with.
    prefix: &'a [u8],
    bounds: Vec<&'a [u8]>,
    /// What each bound is found by.
    keys: Vec<u64>,
}

impl<'a> Bounds<'a> {
    fn new(count: usize, id: &impl Fn(u32) -> &'a [u8]) -> Self {
        let parts = count.div_ceil(PART).clamp(1, MOST_PARTS);
        let step = (count / (parts * SAMPLED)).max(1);
        // Not at even steps: ids may come round after round.
        let at = |i: usize| i * step + i.wrapping_mul(0x9e37_79b9) / 1024 % step;
        let mut sample: Vec<&[u8]> = (0..count / step).map(|i| id(at(i) as u32)).collect();
        sample.sort_unstable();
        let mut bounds: Vec<_> = (1..parts).map(|i| sample[i * sample.len() / parts]).collect();
        bounds.dedup();
        Self::of(&sample, bounds)
    }

    fn of(sample: &[&'a [u8]], bounds: Vec<&'a [u8]>) -> Self {
        let prefix = match (sample.first(), sample.last()) {
            (Some(a), Some(b)) => &a[..a.iter().zip(*b).take_while(|(a, b)| a == b).count()],
            _ => &[],
        };
        let mut all = Self { prefix, bounds, keys: vec![] };
        all.keys = all.bounds.iter().map(|bound| all.key(bound)).collect();
        all
    }

    fn parts(&self) -> usize {
        self.bounds.len() + 1
    }

    /// A number that is never above the one of an id further on.
    #[inline]
    fn key(&self, id: &[u8]) -> u64 {
        match id.strip_prefix(self.prefix) {
            Some(rest) => ids::word(rest, 0),
            None if id < self.prefix => 0,
            None => u64::MAX,
        }
    }

    #[inline]
    fn part(&self, id: &[u8]) -> usize {
        let key = self.key(id);
        // Numbers alone, for a search without a branch that is guessed.
        let part = self.keys.partition_point(|bound| *bound < key);
        if self.keys.get(part) == Some(&key) { self.among_alike(part, id) } else { part }
    }

    /// The part of an id whose key is that of some bounds from `part` on.
    fn among_alike(&self, part: usize, id: &[u8]) -> usize {
        part + self.bounds[part..].partition_point(|bound| *bound <= id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_are_in_order_and_hold_each_id_once(
            ids in prop::collection::vec("[ab\0]{0,2}|(https://a)?[ab]{0,9}/[a\0]{0,9}", 1..200),
            bounds in prop::collection::btree_set("[ab\0]{0,2}|(https://a)?[ab]{0,9}/[a\0]{0,9}", 0..20))
        {
            // Ids that no one looked at may begin with anything.
            let bounds: Vec<&[u8]> = bounds.iter().map(|bound| bound.as_bytes()).collect();
            let all = Bounds::of(&bounds, bounds.clone());
            for id in &ids {
                let want = bounds.iter().filter(|bound| **bound <= id.as_bytes()).count();
                prop_assert_eq!(all.part(id.as_bytes()), want);
            }
            let block = Block::new(0..ids.len() as u32, &all, &|place| ids[place as usize].as_bytes());
            let dealt = Dealt { parts: all.parts(), blocks: vec![block] };
            let mut seen = 0;
            for part in 0..dealt.parts() {
                let got = dealt.ids(part);
                prop_assert!(got.places.is_sorted());
                seen += got.places.len();
                for (at, place) in got.places.iter().enumerate() {
                    let id = ids[*place as usize].as_bytes();
                    prop_assert_eq!(got.get(at as u32), id);
                    prop_assert_eq!(all.part(id), part);
                }
            }
            prop_assert_eq!(seen, ids.len());
        }
    }
}
