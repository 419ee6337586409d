//! The bytes of one file: what is durable, what is there now, and the changes that lead from one to the other.
//!
//! A page cache writes whole pages back whenever it likes, so what a crash finds of a sector is the sector as
//! it was at some moment since the sync: after none, one or more of the writes to it, in their order. Different
//! sectors may be found as of different moments. That, and no more, is what [`Contents::torn`] does.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use super::Random;

/// What a device writes as a whole.
const SECTOR_BYTES: usize = 512;

/// All bytes of a file, and their hash, once somebody has asked for it.
#[derive(Debug, Default, Clone)]
pub(super) struct Bytes {
    bytes: Vec<u8>,
    hash: OnceLock<u64>,
}

/// Copies of a file system share the bytes that neither of them has changed since.
#[derive(Debug, Default, Clone)]
pub(super) struct Contents {
    durable: Arc<Bytes>,
    current: Arc<Bytes>,
    /// What was done since the last sync, in order.
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, bytes: Arc<[u8]> },
    SetLen(usize),
}

impl Bytes {
    pub(super) fn hash(&self) -> u64 {
        *self.hash.get_or_init(|| {
            let mut hasher = DefaultHasher::new();
            self.bytes.hash(&mut hasher);
            hasher.finish()
        })
    }

    /// To be changed, by one who has them alone.
    fn make_mut(this: &mut Arc<Bytes>) -> &mut Vec<u8> {
        let this = Arc::make_mut(this);
        this.hash.take();
        &mut this.bytes
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes { bytes, hash: OnceLock::new() }
    }
}

impl Deref for Bytes {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl Contents {
    /// A file that was synced with these bytes.
    pub(super) fn durable(bytes: Arc<Bytes>) -> Self {
        Contents { durable: Arc::clone(&bytes), current: bytes, pending: Vec::new() }
    }

    /// What is read now.
    pub(super) fn current(&self) -> &Arc<Bytes> {
        &self.current
    }

    /// What is there if nothing survives but what was synced.
    pub(super) fn synced(&self) -> &Arc<Bytes> {
        &self.durable
    }

    pub(super) fn len(&self) -> u64 {
        self.current.len() as u64
    }

    /// Writes what fits if the file may grow by `room` bytes, and says how much that is.
    pub(super) fn write(&mut self, bytes: &[u8], offset: u64, room: u64) -> Result<usize, ErrorKind> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let end = offset.checked_add(bytes.len() as u64).ok_or(ErrorKind::FileTooLarge)?;
        let end = end.min(self.len().saturating_add(room));
        if end <= offset {
            return Err(ErrorKind::StorageFull);
        }
        let (Ok(offset), Ok(end)) = (usize::try_from(offset), usize::try_from(end)) else {
            return Err(ErrorKind::FileTooLarge);
        };
        let fits = end - offset;
        self.reserve(end)?;
        self.change(Change::Write { offset, bytes: bytes[..fits].into() });
        Ok(fits)
    }

    /// Cuts the file, or extends it if it may grow by `room` bytes.
    pub(super) fn set_len(&mut self, len: u64, room: u64) -> Result<(), ErrorKind> {
        if len.saturating_sub(self.len()) > room {
            return Err(ErrorKind::StorageFull);
        }
        let len = usize::try_from(len).map_err(|_| ErrorKind::FileTooLarge)?;
        self.reserve(len)?;
        self.change(Change::SetLen(len));
        Ok(())
    }

    pub(super) fn sync(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let durable = Bytes::make_mut(&mut self.durable);
        for change in self.pending.drain(..) {
            change.apply(durable);
        }
    }

    /// What was not synced stays to be read, but no later sync makes it durable.
    pub(super) fn lose_pending(&mut self) {
        self.pending.clear();
    }

    /// An absurd offset is an error, not the end of the process.
    fn reserve(&mut self, len: usize) -> Result<(), ErrorKind> {
        let more = len.saturating_sub(self.current.len());
        Bytes::make_mut(&mut self.current).try_reserve(more).map_err(|_| ErrorKind::FileTooLarge)
    }

    fn change(&mut self, change: Change) {
        change.apply(Bytes::make_mut(&mut self.current));
        self.pending.push(change);
    }

