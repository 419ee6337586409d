//! A second look at bytes whose checksum is wrong, past the page cache, before anybody believes that the file is
//! damaged. The device may well have the right ones: then memory is what failed, and the right bytes are served from
//! the heap while the wrong ones stay in the page cache.

use std::path::Path;
use std::sync::Arc;

use terrace_io::{Error, File, FileSystem, OpenMode, Result, read_exact_past_cache_at};

use crate::block;

/// The block of `len` bytes at `offset`, as the device has it. An error says that it cannot be read there, or that it is
/// wrong there too.
pub(crate) fn block(file: &dyn File, table_id: u64, offset: u64, len: usize) -> Result<Arc<[u8]>> {
    let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, len).collect();
    let filled = Arc::get_mut(&mut bytes).expect("nobody else has seen the new bytes");
    let wrong = |why: &str| {
        let what = format!("the checksum of this block is wrong{why}");
        Error::corruption(file.path(), offset, what)
    };
    match read_exact_past_cache_at(file, filled, offset) {
        Ok(()) if block::has_right_checksum(table_id, offset, &bytes) => Ok(bytes),
        Ok(()) => Err(wrong("")),
        Err(error) => Err(wrong(&format!(", and it could not be read once more: {error}"))),
    }
}

/// [`block`], of a file that has to be opened for it.
pub(crate) fn block_of(
    fs: &dyn FileSystem,
    path: &Path,
    table_id: u64,
    offset: u64,
    len: usize,
) -> Result<Arc<[u8]>> {
    match fs.open(path, OpenMode::Read) {
        Ok(file) => block(&*file, table_id, offset, len),
        Err(error) => {
            let what =
                format!("the checksum of this block is wrong, and it could not be read once more: {error}");
            Err(Error::corruption(path, offset, what))
        }
    }
}

#[cfg(test)]
#[path = "reread_tests.rs"]
mod tests;
