//! A Bloom filter over the whole table, of the `bloomfilter` crate, over digests of the keys. Frozen: `docs/format.md`
//! §2.6.

use std::fmt;
use std::hash::{Hash, Hasher};

use bloomfilter::Bloom;
use bloomfilter::reexports::siphasher::sip::SipHasher13;

/// The seed of the filter.
const SEED: &[u8; 32] = b"terrace filter, format version 1";
/// More hash functions than this are no honest filter.
const HASHES_MAX: u32 = 32;
/// Bytes of the header in front of the bits: version, length of the bits, number of hash functions, seed.
const HEADER_BYTES: usize = 1 + 8 + 4 + 32;

/// What the filter knows of a key: SipHash-1-3 with a key of zeros over its bytes.
#[inline]
pub(crate) fn digest(key: &[u8]) -> u64 {
    SipHasher13::new().hash(key)
}

/// A digest as it goes into the filter: its 8 little-endian bytes, and nothing else.
struct Digest(u64);

impl Hash for Digest {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0.to_le_bytes());
    }
}

/// `value % (2^64 - 59)`.
#[inline]
fn modulo_prime(value: u64) -> u64 {
    const PRIME: u64 = 0u64.wrapping_sub(59);
    if value >= PRIME { value - PRIME } else { value }
}

/// The filter, on the heap: the crate's, asked by way of multiplications instead of its two divisions for each hash
/// function, which took a third of the time of a query.
pub(crate) struct BloomFilter {
    bloom: Bloom<Digest>,
    bits: u64,
    /// 2^64 / `bits`, rounded down.
    reciprocal: u64,
    hashes: u64,
    sips: [SipHasher13; 2],
}

impl BloomFilter {
    /// The bytes on disk of a filter over `digests` (at least one, each once) with `bits_per_key` bits for each.
    pub(crate) fn build(digests: &[u64], bits_per_key: u8) -> Vec<u8> {
        let bytes = BloomFilter::bits_len(digests.len(), bits_per_key);
        // The crate chooses the number of hash functions from this; a tiny filter has more bits than its keys need.
        let items = digests.len().max((8 * bytes).div_ceil(usize::from(bits_per_key.max(1))));
        let mut bloom = Bloom::new_with_seed(bytes, items, SEED).expect("sizes are positive");
        for digest in digests {
            bloom.set(&Digest(*digest));
        }
        bloom.into_bytes()
    }

    /// How long [`BloomFilter::build`] will be.
    pub(crate) fn encoded_len(keys: usize, bits_per_key: u8) -> usize {
        HEADER_BYTES + BloomFilter::bits_len(keys, bits_per_key)
    }

    fn bits_len(keys: usize, bits_per_key: u8) -> usize {
        (keys * usize::from(bits_per_key)).div_ceil(8).max(8)
    }

    /// Reads a filter. The error says why it is refused.
    pub(crate) fn read(bytes: &[u8]) -> Result<BloomFilter, &'static str> {
        // The crate would divide by zero for want of bits, and query as long as the header says.
        if bytes.len() <= HEADER_BYTES {
            return Err("the filter has no bits");
        }
        if u64::from_le_bytes(bytes[1..9].try_into().expect("8 bytes")) != (bytes.len() - HEADER_BYTES) as u64
        {
            return Err("the filter's length does not fit its header");
        }
        if &bytes[13..45] != SEED {
            return Err("the filter has another seed");
        }
        let bloom = Bloom::from_slice(bytes)?;
        if !(1..=HASHES_MAX).contains(&bloom.number_of_hash_functions()) {
            return Err("the filter has an impossible number of hash functions");
        }
        let bits = bloom.len();
        let reciprocal = ((1_u128 << 64) / u128::from(bits)) as u64;
        let hashes = u64::from(bloom.number_of_hash_functions());
        let sip = |key: &[u8]| SipHasher13::new_with_key(key.try_into().expect("half of 32 bytes"));
        Ok(BloomFilter { bloom, bits, reciprocal, hashes, sips: [sip(&SEED[..16]), sip(&SEED[16..])] })
    }

    /// Whether the key may be in the table. If not, it is not.
    #[inline]
    pub(crate) fn may_contain(&self, key: &[u8]) -> bool {
        let digest = digest(key).to_le_bytes();
        let [first, second] = self.sips.each_ref().map(|sip| sip.hash(&digest));
        let bytes = &self.bloom.as_slice()[HEADER_BYTES..];
        (0..self.hashes).all(|index| {
            let hash = match index {
                0 => first,
                1 => second,
                _ => modulo_prime(first.wrapping_add(index.wrapping_mul(second))),
            };
            let bit = self.modulo_bits(hash);
            bytes[(bit / 8) as usize] & (1 << (bit % 8)) != 0
        })
    }

    /// `hash % self.bits`.
    #[inline]
    fn modulo_bits(&self, hash: u64) -> u64 {
        // At most 2 too small, since the reciprocal and the product are rounded down.
        let quotient = ((u128::from(hash) * u128::from(self.reciprocal)) >> 64) as u64;
        let mut rest = hash - quotient * self.bits;
        while rest >= self.bits {
            rest -= self.bits;
        }
        rest
    }

    /// Bytes of heap.
    pub(crate) fn heap_bytes(&self) -> u64 {
        self.bloom.as_slice().len() as u64
    }
}

