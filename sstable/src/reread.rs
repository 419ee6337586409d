//! A second look at bytes whose checksum is wrong, past the page cache, before anybody believes that the file is
//! damaged. The device may well have the right ones: then memory is what failed, and the right bytes are served from
//! the heap while the wrong ones stay in the page cache.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use terrace_io::{
    Bug, Error, File, FileSystem, OpenMode, Result, ScanReader, read_exact_at, read_exact_past_cache_at,
};

use crate::storage::zeros;
use crate::{Slice, block};

/// The block of `len` bytes at `offset`, whose checksum was wrong, as the device has it. An error says that it cannot
/// be read there, or that it is wrong there too.
pub(crate) fn block(file: &dyn File, table_id: u64, offset: u64, len: usize) -> Result<Arc<[u8]>> {
    match device_block(file, table_id, offset, len) {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(wrong(file.path(), offset)),
        Err(error) => Err(not_read_again(wrong(file.path(), offset), &error)),
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
        Err(error) => Err(not_read_again(wrong(path, offset), &error)),
    }
}

/// The block at `extent`, which lies in the range of `reader`, its checksum right: the reader's bytes, or else those
/// that the device has. Also says whether the reader's were read and are wrong, so that the page cache is what is
/// damaged. If they could not be read, nothing is wrong with the block: the reader's window may hold a place that the
/// device cannot read, and the block lie beside it.
pub(crate) fn block_through(
    file: &dyn File,
    reader: &mut ScanReader,
    table_id: u64,
    extent: &Range<u64>,
) -> Result<(Slice, bool)> {
    let len = (extent.end - extent.start) as usize;
    let reread = match reader.read(extent.start, len) {
        Ok((buffer, range)) if block::has_right_checksum(table_id, extent.start, &buffer[range.clone()]) => {
            return Ok((Slice::from_buffer(buffer, range), false));
        }
        Ok(_) => (block(file, table_id, extent.start, len)?, true),
        Err(_) => {
            let bytes = device_block(file, table_id, extent.start, len)?;
            (bytes.ok_or_else(|| wrong(file.path(), extent.start))?, false)
        }
    };
    Ok((Slice::from_shared(reread.0, 0..len), reread.1))
}

/// The block as the device has it; `None` if it is wrong there.
fn device_block(file: &dyn File, table_id: u64, offset: u64, len: usize) -> Result<Option<Arc<[u8]>>> {
    let mut bytes = zeros(len);
    let filled = Arc::get_mut(&mut bytes).expect("nobody else has seen the new bytes");
    match Bug::PageCacheBelieved.is_planted() {
        false => read_exact_past_cache_at(file, filled, offset)?,
        true => read_exact_at(file, filled, offset)?,
    }
    Ok(block::has_right_checksum(table_id, offset, &bytes).then_some(bytes))
}

fn wrong(path: &Path, offset: u64) -> Error {
    Error::corruption(path, offset, "the checksum of this block is wrong")
}

/// `error`, which says that something is damaged, and that `why` kept it from a second look.
pub(crate) fn not_read_again(error: Error, why: &Error) -> Error {
    match error {
        Error::Corruption { path, offset, what } => {
            let what = format!("{what}, and it could not be read once more: {why}");
            Error::Corruption { path, offset, what }
        }
        error => error,
    }
}

#[cfg(test)]
#[path = "reread_tests.rs"]
mod tests;
