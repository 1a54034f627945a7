//! Ids in order, equal ones together: what `groups` is made of.
//!
//! To compare ids is to wait for memory at each step of a sort. So they are sorted by numbers: of
//! the bytes from the first one on at which any two differ, those bits that differ at all. Such a
//! number holds all that tells a million ids of one form apart, and is sorted by its digits. What is
//! alike so far is sorted by what follows.

use rayon::prelude::*;

use crate::parallel;

/// A place among the ids, with what its id is sorted by.
#[derive(Debug, Clone, Copy, Default)]
pub struct Item {
    key: u64,
    pub place: u32,
    /// Whether the id goes on behind what the key holds.
    more: bool,
    /// Whether the id is another one than the item's before it.
    pub is_new: bool,
}

impl Item {
    pub fn new(place: u32) -> Self {
        Self { place, ..Self::default() }
    }
}

/// Up to this many ids are compared as they are.
const FEW: usize = 24;
/// Ids that are still alike after so many keys are compared as they are.
const MOST_LEVELS: usize = 32;

/// Sorts places by the bytes of their ids, those of one id as they come, and marks new ids.
pub fn sort<'a>(items: &mut [Item], id: &(impl Fn(u32) -> &'a str + Sync)) {
    sort_alike(items, 0, MOST_LEVELS, id);
}

/// Sorts items whose ids are the same before `depth`; there are as many levels to go.
fn sort_alike<'a>(
    items: &mut [Item],
    depth: usize,
    levels: usize,
    id: &(impl Fn(u32) -> &'a str + Sync),
) {
    let Some((first, others)) = items.split_first_mut() else { return };
    first.is_new = true;
    let first = id(first.place);
    if others.iter().all(|item| id(item.place) == first) {
        return;
    }
    if items.len() <= FEW || levels == 0 {
        items.sort_unstable_by(|a, b| id(a.place).cmp(id(b.place)).then(a.place.cmp(&b.place)));
        let mut previous = None;
        for item in items {
            item.is_new = previous.replace(id(item.place)) != Some(id(item.place));
        }
        return;
    }
    if in_parallel(items) {
        let window = Window::new(items, depth, id);
        items.par_iter_mut().for_each(|item| (item.key, item.more) = window.key(id(item.place)));
        sort_by_digits(items, window.bits);
        let alike = items.par_chunk_by_mut(|a, b| a.key == b.key);
        alike.for_each(|items| sort_rest(items, window.end(), levels, id));
    } else {
        // Few enough to stay in the cache: their next eight bytes will do.
        let shared = |end, item: &Item| common(first, id(item.place), depth, end);
        let depth = items.iter().fold(first.len(), shared);
        items
            .iter_mut()
            .for_each(|item| (item.key, item.more) = (word(id(item.place), depth), true));
        items.sort_unstable_by_key(|item| (item.key, item.place));
        for items in items.chunk_by_mut(|a, b| a.key == b.key) {
            sort_rest(items, depth + size_of::<u64>(), levels, id);
        }
    }
}

/// Sorts items of one key by what follows it.
#[inline]
fn sort_rest<'a>(
    items: &mut [Item],
    depth: usize,
    levels: usize,
    id: &(impl Fn(u32) -> &'a str + Sync),
) {
    items[0].is_new = true;
    if items.len() > 1 && items[0].more {
        sort_alike(items, depth, levels - 1, id);
    }
}

/// The first place from `start` on, `end` at most, at which two ids differ or one ends.
#[inline]
fn common(a: &str, b: &str, start: usize, end: usize) -> usize {
    let end = end.min(a.len()).min(b.len());
    let (Some(a), Some(b)) = (a.as_bytes().get(start..end), b.as_bytes().get(start..end)) else {
        return end;
    };
    // As a whole first: most have all of it in common.
    if a == b { end } else { start + a.iter().zip(b).take_while(|(a, b)| a == b).count() }
}

/// Eight bytes of an id as a number that sorts as they do, zeros beyond its end.
#[inline]
fn word(id: &str, start: usize) -> u64 {
    let rest = id.as_bytes().get(start..).unwrap_or_default();
    let mut bytes = [0; size_of::<u64>()];
    if let Some(all) = rest.first_chunk() {
        bytes = *all;
    } else {
        bytes[..rest.len()].copy_from_slice(rest);
    }
    u64::from_be_bytes(bytes)
}

fn in_parallel(items: &[Item]) -> bool {
    items.len() > parallel::BLOCK_ROWS && rayon::current_thread_index().is_some()
}

/// Bytes that a key is made of, at most.
const WIDTH: usize = 16;
/// Bits of a key that say how many of these bytes an id has.
const LENGTH_BITS: u32 = 5;

/// The bytes of the ids that keys are made of.
struct Window {
    start: usize,
    width: usize,
    /// Whether some ids end within the window, and others later.
    ends: bool,
    /// How many bits a key has.
    bits: u32,
    /// Of each byte in which ids differ: its place, how many of its bits differ, and for each of its
    /// values those bits.
    bytes: Vec<(usize, u32, [u8; 256])>,
}

