//! The metadata of a table that may be damaged, read whatever its checksums say: for verification and salvage, which go
//! on where a reader must not.

use std::path::Path;
use std::sync::Arc;

use terrace_io::{Error, File, PAGE_BYTES, Region, Result};

use crate::footer::Footer;
use crate::storage::{Storage, has_right_tail};

/// [`terrace_io::read_exact_at`] or [`terrace_io::read_exact_past_cache_at`].
pub(crate) type ReadExact = fn(&dyn File, &mut [u8], u64) -> Result<()>;

/// Something that is wrong with the metadata.
pub(crate) struct Flaw {
    /// Where, if the error does not say it.
    pub(crate) offset: u64,
    pub(crate) error: Error,
    /// Whether it hits anything but parts that no entry is lost with: see [`Storage::is_required`].
    pub(crate) is_required: bool,
}

/// Reads all that stands behind the data region, in pages, so that one that cannot be read does not hide the others,
/// and hands what is wrong with it to `tell`. An error only if there is no going on: [`Error::UnsupportedFormat`] if
/// the directory is intact and has something that a reader must not pass over, otherwise [`Error::Corruption`].
pub(crate) fn read_metadata(
    file: &dyn File,
    path: &Arc<Path>,
    footer: Footer,
    read: ReadExact,
    tell: &mut dyn FnMut(Flaw),
) -> Result<Storage> {
    let start = footer.meta_offset();
    let end = footer.file_len().expect("the lengths in the footer were checked against the file's");
    let mut bytes = vec![0; (end - start) as usize];
    for (i, page) in bytes.chunks_mut(PAGE_BYTES).enumerate() {
        let offset = start + (i * PAGE_BYTES) as u64;
        if let Err(error) = read(file, page, offset) {
            tell(Flaw { offset, error, is_required: true });
        }
    }
    let has_right_tail = has_right_tail(&footer, &bytes);
    if !has_right_tail {
        let offset = footer.tail_offset();
        let error = Error::corruption(&**path, offset, "the checksum of the directory is wrong");
        tell(Flaw { offset, error, is_required: true });
    }
    let storage = Storage::from_region(footer, Region::from_vec(bytes), start, None, Arc::clone(path), true);
    let storage = storage.map_err(|error| match error {
        // A damaged directory says nothing about formats.
        Error::UnsupportedFormat { found, .. } if !has_right_tail => {
            let what = format!("the directory names a metadata block of the unknown kind {found:#x}");
            Error::corruption(&**path, footer.tail_offset(), what)
        }
        error => error,
    })?;
    for chunk in 0..storage.metadata.chunks() {
        if let Err(error) = storage.metadata.verify(chunk) {
            let offset = start + (chunk * PAGE_BYTES) as u64;
            tell(Flaw { offset, error, is_required: storage.is_required(chunk) });
        }
    }
    Ok(storage)
}
