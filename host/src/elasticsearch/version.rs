//! Versions made of positions: `epoch << 52 | offset << 8 | n`.
//!
//! Where one partition alone writes a document, a later record of it has a higher version, and Elasticsearch refuses what is older. `n` tells the
//! documents of one record apart. Pure: no clock, no I/O.

/// Documents of one record.
pub(super) const DOCUMENTS_MAX: usize = 256;
const DOCUMENT_BITS: u32 = 8;
const OFFSET_BITS: u32 = 44;

/// The version of the document `number` of the record at `offset`; none where it would not fit.
pub(super) fn version(epoch: u16, offset: i64, number: usize) -> Option<i64> {
    let number = i64::try_from(number)
        .ok()
        .filter(|number| *number < 1 << DOCUMENT_BITS)?;
    if !(0..1 << OFFSET_BITS).contains(&offset) || epoch >= 1 << 11 {
        return None;
    }
    Some(i64::from(epoch) << (OFFSET_BITS + DOCUMENT_BITS) | offset << DOCUMENT_BITS | number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_does_not_fit_has_no_version() {
        assert_eq!(version(0, 0, 0), Some(0));
        assert_eq!(version(1, 2, 3), Some((1 << 52) + (2 << 8) + 3));
        assert_eq!(version(2047, (1 << 44) - 1, 255), Some(i64::MAX));
        assert_eq!(version(0, 0, DOCUMENTS_MAX), None);
        assert_eq!(version(0, 1 << 44, 0), None);
        assert_eq!(version(0, -1, 0), None);
        assert_eq!(version(2048, 0, 0), None);
    }

    proptest! {
        /// Later positions have higher versions, and a higher epoch outranks every offset.
        #[test]
        fn versions_are_ordered_as_positions_are(
            left in (0..2048_u16, 0..1_i64 << 44, 0..256_usize),
            right in (0..2048_u16, 0..1_i64 << 44, 0..256_usize),
        ) {
            let of = |(epoch, offset, number)| version(epoch, offset, number).unwrap();
            prop_assert_eq!(of(left).cmp(&of(right)), left.cmp(&right));
        }
    }
}
