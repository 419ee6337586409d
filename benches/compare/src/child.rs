//! The process that measures some rows of one engine: nothing that another engine did to its memory is in its way.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use terrace_benches::MemoryLimit;

use crate::database::Setting;
use crate::engine::Result;
use crate::engines::EngineName;
use crate::results::Told;
use crate::rows::{self, Row};
use crate::usage::Others;

/// What such a process is told on its command line.
#[derive(Debug, Clone, Args)]
pub struct Child {
    /// The engine.
    #[arg(long)]
    pub engine: EngineName,
    /// The rows.
    #[arg(long, value_delimiter = ',')]
    pub rows: Vec<Row>,
    /// Only load the databases that the rows need.
    #[arg(long)]
    pub prepare: bool,
    /// The directory of this engine's databases.
    #[arg(long)]
    pub dir: PathBuf,
    /// Records in a database.
    #[arg(long)]
    pub records: u64,
    /// How long a timed row takes.
    #[arg(long)]
    pub seconds: f64,
    /// How long a row that writes everything may take.
    #[arg(long)]
    pub write_seconds: f64,
    /// The control group to move to before anything is measured.
    #[arg(long)]
    pub group: Option<PathBuf>,
    /// The memory that it allows, in bytes.
    #[arg(long)]
    pub memory_bytes: Option<u64>,
}

impl Child {
    /// The command line that says the same.
    pub fn to_arguments(&self) -> Vec<String> {
        let rows: Vec<String> = self.rows.iter().map(|row| row.name()).collect();
        let pairs = [
            ("--engine", self.engine.name().to_owned()),
            ("--rows", rows.join(",")),
            ("--dir", self.dir.display().to_string()),
            ("--records", self.records.to_string()),
            ("--seconds", self.seconds.to_string()),
            ("--write-seconds", self.write_seconds.to_string()),
        ];
        let pairs = pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        let group = self.group.as_ref().map(|group| ["--group".to_owned(), group.display().to_string()]);
        let memory = self.memory_bytes.map(|bytes| ["--memory-bytes".to_owned(), bytes.to_string()]);
        let prepare = self.prepare.then(|| "--prepare".to_owned());
        pairs.chain(group.into_iter().flatten()).chain(memory.into_iter().flatten()).chain(prepare).collect()
    }

    /// Does it.
    pub fn run(&self) -> Result<Told> {
        let setting = Setting {
            engine: self.engine,
            dir: self.dir.clone(),
            records: self.records,
            seconds: Duration::from_secs_f64(self.seconds),
            write_seconds: Duration::from_secs_f64(self.write_seconds),
            memory_bytes: self.memory_bytes,
        };
        if let Some(group) = &self.group {
            MemoryLimit::enter(group)?;
        }
        std::fs::create_dir_all(&setting.dir)?;
        if !self.prepare {
            let others = Others::watch();
            let told = rows::measure(&setting, &self.rows)?;
            return Ok(Told { others: others.share(), ..told });
        }
        for (session, _) in rows::sessions(&self.rows) {
            if let Some(kept) = session.needs() {
                setting.prepare(kept)?;
            }
        }
        Ok(Told::default())
    }
}
