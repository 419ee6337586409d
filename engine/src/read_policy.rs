//! How tables are read, changed while the database is open.

use std::sync::Arc;

use terrace_io::{Error, Result};
use terrace_sstable::{Advice, PointReads, ReadPath, Table};

use crate::core::Core;
use crate::version::State;

/// Says no if there is nothing that advice could be given about.
pub(crate) fn check(point_reads: PointReads, advice: Advice) -> Result<()> {
    match point_reads == PointReads::Pread && advice != Advice::Auto {
        false => Ok(()),
        true => Err(Error::invalid(format!(
            "point_reads is Pread and advice is {advice:?}: nothing is mapped that advice could be given about"
        ))),
    }
}

impl Core {
    /// See [`crate::Db::set_point_reads`].
    pub fn set_point_reads(&self, point_reads: PointReads) -> Result<()> {
        self.check_open()?;
        {
            // Versions are replaced under this lock only, so that none of them has tables of the old way and of the new.
            let _manifest = self.manifest.lock();
            check(point_reads, self.tables.advice.get())?;
            let is_same = self.tables.point_reads.get() == point_reads;
            self.tables.point_reads.set(point_reads);
            let is_other = |path: ReadPath| match point_reads {
                PointReads::Pread => path == ReadPath::Mapping,
                PointReads::Mmap => path == ReadPath::Pread,
                // Whether a mapping is safe is asked when it is made.
                PointReads::Auto => path == ReadPath::Pread || (path == ReadPath::Mapping && !is_same),
            };
            let anew = |table: &Arc<Table>| match table.settled_read_path().is_some_and(is_other) {
                true => table.again(),
                false => table.clone(),
            };
            for keyspace in self.keyspaces.load_full().values() {
                keyspace.replace(|state| {
                    let version = Arc::new(state.version.map_tables(anew));
                    (State { version, ..state.clone() }, ())
                });
            }
        }
        // What was pinned of the old tables goes with them.
        self.judge_memory();
        Ok(())
    }

    /// See [`crate::Db::set_advice`].
    pub fn set_advice(&self, advice: Advice) -> Result<()> {
        self.check_open()?;
        let _manifest = self.manifest.lock();
        check(self.tables.point_reads.get(), advice)?;
        self.tables.advice.set(advice);
        for keyspace in self.keyspaces.load_full().values() {
            keyspace.peek().version.tables().for_each(|(_, table)| table.advise());
        }
        Ok(())
    }
}
