//! The checksum of every format: CRC-32 (ISO-HDLC) with a seed that ties bytes to their place.

/// A CRC-32 being computed. Start from nothing, add bytes, finish. What many checksums begin with is computed once, and
/// cloned.
///
/// ```
/// use terrace_io::Checksum;
/// let whole = Checksum::new().bytes(b"terrace").finish();
/// let seed = Checksum::new().bytes(b"ter");
/// assert_eq!(seed.clone().bytes(b"race").finish(), whole);
/// ```
#[derive(Debug, Clone)]
pub struct Checksum(crc32fast::Hasher);

impl Checksum {
    /// Over nothing yet.
    pub fn new() -> Self {
        Checksum(crc32fast::Hasher::new())
    }

    /// Adds bytes.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.update(bytes);
        self
    }

    /// Adds a little-endian `u32`.
    #[must_use]
    pub fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Adds a little-endian `u64`.
    #[must_use]
    pub fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// The checksum of everything added.
    pub fn finish(self) -> u32 {
        self.0.finalize()
    }
}

impl Default for Checksum {
    fn default() -> Self {
        Checksum::new()
    }
}
