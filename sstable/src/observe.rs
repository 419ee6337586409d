//! The steps of a get in a table, told to whoever wants to know what each of them finds or costs. Nobody listens as a
//! rule; then nothing of it is left in the program.

use std::ops::Range;

/// What a get looks at next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadStep {
    /// The locator: from the bucket on where the key should be.
    Locator,
    /// The filter.
    Filter,
    /// The fences.
    Fences,
    /// A data block.
    Block,
}

/// Is told of each step of a get before it is taken.
pub trait Observer {
    /// A step comes. `place` says where it begins to look: bytes of the file; it is not called in vain.
    fn before(&mut self, step: ReadStep, place: impl FnOnce() -> Range<u64>);
}

/// Nobody.
impl Observer for () {
    #[inline(always)]
    fn before(&mut self, _: ReadStep, _: impl FnOnce() -> Range<u64>) {}
}
