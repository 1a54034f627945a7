//! Ids in order, equal ones together: what `groups` is made of.
//!
//! They are sorted by numbers: of the eight bytes from the first one on at which any two differ. What
//! is alike so far is sorted by what follows.

/// A place among the ids, with what its id is sorted by.
#[derive(Debug, Clone, Copy, Default)]
pub struct Item {
    key: u64,
    pub place: u32,
    /// Whether the id ends elsewhere than what the key holds.
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

/// Sorts rising places by the bytes of their ids, those of one id as they come, and marks new ids.
pub fn sort<'a>(items: &mut [Item], id: &impl Fn(u32) -> &'a [u8]) {
    sort_alike(items, 0, MOST_LEVELS, id);
}

/// Sorts items whose ids are the same before `depth`; there are as many levels to go.
fn sort_alike<'a>(items: &mut [Item], depth: usize, levels: usize, id: &impl Fn(u32) -> &'a [u8]) {
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
    let shared = |end, item: &Item| common(first, id(item.place), depth, end);
    let depth = items.iter().fold(first.len(), shared);
    let end = depth + size_of::<u64>();
    for item in &mut *items {
        let id = id(item.place);
        (item.key, item.more) = (word(id, depth), id.len() != end);
    }
    items.sort_unstable_by_key(|item| (item.key, item.place));
    for alike in items.chunk_by_mut(|a, b| a.key == b.key) {
        alike[0].is_new = true;
        if alike.len() > 1 && alike.iter().any(|item| item.more) {
            sort_alike(alike, end, levels - 1, id);
        }
    }
}

/// The first place from `start` on, `end` at most, at which two ids differ or one ends.
#[inline]
fn common(a: &[u8], b: &[u8], start: usize, end: usize) -> usize {
    let end = end.min(a.len()).min(b.len());
    let (Some(a), Some(b)) = (a.get(start..end), b.get(start..end)) else {
        return end;
    };
    // As a whole first: most have all of it in common.
    if a == b { end } else { start + a.iter().zip(b).take_while(|(a, b)| a == b).count() }
}

/// Eight bytes of an id as a number that sorts as they do, zeros beyond its end.
#[inline]
pub fn word(id: &[u8], start: usize) -> u64 {
    let rest = id.get(start..).unwrap_or_default();
    let mut bytes = [0; size_of::<u64>()];
    if let Some(all) = rest.first_chunk() {
        bytes = *all;
    } else {
        bytes[..rest.len()].copy_from_slice(rest);
    }
    u64::from_be_bytes(bytes)
}
