//! What rows are ranked by.

use crate::arrays::Chunked;
use crate::error::{Error, Result};
use crate::parallel::{self, Control};
use crate::texts::Texts;

/// A hash of each id, to break ties without preference for any part of a file. FNV-1a with a final
/// mix: stable for ever, which hashes of libraries are not.
pub fn hashes(ids: &Chunked<Texts>, control: &Control) -> Result<Vec<u64>> {
    let mut out = vec![0; ids.len()];
    parallel::fill(&mut out[..], control, |start, rows| {
        for (i, out) in rows.iter_mut().enumerate() {
            let id = ids.get(start + i).ok_or_else(|| Error::row(start + i, "the id is null"))?;
            *out = hash(id.as_bytes());
        }
        Ok(())
    })?;
    Ok(out)
}

pub fn hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for &b in bytes {
        hash = (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    }
    // FNV mixes its last bytes badly into the high bits.
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}
