//! A whole run: rounds in which the engines take turns, each time in a process of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime};

use terrace_benches::{KEY_BYTES, MemoryLimit, VALUE_BYTES, forget_pages};
use terrace_tools::calendar;
use terrace_tools::environment::{Environment, FileSystemKind};

use crate::child::Child;
use crate::engine::Result;
use crate::engines::EngineName;
use crate::results::{Arguments, EngineSettings, Entry, Results, Told};
use crate::rows::{Row, sessions};

/// What is run, and where.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What to measure.
    pub arguments: Arguments,
    /// The directory of all databases.
    pub dir: PathBuf,
    /// The file for the results; it is written after each process.
    pub output: PathBuf,
}

/// Runs a plan. `say` is told what is being done. What fails is noted in the results, and the rest goes on.
///
/// # Errors
/// If the results cannot be written or no process can be started.
pub fn run(plan: &Plan, mut say: impl FnMut(&str)) -> Result<Results> {
    let arguments = &plan.arguments;
    fs::create_dir_all(&plan.dir)?;
    let mut results = Results {
        date: calendar::utc(SystemTime::now()),
        machine: serde_json::to_value(Environment::current())?,
        file_system: serde_json::to_value(FileSystemKind::of(&plan.dir))?,
        arguments: arguments.clone(),
        settings: Vec::new(),
        entries: Vec::new(),
        failures: Vec::new(),
    };
    let mut wanted = arguments.rows.clone();
    if wanted.contains(&Row::Limited)
        && let Err(why) = MemoryLimit::new(arguments.memory_mib << 20)
    {
        say(&format!("limited is left out: no memory limit can be set here: {why}"));
        wanted.retain(|row| *row != Row::Limited);
    }
    for round in 1..=arguments.rounds {
        for (_, rows) in sessions(&wanted) {
            for &engine in &arguments.engines {
                let rows: Vec<Row> = rows.iter().copied().filter(|row| row.admits(engine)).collect();
                if rows.is_empty() {
                    continue;
                }
                let names: Vec<String> = rows.iter().map(|row| row.name()).collect();
                let names = names.join(", ");
                let began = Instant::now();
                match measure(plan, engine, rows) {
                    Ok(told) => {
                        results.add(engine, round, told);
                        let seconds = began.elapsed().as_secs_f64();
                        let (engine, rounds) = (engine.name(), arguments.rounds);
                        say(&format!("round {round} of {rounds}, {engine}: {names} in {seconds:.1} s"));
                    }
                    Err(error) => {
                        let failure = format!("round {round}, {}, {names}: {error}", engine.name());
                        say(&failure);
                        results.failures.push(failure);
                    }
                }
                fs::write(&plan.output, serde_json::to_vec_pretty(&results)?)?;
            }
        }
    }
    Ok(results)
}

/// Has a process load what it needs, and another one measure.
fn measure(plan: &Plan, engine: EngineName, rows: Vec<Row>) -> Result<Told> {
    let is_limited = rows.contains(&Row::Limited);
    let child = Child {
        engine,
        rows,
        prepare: true,
        dir: plan.dir.join(engine.name()),
        records: plan.arguments.records,
        seconds: plan.arguments.seconds,
        write_seconds: plan.arguments.write_seconds,
        group: None,
        memory_bytes: None,
    };
    let program = std::env::current_exe()?;
    start(&program, &child)?;
    let child = Child { prepare: false, ..child };
    if !is_limited {
        return start(&program, &child);
    }
    let bytes = plan.arguments.memory_mib << 20;
    let limit = MemoryLimit::new(bytes).map_err(|why| format!("no memory limit can be set here: {why}"))?;
    // What is in memory already was charged to somebody else.
    forget_pages(&child.dir)?;
    let child = Child { group: Some(limit.dir().to_owned()), memory_bytes: Some(bytes), ..child };
    start(&program, &child).map_err(|error| match limit.kills() {
        Some(kills @ 1..) => format!("{error}; killed {kills} times for want of memory").into(),
        _ => error,
    })
}

fn start(program: &Path, child: &Child) -> Result<Told> {
    let mut command = Command::new(program);
    command.arg("child").args(child.to_arguments()).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("the process ended with {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

impl Results {
    fn add(&mut self, engine: EngineName, round: u32, told: Told) {
        let index = self.settings.iter().position(|known| known.engine == engine).unwrap_or_else(|| {
            self.settings.push(EngineSettings { engine, settings: Vec::new() });
            self.settings.len() - 1
        });
        let known = &mut self.settings[index].settings;
        known.extend(
            told.settings.into_iter().filter(|settings| !known.contains(settings)).collect::<Vec<_>>(),
        );
        let others = told.others;
        let entries = told.measurements.into_iter();
        let entries = entries.map(|measurement| Entry { engine, round, others, measurement });
        self.entries.extend(entries);
    }
}

/// The arguments of a run over records of the usual size.
pub fn arguments(engines: Vec<EngineName>, rows: Vec<Row>, records: u64) -> Arguments {
    Arguments {
        engines,
        rows,
        records,
        key_bytes: KEY_BYTES as u64,
        value_bytes: VALUE_BYTES as u64,
        rounds: 1,
        seconds: 5.0,
        write_seconds: 120.0,
        memory_mib: 128,
    }
}
