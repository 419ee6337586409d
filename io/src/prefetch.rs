//! A hint to the processor.

#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "the hint is an intrinsic"))]

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
