//! The heart of an open database: everything that handles and background threads share.
//!
//! Locks are taken in this order: the commit lock (`committer`), log provision, manifest, a keyspace's
//! replacement, the log's sync state. The snapshots' lock comes before a keyspace's replacement. The work state's lock
//! may be taken under the commit lock, and no other is taken while it is held. The scrubber's come last, and behind them the
//! lock of `hazards.rs`, which is held for no more than a look.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use terrace_compaction::is_settled;
use terrace_io::{Bug, DirectoryLock, Error, FileSystem, Result};
use terrace_sstable::{Table, TableContext, TableMeta, table_file_name};

use crate::catalog::Change;
use crate::commit::{Committer, Writer};
use crate::compact;
use crate::counters::Counters;
use crate::current::Visible;
use crate::flush::MEMTABLES_PER_FLUSH;
use crate::health::Health;
use crate::keyspace::KeyspaceInner;
use crate::log::Log;
use crate::log_keeper::{LogKeeper, LogTask};
use crate::manifest::Manifest;
use crate::memory::Memory;
use crate::options::{KeyspaceOptions, Options};
use crate::poison::Poison;
use crate::scrub::Scrubber;
use crate::service::{Service, Task};
use crate::snapshot::Snapshots;
use crate::swap::Swap;
use crate::throttle::{StallReason, Throttle};
use crate::version::{State, Version};
use crate::work::{Trouble, Work};

/// The keyspaces of a database by id.
pub(crate) type Keyspaces = BTreeMap<u32, Arc<KeyspaceInner>>;

/// See the module.
pub(crate) struct Core {
    pub fs: Arc<dyn FileSystem>,
    pub dir: PathBuf,
    pub options: Options,
    /// Tells this open database from others in the process.
    pub instance: u64,
    pub database_id: [u8; 16],
    pub max_value_bytes: u64,
    pub poison: Arc<Poison>,
    pub manifest: Arc<Mutex<Manifest>>,
    pub log: Log,
    pub committer: Committer,
    pub visible: Visible,
    pub keyspaces: Swap<Keyspaces>,
    pub snapshots: Snapshots,
    pub tables: Arc<TableContext>,
    pub memory: Memory,
    pub next_table: AtomicU64,
    pub work: Work,
    pub throttle: Throttle,
    pub service: Service,
    pub log_keeper: LogKeeper,
    pub scrubber: Arc<Scrubber>,
    pub counters: Counters,
    pub missing_tables: Vec<PathBuf>,
    /// Tables that were let go of, as long as a reader keeps them.
    pub obsolete: Mutex<Vec<Weak<Table>>>,
    pub stopping: AtomicBool,
    pub closed: AtomicBool,
    pub closing: Mutex<()>,
    pub threads: Mutex<Vec<JoinHandle<()>>>,
    /// Held until the last thread that may write has ended.
    pub lock: Mutex<Option<Box<dyn DirectoryLock>>>,
    pub opened: Instant,
}

