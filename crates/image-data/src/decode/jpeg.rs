//! Whether a JPEG file is whole.

const START_OF_SCAN: u8 = 0xDA;
const END_OF_IMAGE: u8 = 0xD9;

/// Whether the marker segments of `bytes` (ITU-T T.81, annex B) lead to an
/// end-of-image marker.
///
/// The segments are walked, not searched: an embedded thumbnail has markers of its
/// own. Where they cannot be followed the answer is yes, and the decoder judges.
pub(super) fn is_complete(bytes: &[u8]) -> bool {
    let mut at = 2; // after start-of-image
    loop {
        let Some(marker_at) = next_marker(bytes, at) else { return false };
        let marker = bytes[marker_at + 1];
        at = marker_at + 2;
        match marker {
            END_OF_IMAGE => return true,
            // Restart markers, TEM and a second start-of-image stand alone.
            0xD0..=0xD8 | 0x01 => continue,
            _ => {}
        }
        let Some(length) = bytes.get(at..at + 2) else { return false };
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        if length < 2 {
            return true;
        }
        at += length;
        if marker == START_OF_SCAN {
            at = match end_of_scan(bytes, at) {
                Some(end) => end,
                None => return false,
            };
        }
    }
}

/// The next `FF xx` from `at` on, with `xx` neither a stuffed zero nor a fill byte.
fn next_marker(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    rest.windows(2).position(|pair| pair[0] == 0xFF && !matches!(pair[1], 0 | 0xFF)).map(|i| at + i)
}

/// Where the entropy-coded data from `at` on ends: at a marker that may follow it.
/// Damaged data holds other byte pairs that look like markers.
fn end_of_scan(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    let follows = |marker| matches!(marker, 0xC4 | 0xD9..=0xDD | 0xE0..=0xEF | 0xFE);
    rest.windows(2).position(|pair| pair[0] == 0xFF && follows(pair[1])).map(|i| at + i)
}

#[cfg(test)]
mod tests {
    use super::is_complete;

    // A thumbnail with its own end marker inside an APP1 segment of 8 bytes.
    const HEAD: &[u8] = &[0xFF, 0xD8, 0xFF, 0xE1, 0, 8, 0xFF, 0xD8, 1, 2, 0xFF, 0xD9];
    const SCAN: &[u8] = &[0xFF, 0xDA, 0, 3, 9, 1, 2, 0xFF, 0, 0xFF, 0xD0, 7];

    #[test]
    fn ends_only_with_its_own_marker() {
        let cut = [HEAD, SCAN].concat();
        assert!(!is_complete(&cut));
        assert!(!is_complete(HEAD));
        assert!(is_complete(&[&cut, &[0xFF, 0xD9][..]].concat()));
        let trailing = [&cut, &[0xFF, 0xFF, 0xD9, 0, 0][..]].concat();
        assert!(is_complete(&trailing));
    }

    #[test]
    fn every_shorter_prefix_is_incomplete() {
        let whole = [HEAD, SCAN, SCAN, &[0xFF, 0xD9][..]].concat();
        assert!(is_complete(&whole));
        for end in 2..whole.len() {
            assert!(!is_complete(&whole[..end]), "{end}");
        }
    }
}
