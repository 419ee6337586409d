//! Unsigned LEB128 numbers. Reading trusts nothing: a number that is cut off, too long or too large is `None`.

/// Appends `value`.
pub(crate) fn write(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes [`write`] appends.
#[inline]
pub(crate) fn len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// The number at the start of `bytes`, and how many bytes it took.
#[inline]
pub(crate) fn read(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    for (i, &byte) in bytes.iter().take(10).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if i == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, i + 1));
        }
    }
    None
}

/// Like [`read`], for a number of 32 bits: at most 5 bytes.
#[inline]
pub(crate) fn read32(bytes: &[u8]) -> Option<(u32, usize)> {
    let (value, len) = read(&bytes[..bytes.len().min(5)])?;
    Some((u32::try_from(value).ok()?, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_at_every_length() {
        for shift in 0..64 {
            for value in [(1_u64 << shift) - 1, 1 << shift, u64::MAX >> shift] {
                let mut bytes = Vec::new();
                write(&mut bytes, value);
                assert_eq!(bytes.len(), len(value), "{value}");
                assert_eq!(read(&bytes), Some((value, bytes.len())));
                assert_eq!(read32(&bytes), u32::try_from(value).ok().map(|value| (value, bytes.len())));
                for cut in 0..bytes.len() {
                    assert_eq!(read(&bytes[..cut]), None);
                }
            }
        }
    }

    #[test]
    fn overflowing_numbers_are_refused() {
        assert_eq!(read(&[0xff; 10]), None);
        assert_eq!(read(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02]), None);
        assert_eq!(read(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0]), None);
        assert_eq!(read32(&[0xff, 0xff, 0xff, 0xff, 0x1f]), None);
        assert_eq!(read32(&[0x80, 0x80, 0x80, 0x80, 0x80, 0]), None);
        assert_eq!(read32(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Some((u32::MAX, 5)));
    }
}