    /// What a crash might find, if some of what was not synced survived.
    pub(super) fn torn(&self, random: &mut Random) -> Arc<Bytes> {
        if self.pending.is_empty() {
            return Arc::clone(&self.durable);
        }
        let in_order = random.up_to(2) == 0;
        let bytes = if in_order { self.torn_in_order(random) } else { self.torn_by_sectors(random) };
        Arc::new(bytes.into())
    }

    /// The changes up to some moment survived, and the first sectors of the next one.
    fn torn_in_order(&self, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.durable.to_vec();
        let whole = random.up_to(self.pending.len());
        for change in &self.pending[..whole] {
            change.apply(&mut bytes);
        }
        if let Some(Change::Write { offset, bytes: written }) = self.pending.get(whole) {
            let cut = random.up_to((offset + written.len()) / SECTOR_BYTES - offset / SECTOR_BYTES);
            let end = (offset / SECTOR_BYTES + cut) * SECTOR_BYTES;
            if end > *offset {
                write(&mut bytes, *offset, &written[..end - offset]);
            }
        }
        bytes
    }

    /// Each sector is as of a moment of its own.
    fn torn_by_sectors(&self, random: &mut Random) -> Vec<u8> {
        let eighths = random.survival();
        let mut lengths = vec![self.durable.len()];
        for change in &self.pending {
            lengths.push(change.length_after(lengths[lengths.len() - 1]));
        }
        let longest = lengths.iter().copied().max().unwrap_or(0);

        let mut touched: BTreeMap<usize, Vec<&Change>> = BTreeMap::new();
        for (change, len_before) in self.pending.iter().zip(&lengths) {
            let (start, end) = match change {
                Change::Write { offset, bytes } => (*offset, offset + bytes.len()),
                Change::SetLen(len) => (*len, *len_before),
            };
            if start < end {
                for sector in start / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES {
                    touched.entry(sector).or_default().push(change);
                }
            }
        }

        let mut bytes = self.durable.to_vec();
        bytes.resize(longest, 0);
        for (sector, changes) in touched {
            let survived =
                if random.survives(eighths) { changes.len() } else { random.up_to(changes.len() - 1) };
            let start = sector * SECTOR_BYTES;
            let end = longest.min(start + SECTOR_BYTES);
            for change in &changes[..survived] {
                change.apply_within(&mut bytes[start..end], start);
            }
        }
        bytes.truncate(self.torn_length(&lengths, eighths, random));
        bytes
    }

    /// The last length, or any that the file had or passed through on its way there.
    fn torn_length(&self, lengths: &[usize], eighths: usize, random: &mut Random) -> usize {
        if random.survives(eighths) {
            return self.current.len();
        }
        let step = random.up_to(self.pending.len() - 1);
        let (shorter, longer) = (lengths[step].min(lengths[step + 1]), lengths[step].max(lengths[step + 1]));
        match random.up_to(2) {
            0 => shorter,
            1 => longer,
            _ => shorter + random.up_to(longer - shorter),
        }
    }
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes } => write(file, *offset, bytes),
            Change::SetLen(len) => file.resize(*len, 0),
        }
    }

    fn length_after(&self, len: usize) -> usize {
        match self {
            Change::Write { offset, bytes } => len.max(offset + bytes.len()),
            Change::SetLen(len) => *len,
        }
    }

    /// Does to a part of the file, which starts at `start`, what the change does there. Bytes that are cut off are
    /// zeros, should the file grow again.
    fn apply_within(&self, part: &mut [u8], start: usize) {
        let end = start + part.len();
        match self {
            Change::Write { offset, bytes } => {
                let (from, to) = ((*offset).max(start), (offset + bytes.len()).min(end));
                if from < to {
                    part[from - start..to - start].copy_from_slice(&bytes[from - offset..to - offset]);
                }
            }
            Change::SetLen(len) => {
                if *len < end {
                    part[len.saturating_sub(start)..].fill(0);
                }
            }
        }
    }
}

/// Puts bytes into a file, which grows as needed.
fn write(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if offset == file.len() {
        file.extend_from_slice(bytes);
        return;
    }
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}
