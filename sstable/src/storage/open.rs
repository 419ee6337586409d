//! Opening a table file: by which way it is read, and what happens if it cannot be read that way.

use std::path::Path;
use std::sync::Arc;

use terrace_io::sigbus::Poison;
use terrace_io::{
    Advice, Error, File, Medium, OpenMode, Region, Result, read_exact_at, read_exact_past_cache_at,
};

use super::{Storage, tell_loss};
use crate::TableMeta;
use crate::context::{PointReads, TableContext};
use crate::footer::{FOOTER_BYTES, Footer};

/// By which way a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As the context has it.
    Chosen,
    /// By `pread`, whatever the context has.
    Pread,
    /// By `pread`, its metadata past the page cache.
    PastCache,
}

impl Storage {
    /// Opens and checks a file: everything but the data blocks, the filter, the locator, and those parts of the fences
    /// that are not needed yet. What is wrong is read once more past the page cache before it is believed; a table
    /// whose end is right only there is read by `pread` from then on.
    pub(crate) fn open(
        context: &TableContext,
        path: &Arc<Path>,
        meta: Option<&TableMeta>,
    ) -> Result<Storage> {
        let mut poison = None;
        let opened = Storage::open_once(context, path, meta, Way::Chosen, &mut poison);
        let is_lost = match &opened {
            Ok(storage) => storage.is_lost_after(&opened),
            Err(_) => poison.is_some_and(|poison| poison.is_set()),
        };
        if is_lost {
            tell_loss(context, path);
            let opened = Storage::open_by_pread(context, path, meta)?;
            return Ok(Storage { has_lost_mapping: true, ..opened });
        }
        Storage::or_past_cache(opened, context, path, meta)
    }

    /// As [`Storage::open`], but by `pread`, since a mapping of the file has lost bytes.
    pub(crate) fn open_by_pread(
        context: &TableContext,
        path: &Arc<Path>,
        meta: Option<&TableMeta>,
    ) -> Result<Storage> {
        let opened = Storage::open_once(context, path, meta, Way::Pread, &mut None);
        Storage::or_past_cache(opened, context, path, meta)
    }

    /// What was opened, or what can be opened past the page cache if that was found damaged.
    fn or_past_cache(
        opened: Result<Storage>,
        context: &TableContext,
        path: &Arc<Path>,
        meta: Option<&TableMeta>,
    ) -> Result<Storage> {
        match opened {
            Err(error) if error.is_corruption() => {
                let again = Storage::open_once(context, path, meta, Way::PastCache, &mut None);
                let storage = again.map_err(|_| error.clone())?;
                context.counters.disagreement();
                tracing::warn!(path = %path.display(), %error, "the page cache is wrong and the device is right");
                Ok(storage)
            }
            opened => opened,
        }
    }

    /// Sets `poison` to that of the mapping, if it makes one that is guarded: if that is set afterwards, what this has
    /// come to is not to be believed.
    fn open_once(
        context: &TableContext,
        path: &Arc<Path>,
        meta: Option<&TableMeta>,
        way: Way,
        poison: &mut Option<Poison>,
    ) -> Result<Storage> {
        let past_cache = way == Way::PastCache;
        let file = context.fs.open(path, OpenMode::Read)?;
        let len = file.len()?;
        if let Some(expected) = meta.map(|meta| meta.file_len).filter(|expected| *expected != len) {
            let what = format!("the file has {len} bytes and should have {expected}");
            return Err(Error::corruption(&**path, len.min(expected), what));
        }
        if len < FOOTER_BYTES as u64 {
            return Err(Error::corruption(&**path, 0, format!("{len} bytes are too few for a table")));
        }
        let whole = match way {
            Way::Chosen => whole_region(context, path, &*file, len)?,
            Way::Pread | Way::PastCache => None,
        };
        *poison = whole.as_ref().and_then(|region| region.poison().cloned());
        let footer = match &whole {
            Some(region) => {
                *region.last_chunk().expect("the region is as long as the file, at least a footer")
            }
            None => {
                let mut bytes = [0; FOOTER_BYTES];
                fill(&*file, &mut bytes, len - FOOTER_BYTES as u64, past_cache)?;
                bytes
            }
        };
        let footer = Footer::decode(&footer, len, path)?;
        if let Some(expected) = meta.map(|meta| meta.table_id).filter(|expected| *expected != footer.table_id)
        {
            let found = footer.table_id;
            let what = format!("this is table {found:016x}, and {expected:016x} should be here");
            return Err(Error::corruption(&**path, len - FOOTER_BYTES as u64, what));
        }
        let (region, region_offset, file) = match whole {
            Some(region) => {
                if region.is_mapped() {
                    region.advise(Advice::WillNeed, footer.tail_offset() as usize..region.len());
                }
                (region, 0, None)
            }
            None => {
                let start = footer.meta_offset();
                (Region::from_vec(read(&*file, start, len - start, past_cache)?), start, Some(file))
            }
        };
        let mut storage = Storage::from_region(footer, region, region_offset, file, path.clone(), false)?;
        storage.metadata.set_source(context.fs.clone(), context.counters.clone());
        storage.metadata.set_needed_from(storage.needed_from(context));
        Ok(storage)
    }
}

/// The whole file as a region, on the heap if it is small, mapped if that is wanted and can be had.
fn whole_region(context: &TableContext, path: &Path, file: &dyn File, len: u64) -> Result<Option<Region>> {
    if len <= context.heap_table_bytes {
        return Ok(Some(Region::from_vec(read(file, 0, len, false)?)));
    }
    let unsafe_because = match context.point_reads.get() {
        PointReads::Pread => return Ok(None),
        PointReads::Mmap => None,
        PointReads::Auto => match context.fs.medium(path.parent().unwrap_or(path))? {
            Medium::Network => Some("they are on a network file system".to_owned()),
            Medium::Shared => Some("other users own the directory or may write to it".to_owned()),
            Medium::Local if file.is_shared()? => {
                Some("other users own the file or may write to it".to_owned())
            }
            Medium::Local => None,
        },
    };
    let mapped = match (unsafe_because, usize::try_from(len)) {
        (Some(why), _) => Err(why),
        (None, Err(_)) => Err("they are larger than the address space".to_owned()),
        (None, Ok(len)) => file.map(len).map_err(|error| error.to_string()),
    };
    match mapped {
        Ok(region) => {
            region.advise(context.advice.get().of_data(), 0..region.len());
            Ok(Some(region))
        }
        Err(why) => {
            // Thousands of tables may have the same trouble: it is told once.
            if context.counters.is_first_fallback() {
                tracing::warn!(path = %path.display(), "tables are read by pread, not mapped: {why}");
            }
            Ok(None)
        }
    }
}

fn fill(file: &dyn File, bytes: &mut [u8], offset: u64, past_cache: bool) -> Result<()> {
    let read = if past_cache { read_exact_past_cache_at } else { read_exact_at };
    read(file, bytes, offset)
}

fn read(file: &dyn File, offset: u64, len: u64, past_cache: bool) -> Result<Vec<u8>> {
    let len =
        usize::try_from(len).map_err(|_| Error::corruption(file.path(), offset, "the table is too large"))?;
    let mut bytes = vec![0; len];
    fill(file, &mut bytes, offset, past_cache)?;
    Ok(bytes)
}
