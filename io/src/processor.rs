//! What the processor does faster if it is told so in its own words.

#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "intrinsics"))]

/// Has the processor fetch the cache line at an address that will be looked at soon, without waiting for it: waits for
/// several lines overlap. Where memory is not mapped there (a file's page that was not read yet), nothing happens; nor
/// on other processors than x86-64. Nothing depends on it.
#[inline(always)]
pub fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which reads nothing, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Which of the sixteen little-endian words of a cache line are `wanted` in the bits of `mask`: bit *i* stands for word
/// *i*.
///
/// ```
/// let mut line = [0; 64];
/// line[4..8].copy_from_slice(&0x1234_5678_u32.to_le_bytes());
/// assert_eq!(terrace_io::equal_words(&line, 0x1234_0000, 0xffff_0000), 0b10);
/// ```
#[inline(always)]
pub fn equal_words(line: &[u8; 64], wanted: u32, mask: u32) -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: every x86-64 processor has SSE2.
        unsafe { equal_words_by_vectors(line, wanted, mask) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    equal_words_one_by_one(line, wanted, mask)
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse2")]
fn equal_words_by_vectors(line: &[u8; 64], wanted: u32, mask: u32) -> u32 {
    use std::arch::x86_64::{
        _mm_and_si128, _mm_cmpeq_epi32, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_packs_epi32,
        _mm_set1_epi32,
    };
    let (wanted, mask) = (_mm_set1_epi32(wanted as i32), _mm_set1_epi32(mask as i32));
    let (quarters, _) = line.as_chunks::<16>();
    let equal = |quarter: usize| {
        // SAFETY: it reads 16 bytes from an address that need not be aligned, and these are 16.
        let words = unsafe { _mm_loadu_si128(quarters[quarter].as_ptr().cast()) };
        _mm_cmpeq_epi32(_mm_and_si128(words, mask), wanted)
    };
    // From words to half words to bytes to bits, each all ones or all zeros.
    let (front, back) = (_mm_packs_epi32(equal(0), equal(1)), _mm_packs_epi32(equal(2), equal(3)));
    _mm_movemask_epi8(_mm_packs_epi16(front, back)) as u32
}

#[cfg(any(test, not(target_arch = "x86_64")))]
#[inline]
fn equal_words_one_by_one(line: &[u8; 64], wanted: u32, mask: u32) -> u32 {
    let mut equal = 0;
    for (index, word) in line.as_chunks::<4>().0.iter().enumerate() {
        equal |= u32::from(u32::from_le_bytes(*word) & mask == wanted) << index;
    }
    equal
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn a_word() -> impl Strategy<Value = u32> {
        prop::sample::select(vec![0, 1, u32::MAX, 1 << 31, 0x7fff_ffff, 0x8000, 0x1234_0000, 0x1234_5678])
    }

    proptest! {
        #[test]
        fn every_way_to_compare_the_words_of_a_line_gives_the_same(
            words in prop::array::uniform16(a_word()),
            wanted in a_word(),
            mask in a_word(),
        ) {
            let line: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let line: &[u8; 64] = line[..].try_into().expect("16 words");
            prop_assert_eq!(equal_words(line, wanted, mask), equal_words_one_by_one(line, wanted, mask));
        }
    }
}
