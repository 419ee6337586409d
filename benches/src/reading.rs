//! How benchmarks read: key after key, and entry after entry.

use terrace::Cursor;

use crate::{Key, touch};

/// The next of keys that are drawn in a cycle.
///
/// # Panics
/// If there is none.
pub fn next_key<'k>(keys: &mut impl Iterator<Item = &'k Key>) -> &'k Key {
    keys.next().expect("a cycle has no end")
}

/// Looks at every line of `limit` entries at most, by `step` from where a cursor stands, if `more` says that it stands
/// on one. How many there were, and a byte that depends on all of them.
///
/// # Panics
/// If an entry cannot be read.
pub fn walk(
    cursor: &mut Cursor,
    mut more: bool,
    limit: usize,
    step: impl Fn(&mut Cursor) -> terrace::Result<bool>,
) -> (usize, u8) {
    let (mut count, mut seen) = (0, 0);
    while more {
        seen ^= touch(cursor.key()) ^ touch(cursor.value());
        count += 1;
        more = count < limit && step(cursor).expect("the database can be read");
    }
    (count, seen)
}
