//! Sending a backup of an open database as a stream: [`crate::Db::backup_to_stream`].

use std::collections::HashSet;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use terrace_io::{Advice, File, OpenMode, OutputStream, Result};
use terrace_sstable::{ReadPath, Table, TableMeta, table_file_name, table_tmp_file_name};

use super::create::{Keys, manifest_of};
use super::manifest::{BackupManifest, TableKey};
use super::stream::{self, STREAM};
use crate::core::Core;
use crate::moment::{COPIED_BYTES_MAX, Part, Underway, ends_early};

/// What a stream is to have. See [`crate::Db::backup_to_stream`].
#[derive(Debug, Clone, Default)]
pub struct StreamOptions {
    since: Vec<PathBuf>,
}

impl StreamOptions {
    /// The defaults, which each method below states.
    pub fn new() -> Self {
        StreamOptions::default()
    }

    /// Leaves out the tables that a backup has, which the receiver has too. `manifest` is a copy of its manifest, the
    /// file `NNNNNN.backup` in the receiver's directory. May be called again, for more backups (default: none, and
    /// the stream is whole by itself).
    pub fn since(mut self, manifest: impl Into<PathBuf>) -> Self {
        self.since.push(manifest.into());
        self
    }
}

/// What was sent. See [`crate::Db::backup_to_stream`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamReport {
    /// The sequence number of the last write in it.
    pub sequence: u64,
    /// Bytes of the stream.
    pub bytes: u64,
    /// Tables in it.
    pub tables_sent: u64,
    /// Bytes of these.
    pub bytes_sent: u64,
    /// Tables that were left out, since the receiver has them.
    pub tables_left_out: u64,
    /// Bytes of these.
    pub bytes_left_out: u64,
    /// Of the tables' bytes, those that the kernel has sent without this process.
    pub bytes_in_kernel: u64,
    /// Those that this process had to read and write, because the kernel, the file system or the receiving end does it no
    /// other way.
    pub bytes_through_memory: u64,
}

/// A table that is to be sent.
enum Source {
    Live(Arc<Table>),
    /// Written for the stream, of what was in memory. The file has no name any more.
    Written(Arc<dyn File>, u64),
}

impl Core {
    /// See [`crate::Db::backup_to_stream`].
    pub fn backup_to_stream(&self, out: BorrowedFd<'_>, options: &StreamOptions) -> Result<StreamReport> {
        let span = tracing::info_span!("backup to a stream");
        let _entered = span.enter();
        // It goes last, when nothing more is done to any file.
        let _underway = Underway::begin(self)?;
        self.poison.check()?;
        let mut known = HashSet::new();
        for path in &options.since {
            let manifest = BackupManifest::read(&*self.fs, path)?;
            known.extend(manifest.tables.iter().map(|table| table.key));
        }
        let mut out = OutputStream::new(out, Path::new(STREAM))?;

        let moment = self.moment()?;
        let mut report = StreamReport { sequence: moment.sequence, ..StreamReport::default() };
        let mut keys = Keys::new();
        let mut sources = Vec::new();
        let mut parts = moment.into_parts(|table| {
            let key = self.key_of(table)?;
            keys.insert(table.meta().number, key);
            match known.contains(&key) {
                true => {
                    report.tables_left_out += 1;
                    report.bytes_left_out += key.file_len;
                }
                false => sources.push((key, Source::Live(table.clone()))),
            }
            Ok(())
        })?;
        for part in &mut parts {
            if let Some((meta, file)) = self.write_for_stream(part, report.sequence)? {
                let key = TableKey::of(&*file, &meta)?;
                keys.insert(meta.number, key);
                sources.push((key, Source::Written(file, meta.file_len)));
            }
        }
        let contents = self.contents_of_copy(&mut parts, report.sequence, self.peek_table_number());
        let manifest = manifest_of(contents.catalog(self.database_id, &self.dir)?, &keys)?.encode();

        let tables_sent = u32::try_from(sources.len()).unwrap_or(u32::MAX);
        stream::begin(&mut out, &manifest, tables_sent)?;
        // One after the other, each let go of once it is sent.
        for (key, source) in sources {
            stream::begin_table(&mut out, &manifest, &key)?;
            match source {
                Source::Live(table) => {
                    let is_forgotten = table.read_path() != Some(ReadPath::Pread);
                    self.send(&*self.open_source(&table)?, key.file_len, is_forgotten, &mut out)?;
                }
                Source::Written(file, len) => self.send(&*file, len, true, &mut out)?,
            }
            report.tables_sent += 1;
            report.bytes_sent += key.file_len;
        }
        stream::end(&mut out, &manifest, tables_sent)?;
        report.bytes = out.position();
        report.bytes_in_kernel = out.bytes_in_kernel();
        report.bytes_through_memory = out.bytes_through_memory();
        Ok(report)
    }

    fn send(&self, file: &dyn File, len: u64, is_forgotten: bool, out: &mut OutputStream<'_>) -> Result<()> {
        file.advise(Advice::Sequential, 0, len);
        let mut sent = 0;
        while sent < len {
            self.check_not_stopping()?;
            let piece = out.send(file, sent, (len - sent).min(COPIED_BYTES_MAX))?;
            if piece == 0 {
                return Err(ends_early(file, sent, len));
            }
            if is_forgotten {
                file.advise(Advice::DontNeed, sent, piece);
            }
            sent += piece;
        }
        Ok(())
    }

    /// Writes what a keyspace has in memory to a table, which must be a file for the kernel to send it: in the database's
    /// directory, by a number that nothing else will have, and without a name once it is open. What a crash leaves of it,
    /// the next open removes.
    fn write_for_stream(&self, part: &mut Part, sequence: u64) -> Result<Option<(TableMeta, Arc<dyn File>)>> {
        let mut begun = None;
        let written = self.write_memtables(part, sequence, |keyspace| {
            let number = self.next_table_number();
            begun = Some(number);
            self.begin_table_of_copy(&self.dir, keyspace, number, self.database_id)
        });
        let opened = written.and_then(|meta| {
            let Some(meta) = meta else { return Ok(None) };
            let file = self.fs.open(&self.dir.join(table_file_name(meta.number)), OpenMode::Read)?;
            Ok(Some((meta, file)))
        });
        for name in begun.iter().flat_map(|&number| [table_file_name(number), table_tmp_file_name(number)]) {
            match self.fs.remove_file(&self.dir.join(name)) {
                Err(error) if !error.is_not_found() => {
                    tracing::warn!(%error, "a table that was made to be sent stays until the next open");
                }
                _ => {}
            }
        }
        opened
    }
}