impl Window {
    /// From the first byte on at which any two ids differ.
    fn new<'a>(items: &[Item], depth: usize, id: &(impl Fn(u32) -> &'a str + Sync)) -> Self {
        let first = id(items[0].place);
        let mut start = depth;
        let differences = loop {
            let differences = Differences::new(items, first, start, id);
            match differences.masks.iter().position(|mask| *mask != 0) {
                Some(0) => break differences,
                // Once more from there on, for a whole window.
                Some(at) => start += at,
                None => start += LOOKED_AT,
            }
        };
        let mut window = Self { start, width: 0, ends: false, bits: 0, bytes: vec![] };
        for (at, mask) in differences.masks.into_iter().take(WIDTH).enumerate() {
            if window.bits + mask.count_ones() + LENGTH_BITS > u64::BITS {
                break;
            }
            window.width = at + 1;
            if mask != 0 {
                let table = std::array::from_fn(|byte| extract(byte as u8, mask));
                window.bytes.push((at, mask.count_ones(), table));
                window.bits += mask.count_ones();
            }
        }
        let Differences { shortest, longest, .. } = differences;
        window.ends = shortest <= window.end() && shortest != longest;
        window.bits += if window.ends { LENGTH_BITS } else { 0 };
        window
    }

    fn end(&self) -> usize {
        self.start + self.width
    }

    /// An id's key, and whether there is more of the id.
    #[inline]
    fn key(&self, id: &str) -> (u64, bool) {
        let rest = id.as_bytes().get(self.start..).unwrap_or_default();
        let mut padded = [0; WIDTH];
        let bytes = rest.first_chunk::<WIDTH>().unwrap_or_else(|| {
            padded[..rest.len()].copy_from_slice(rest);
            &padded
        });
        let key = self.bytes.iter().fold(0, |key, (at, bits, table)| {
            key << bits | u64::from(table[usize::from(bytes[*at])])
        });
        // Zeros stand beyond an end; of ids that are the same with them the shorter one is first.
        let length = rest.len().min(self.width + 1) as u64;
        (if self.ends { key << LENGTH_BITS | length } else { key }, rest.len() > self.width)
    }
}

/// The bits of a byte that a mask has, side by side.
fn extract(byte: u8, mask: u8) -> u8 {
    let bits = (0..8).rev().filter(|bit| mask >> bit & 1 == 1);
    bits.fold(0, |out, bit| out << 1 | (byte >> bit & 1))
}

/// Bytes that are looked at for differences at once.
const LOOKED_AT: usize = 48;

/// Which bits ids differ in, from some byte on.
struct Differences {
    masks: [u8; LOOKED_AT],
    shortest: usize,
    longest: usize,
}

impl Differences {
    fn new<'a>(
        items: &[Item],
        first: &str,
        start: usize,
        id: &(impl Fn(u32) -> &'a str + Sync),
    ) -> Self {
        let of = |items: &[Item]| {
            let mut all = Self { masks: [0; LOOKED_AT], shortest: usize::MAX, longest: 0 };
            let first = padded(first, start);
            for item in items {
                let id = id(item.place);
                let here = padded(id, start);
                all.masks
                    .iter_mut()
                    .zip(first.iter().zip(&here))
                    .for_each(|(m, (a, b))| *m |= a ^ b);
                all.shortest = all.shortest.min(id.len());
                all.longest = all.longest.max(id.len());
            }
            all
        };
        let both = |mut a: Self, b: Self| {
            a.masks.iter_mut().zip(b.masks).for_each(|(a, b)| *a |= b);
            a.shortest = a.shortest.min(b.shortest);
            a.longest = a.longest.max(b.longest);
            a
        };
        if in_parallel(items) {
            let blocks = items.par_chunks(parallel::BLOCK_ROWS).map(of);
            blocks.reduce_with(both).unwrap_or_else(|| of(&[]))
        } else {
            of(items)
        }
    }
}

/// The bytes of an id from `start` on, zeros beyond its end.
#[inline]
fn padded(id: &str, start: usize) -> [u8; LOOKED_AT] {
    let rest = id.as_bytes().get(start..).unwrap_or_default();
    if let Some(all) = rest.first_chunk() {
        return *all;
    }
    let mut out = [0; LOOKED_AT];
    let n = rest.len().min(LOOKED_AT);
    out[..n].copy_from_slice(&rest[..n]);
    out
}

const DIGIT_BITS: u32 = 11;
const DIGITS: usize = 1 << DIGIT_BITS;

/// Sorts by the lowest bits of the keys, items of one key as they come.
fn sort_by_digits(items: &mut [Item], bits: u32) {
    let mut others = vec![Item::default(); items.len()];
    let mut in_items = true;
    for digit in 0..bits.div_ceil(DIGIT_BITS) {
        let of = |item: &Item| (item.key >> (digit * DIGIT_BITS)) as usize & (DIGITS - 1);
        let (from, to) =
            if in_items { (&*items, &mut others[..]) } else { (&others[..], &mut *items) };
        let mut places = [0usize; DIGITS];
        from.iter().for_each(|item| places[of(item)] += 1);
        let mut next = 0;
        for place in &mut places {
            (*place, next) = (next, next + *place);
        }
        for item in from {
            let place = &mut places[of(item)];
            to[*place] = *item;
            *place += 1;
        }
        in_items = !in_items;
    }
    if !in_items {
        items.copy_from_slice(&others);
    }
}
