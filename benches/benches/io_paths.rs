//! The ways to read and write files, each beside the others, and what this machine says about the engine's defaults.
//!
//! `cargo bench -p terrace-benches --bench io_paths` measures all of it in a few minutes; names of groups behind `--`
//! choose, `--help` has the rest. Without `--bench` on its command line, as `cargo test` runs it, it tries everything
//! out on little files.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use terrace_benches::paths::{Group, Outcome, Series, Settings, judge, measure, panels};
use terrace_benches::{plot, scratch_directory};

#[derive(Parser)]
#[command(name = "io_paths", about = "Measures the ways to read and write files on this machine")]
struct Arguments {
    /// Measure only groups whose names begin so.
    groups: Vec<String>,
    /// MiB of the file that is read: more than the processor's caches hold, less than memory.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Milliseconds for each case in each round, at most.
    #[arg(long, default_value_t = 300)]
    milliseconds: u64,
    /// How often everything is measured; figures are medians.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Write a picture of each group into this directory.
    #[arg(long)]
    plots: Option<PathBuf>,
    /// Cargo gives it to benchmarks.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Outcome<()> {
    let arguments = Arguments::parse();
    let directory = scratch_directory()?;
    let settings = match arguments.bench {
        true => Settings {
            dir: directory.path().to_owned(),
            file_bytes: arguments.mib.max(1) << 20,
            time: Duration::from_millis(arguments.milliseconds),
            rounds: arguments.rounds,
        },
        false => Settings {
            dir: directory.path().to_owned(),
            file_bytes: 4 << 20,
            time: Duration::from_millis(1),
            rounds: 1,
        },
    };
    let wanted = |group: &Group| {
        arguments.groups.is_empty() || arguments.groups.iter().any(|name| group.name().starts_with(name))
    };
    let mut all: Vec<Series> = Vec::new();
    for group in Group::ALL.into_iter().filter(wanted) {
        let series = measure(group, &settings)?;
        print(group, &series);
        if let Some(plots) = &arguments.plots {
            fs::create_dir_all(plots)?;
            let path = plots.join(format!("io-paths-{}.svg", group.name()));
            fs::write(path, plot::svg(group.title(), &panels(&series)))?;
        }
        all.extend(series);
    }
    println!("\nThe engine's defaults, and what would be better here (by 15 % or more):");
    for verdict in judge(&all) {
        println!("  {}\n      {}", verdict.default, verdict.measured);
        match verdict.change {
            None => println!("      keep it"),
            Some(change) => println!("      CHANGE: {change}"),
        }
    }
    Ok(())
}

/// A line for each case, a column for each figure, with the least and the most of the rounds behind each.
fn print(group: Group, series: &[Series]) {
    println!("\n{}", group.title());
    let mut cases: Vec<&str> = series.iter().map(|one| &*one.case).collect();
    cases.dedup();
    cases.truncate(series.iter().filter(|one| one.figure == series[0].figure).count());
    for case in cases {
        print!("  {case:<36}");
        for one in series.iter().filter(|one| one.case == case) {
            let least = one.rounds.iter().copied().fold(f64::INFINITY, f64::min);
            let most = one.rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let spread = format!("({} to {})", one.unit.show(least), one.unit.show(most));
            print!("  {:>10} {spread:<24}", one.unit.show(one.median()));
        }
        println!();
    }
}