impl fmt::Debug for BloomFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BloomFilter").field("bits", &self.bits).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(i: u32) -> Vec<u8> {
        format!("key {i}").into_bytes()
    }

    #[test]
    fn every_key_passes_and_few_others_do() {
        for (keys, bits_per_key) in [(1, 1), (1, 40), (2, 10), (7, 40), (10_000, 10), (10_000, 1)] {
            let digests: Vec<u64> = (0..keys).map(|i| digest(&key(i))).collect();
            let bytes = BloomFilter::build(&digests, bits_per_key);
            assert_eq!(bytes.len(), BloomFilter::encoded_len(keys as usize, bits_per_key));
            let filter = BloomFilter::read(&bytes).unwrap();
            assert!((0..keys).all(|i| filter.may_contain(&key(i))));
            if bits_per_key == 10 {
                let wrong = (0..10_000).filter(|i| filter.may_contain(&key(i + 1_000_000))).count();
                assert!(wrong < 200, "{wrong} of 10,000");
            }
        }
    }

    #[test]
    fn it_answers_as_the_crate_does() {
        for (keys, bits_per_key) in [(1, 1), (3, 40), (1_000, 10), (1_000, 3), (777, 17)] {
            let digests: Vec<u64> = (0..keys).map(|i| digest(&key(i))).collect();
            let filter = BloomFilter::read(&BloomFilter::build(&digests, bits_per_key)).unwrap();
            for i in 0..20_000 {
                let expected = filter.bloom.check(&Digest(digest(&key(i))));
                assert_eq!(filter.may_contain(&key(i)), expected, "{keys} {bits_per_key} {i}");
            }
            for value in [0, 1, filter.bits - 1, filter.bits, u64::MAX - 59, u64::MAX - 58, u64::MAX] {
                assert_eq!(filter.modulo_bits(value), value % filter.bits);
                assert_eq!(modulo_prime(value), value % 0xFFFF_FFFF_FFFF_FFC5);
            }
        }
    }

    #[test]
    fn the_digest_is_frozen() {
        assert_eq!(digest(b""), 0xd1fb_a762_150c_532c);
        let bytes = BloomFilter::build(&[digest(b"terrace")], 10);
        assert_eq!(bytes[..13], [1, 8, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0]);
        assert_eq!(bytes[13..45], *SEED);
    }

    #[test]
    fn hostile_headers_are_refused() {
        let good = BloomFilter::build(&[1, 2, 3], 10);
        let forged = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            BloomFilter::read(&bytes)
        };
        assert!(forged(&|_| ()).is_ok());
        assert!(forged(&|b| b[9..13].fill(0)).is_err());
        assert!(forged(&|b| b[9..13].fill(0xff)).is_err());
        assert!(forged(&|b| b[9] = 33).is_err());
        assert!(forged(&|b| b[9] = 32).is_ok());
        assert!(forged(&|b| b[1..9].fill(0xff)).is_err());
        assert!(forged(&|b| b[0] = 2).is_err());
        assert!(forged(&|b| b[20] ^= 1).is_err());
        assert!(forged(&|b| b.push(0)).is_err());
        assert!(
            forged(&|b| {
                b.truncate(HEADER_BYTES);
                b[1..9].fill(0);
            })
            .is_err()
        );
        for len in 0..good.len() {
            assert!(BloomFilter::read(&good[..len]).is_err());
        }
    }
}