impl Core {
    /// [`Error::Closed`] once the database is closed.
    #[inline]
    pub fn check_open(&self) -> Result<()> {
        match self.closed.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(Error::Closed),
        }
    }

    /// A table number that was never used.
    pub fn next_table_number(&self) -> u64 {
        self.next_table.fetch_add(1, Ordering::Relaxed)
    }

    /// Every table number up to it may have been used.
    pub fn peek_table_number(&self) -> u64 {
        self.next_table.load(Ordering::Relaxed)
    }

    /// Lets go of tables that no version has any more: their files go with their last reader.
    pub fn let_go<'a>(&self, tables: impl Iterator<Item = &'a Arc<Table>>) {
        let mut obsolete = self.obsolete.lock();
        obsolete.retain(|table| table.strong_count() > 0);
        obsolete.extend(tables.map(|table| {
            table.mark_obsolete();
            if Bug::ReadTableDeleted.is_planted() {
                let _ = self.fs.remove_file(table.path());
            }
            Arc::downgrade(table)
        }));
    }

    /// Tables that were let go of and are still read: how many, and their bytes.
    pub fn pinned(&self) -> (usize, u64) {
        let obsolete = self.obsolete.lock();
        let pinned = obsolete.iter().filter_map(Weak::upgrade);
        pinned.fold((0, 0), |(tables, bytes), table| (tables + 1, bytes + table.meta().file_len))
    }

    /// Removes files of tables that nobody knows of, best effort: the next open would remove them too.
    pub fn remove_files(&self, tables: &[TableMeta]) {
        for meta in tables {
            if let Err(error) = self.fs.remove_file(&self.dir.join(table_file_name(meta.number))) {
                tracing::warn!(%error, "a discarded table stays until the next open");
            }
        }
    }

    /// Slows a writer down if it must be, and stops it while every memtable is full.
    pub fn wait_for_room(&self, keyspaces: &[Arc<KeyspaceInner>], bytes: u64) -> Result<()> {
        // What was dropped is never flushed; the write will say so.
        let is_full = |keyspace: &Arc<KeyspaceInner>| {
            let memtables_max = self.options.memtables_max.saturating_mul(MEMTABLES_PER_FLUSH);
            keyspace.peek().sealed.len() + 1 >= memtables_max && keyspace.check_exists().is_ok()
        };
        if keyspaces.iter().any(is_full) {
            let span = tracing::info_span!("stall", reason = StallReason::MemtablesFull.as_str());
            let _entered = span.enter();
            let started = Instant::now();
            let outcome = self.wait_for_work(|state| {
                self.poison.check()?;
                if self.stopping() {
                    return Err(Error::Closed);
                }
                if let Some(trouble) = &state.flush_trouble {
                    return Err(trouble.error.clone());
                }
                // The memtables of one that was dropped are never flushed.
                keyspaces.iter().try_for_each(|keyspace| keyspace.check_exists())?;
                Ok(!keyspaces.iter().any(is_full))
            });
            self.throttle.waited(StallReason::MemtablesFull, started.elapsed());
            outcome?;
        }
        if let Some((sleep, reason)) = self.throttle.charge(bytes) {
            let started = Instant::now();
            std::thread::sleep(sleep);
            self.throttle.waited(reason, started.elapsed());
        }
        Ok(())
    }

    /// Writes the memtables of some keyspaces to tables, and waits for that.
    pub fn flush_keyspaces(&self, which: impl Fn(&KeyspaceInner) -> bool) -> Result<()> {
        self.poison.check()?;
        let mut targets = Vec::new();
        {
            let writer = self.committer.lock();
            for keyspace in self.keyspaces.load().values().filter(|keyspace| which(keyspace)) {
                self.seal_memtable(&writer, keyspace);
                keyspace.flush_wanted.store(true, Ordering::Relaxed);
                let newest = keyspace.peek().sealed.first().cloned();
                targets.extend(newest.map(|memtable| (keyspace.clone(), memtable)));
            }
        }
        let started = Trouble::retry_now(self.work.state.lock().flush_trouble.iter_mut());
        self.work.changed.notify_all();
        self.wait_for_work(|state| {
            self.poison.check()?;
            let waits = |(keyspace, memtable): &(Arc<KeyspaceInner>, Arc<_>)| {
                let waits = keyspace.peek().sealed.iter().any(|sealed| Arc::ptr_eq(sealed, memtable));
                waits && keyspace.check_exists().is_ok()
            };
            if !targets.iter().any(waits) {
                return Ok(true);
            }
            match &state.flush_trouble {
                Some(trouble) if trouble.began >= started => Err(trouble.error.clone()),
                _ if self.stopping() => Err(Error::Closed),
                _ => Ok(false),
            }
        })
    }

    /// Flushes the keyspaces that keep the oldest log segment alive, if the log is longer than it may be.
    pub fn flush_oldest_log(&self) {
        let oldest = {
            let manifest = self.manifest.lock();
            let segments = &manifest.catalog().segments;
            if manifest.catalog().log_bytes() <= self.options.log_bytes_max {
                return;
            }
            // The half that is older goes, so that this is not done for every segment.
            segments.keys().nth(segments.len() / 2).copied()
        };
        let Some(oldest) = oldest else { return };
        let writer = self.committer.lock();
        for keyspace in self.keyspaces.load().values() {
            if keyspace
                .peek()
                .memtables()
                .any(|memtable| memtable.first_segment().is_some_and(|first| first <= oldest))
            {
                self.seal_memtable(&writer, keyspace);
                keyspace.flush_wanted.store(true, Ordering::Relaxed);
                self.work_changed();
            }
        }
    }

    /// Flushes everything, merges level 0 into the level below, waits until no compaction is owed, and gives the log's
    /// space back.
    pub fn settle(&self) -> Result<()> {
        self.flush_keyspaces(|_| true)?;
        // All at once, whatever the background would take first.
        for keyspace in self.keyspaces.load_full().values() {
            match compact::empty_level0(self, keyspace) {
                // It is gone, and owes nothing.
                Err(Error::KeyspaceDropped { .. }) => {}
                outcome => outcome?,
            }
        }
        self.wait_for_compactions()?;
        self.retire_log()?;
        // Files that were let go of are deleted by the service thread.
        self.service.finish_queued();
        Ok(())
    }

    fn wait_for_compactions(&self) -> Result<()> {
        let started = Trouble::retry_now(self.work.state.lock().compaction_trouble.values_mut());
        self.work.changed.notify_all();
        self.wait_for_work(|state| {
            self.poison.check()?;
            if self.stopping() {
                return Err(Error::Closed);
            }
            let mut troubles = state.compaction_trouble.values();
            if let Some(trouble) = troubles.find(|trouble| trouble.began >= started) {
                return Err(trouble.error.clone());
            }
            let settled = |keyspace: &Arc<KeyspaceInner>| {
                let version = keyspace.peek().version.clone();
                is_settled(&version.shape(Vec::new()), &self.policy(keyspace))
            };
            Ok(state.compacting.is_empty() && self.keyspaces.load().values().all(settled))
        })
    }

    /// Retires the whole log, if nothing in it is needed.
    pub fn retire_log(&self) -> Result<()> {
        let mut writer = self.committer.lock();
        let empty = |keyspace: &Arc<KeyspaceInner>| keyspace.peek().memtables().next().is_none();
        if !self.keyspaces.load().values().all(empty) {
            return Ok(());
        }
        let last_sequence = writer.last_sequence;
        self.log.retire_all(&mut writer.appender, last_sequence)
    }

    /// A new keyspace. Needs a name that is free.
    pub fn create_keyspace(&self, name: &str, options: KeyspaceOptions) -> Result<Arc<KeyspaceInner>> {
        options.check()?;
        if name.is_empty() || name.len() > 255 {
            return Err(Error::invalid(format!("a keyspace name has 1 to 255 bytes, not {}", name.len())));
        }
        let mut writer = self.committer.lock();
        if let Some(known) = self.find_keyspace(name) {
            return Ok(known);
        }
        self.check_writable(writer.closed)?;
        self.bring_log_up(&mut writer)?;
        let mut manifest = self.manifest.lock();
        let id = manifest.catalog().next_keyspace;
        let add = Change::KeyspaceAdded { id, name: name.to_owned(), options: options.clone() };
        let through = writer.last_sequence;
        manifest.commit(vec![
            add,
            Change::NextKeyspace(id + 1),
            Change::KeyspaceFlushed { id, through },
            Change::LastSequence(through),
            Change::LogSynced(self.log.synced()),
        ])?;
        let state = State::new(Version::empty(), self.options.one_memtable_bytes());
        let keyspace = Arc::new(KeyspaceInner::new(id, name.to_owned(), options, self.instance, state));
        self.change_keyspaces(|keyspaces| drop(keyspaces.insert(id, keyspace.clone())));
        Ok(keyspace)
    }

    /// The keyspace of a name.
    pub fn find_keyspace(&self, name: &str) -> Option<Arc<KeyspaceInner>> {
        self.keyspaces.load().values().find(|keyspace| keyspace.name == name).cloned()
    }

    /// Removes a keyspace with all that is in it.
    pub fn drop_keyspace(&self, name: &str) -> Result<()> {
        let mut writer = self.committer.lock();
        self.check_writable(writer.closed)?;
        let Some(keyspace) = self.find_keyspace(name) else {
            return Err(Error::invalid(format!("there is no keyspace {name:?}")));
        };
        if keyspace.id == 0 {
            return Err(Error::invalid("the default keyspace cannot be dropped; it can be cleared"));
        }
        self.bring_log_up(&mut writer)?;
        {
            let mut manifest = self.manifest.lock();
            let through = writer.last_sequence;
            manifest.commit(vec![
                Change::KeyspaceDropped { id: keyspace.id },
                Change::LastSequence(through),
                Change::LogSynced(self.log.synced()),
            ])?;
            keyspace.dropped.store(true, Ordering::Release);
            self.change_keyspaces(|keyspaces| drop(keyspaces.remove(&keyspace.id)));
        }
        self.judge_memory();
        // Snapshots and iterators keep reading; the files go with the last of them.
        self.let_go(keyspace.peek().version.tables().map(|(_, table)| table));
        drop(writer);
        self.work_changed();
        Ok(())
    }

    /// Removes all that is in a keyspace.
    pub fn clear_keyspace(&self, keyspace: &KeyspaceInner) -> Result<()> {
        let mut writer = self.committer.lock();
        self.check_writable(writer.closed)?;
        keyspace.check_exists()?;
        self.bring_log_up(&mut writer)?;
        let old = {
            let mut manifest = self.manifest.lock();
            let old = keyspace.state();
            let removed = old.version.tables().map(|(level, table)| Change::TableRemoved {
                keyspace: keyspace.id,
                level,
                number: table.meta().number,
            });
            let mut edit: Vec<Change> = removed.collect();
            let through = writer.last_sequence;
            edit.push(Change::KeyspaceFlushed { id: keyspace.id, through });
            edit.push(Change::LastSequence(through));
            edit.push(Change::LogSynced(self.log.synced()));
            manifest.commit(edit)?;
            self.snapshots.frozen(|moment, any_before| {
                keyspace.keep_cleared(moment, any_before);
                keyspace.replace(|_| (State::new(Version::empty(), self.options.one_memtable_bytes()), ()));
            });
            old
        };
        self.judge_memory();
        self.let_go(old.version.tables().map(|(_, table)| table));
        drop(writer);
        self.work_changed();
        Ok(())
    }

    /// Before a change that the manifest alone records: what came before it in the history must not be lost by a crash
    /// that keeps the change, and what was refused before it must not come back behind it.
    fn bring_log_up(&self, writer: &mut Writer) -> Result<()> {
        writer.appender.forget_failed(&self.log)?;
        self.log.sync_through(self.log.written())
    }

    pub fn check_writable(&self, closed: bool) -> Result<()> {
        match closed {
            true => Err(Error::Closed),
            false => self.poison.check(),
        }
    }

    fn change_keyspaces(&self, change: impl FnOnce(&mut Keyspaces)) {
        let mut keyspaces = Keyspaces::clone(&self.keyspaces.load());
        change(&mut keyspaces);
        self.keyspaces.store(Arc::new(keyspaces));
    }

    /// Finishes and ends everything. See [`crate::Db::close`].
    pub fn close(&self) -> Result<()> {
        // A second close waits for the first.
        let _closing = self.closing.lock();
        {
            let mut writer = self.committer.lock();
            if std::mem::replace(&mut writer.closed, true) {
                return Ok(());
            }
        }
        let mut outcome = self.flush_keyspaces(|_| true);
        self.stop();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.join().is_err() {
                let panicked = Error::invalid("a background thread of the database has panicked");
                outcome = outcome.and(Err(panicked));
            }
        }
        // Compactions, checkpoints and backups that users run in threads of their own give up as well.
        let ended = self.wait_for_work(|state| Ok(state.manual.is_empty() && state.copies == 0));
        // What could not be flushed is in the log; there it is made durable.
        let rest = if outcome.is_ok() { self.retire_log() } else { self.sync() };
        self.closed.store(true, Ordering::SeqCst);
        self.manifest.lock().close();
        *self.lock.lock() = None;
        outcome.and(ended).and(rest)
    }

    /// Tells the threads to end, without waiting for them.
    pub fn stop(&self) {
        {
            let _state = self.work.state.lock();
            self.stopping.store(true, Ordering::SeqCst);
        }
        self.work.changed.notify_all();
        self.log_keeper.send(LogTask::Stop);
        self.service.send(Task::Stop);
        self.scrubber.stop();
    }

    /// Whether the database is being closed or dropped: jobs give up.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// See [`crate::Db::health`].
    pub fn health(&self) -> Health {
        let damaged = self.scrub_findings();
        let keyspaces = self.keyspaces.load();
        let lost_mappings = keyspaces.values().flat_map(|keyspace| keyspace.state().version.lost_mappings());
        let lost_mappings = lost_mappings.collect();
        let state = self.work.state.lock();
        let name = |id: &u32| self.keyspaces.load().get(id).map(|keyspace| keyspace.name.clone());
        Health {
            poisoned: self.poison.cause().map(|cause| (**cause).clone()),
            flush: state.flush_trouble.as_ref().map(|trouble| trouble.error.clone()),
            compactions: state
                .compaction_trouble
                .iter()
                .filter_map(|(id, trouble)| Some((name(id)?, trouble.error.clone())))
                .collect(),
            missing_tables: self.missing_tables.clone(),
            damaged,
            lost_mappings,
        }
    }

    /// How long ago it was opened.
    pub fn uptime(&self) -> Duration {
        self.opened.elapsed()
    }
}
