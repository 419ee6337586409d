//! Runs the long versions of the tests that attack the promises, within a budget of time, and says in figures what they
//! covered.
//!
//! Each test of the list gets its share of the time that is left, in a process of its own, one after the other: each
//! uses all cores. What a test prints is kept in `target/attack/`, and shown if it fails.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;

/// A test that has a long version.
struct Attack {
    program: &'static str,
    test: &'static str,
    /// Its part of the time, compared with the others'.
    share: u32,
    /// How many sweeps it makes one after the other, each of which takes `TERRACE_TEST_SECONDS`.
    sweeps: u32,
}

const fn attack(program: &'static str, test: &'static str, share: u32, sweeps: u32) -> Attack {
    Attack { program, test, share, sweeps }
}

const ATTACKS: &[Attack] = &[
    attack("crash", "one_writer", 8, 1),
    attack("crash", "compressed_and_retired_early", 4, 1),
    attack("crash", "a_manifest_that_grows", 3, 1),
    attack("real_crashes", "a_signal_at_any_system_call", 8, 1),
    attack("real_crashes", "a_kill_in_the_middle_of_everything", 5, 1),
    attack("real_crashes", "a_power_cut_on_ext4", 2, 1),
    attack("real_crashes", "a_power_cut_on_xfs", 2, 1),
    attack("error_sweep", "every_call_fails_in_every_way", 4, 1),
    attack("checkpoint", "a_checkpoint_is_the_database_at_one_moment", 2, 1),
    attack("checkpoint_faults", "a_checkpoint_fails_without_a_trace", 3, 1),
    attack("backup", "a_backup_is_the_database_at_one_moment", 2, 1),
    attack("backup", "a_stream_that_is_cut_off_anywhere_is_refused", 1, 1),
    attack("backup", "every_changed_byte_of_a_stream_is_found", 2, 1),
    attack("backup", "every_changed_byte_of_a_directory_is_found", 2, 1),
    attack("backup_faults", "a_backup_fails_without_a_trace", 3, 1),
    attack("real_faults", "a_full_disk_under_load_loses_nothing", 1, 1),
    attack("sigbus", "a_file_that_is_cut_while_it_is_read_gives_errors_and_no_wrong_answers", 2, 1),
    attack("damage", "every_flipped_bit_of_a_table_is_noticed", 6, 3),
    attack("damage", "every_cut_of_a_table_is_noticed", 1, 3),
    attack("damage", "pieces_of_a_table_in_the_wrong_place_are_noticed", 1, 3),
    attack("damage", "flipped_bits_in_tables_of_a_database_are_errors_of_their_keys", 2, 1),
    attack("damage", "every_flipped_bit_of_a_log_is_right_or_an_error", 4, 1),
    attack("damage", "every_cut_of_a_log_is_an_error", 1, 1),
    attack("damage", "pieces_of_a_log_in_the_wrong_place_are_right_or_an_error", 1, 1),
    attack("damage", "every_flipped_bit_of_a_manifest_is_right_or_an_error", 2, 2),
    attack("damage", "every_cut_of_a_manifest_is_right_or_an_error", 1, 2),
    attack("damage", "pieces_of_a_manifest_in_the_wrong_place_are_right_or_an_error", 1, 2),
    attack("forged", "forged_tables_are_read_or_refused", 3, 2),
    attack("forged", "forged_logs_are_read_or_refused", 1, 1),
    attack("forged", "forged_batches_are_replayed_or_refused", 1, 1),
    attack("forged", "forged_manifests_are_read_or_refused", 1, 1),
    attack("corpus", "every_target_takes_changed_inputs", 4, 10),
    attack("repair", "every_damage_is_found_with_file_and_place", 1, 1),
    attack("repair", "a_manifest_that_is_cut_or_flipped_anywhere_is_survived", 1, 1),
    attack("repair", "flipped_cut_and_missing_tables_cost_what_they_held", 1, 1),
    attack("repair", "a_damaged_log_is_read_to_its_hole_or_past_it", 1, 1),
    attack("processes", "readers_follow_a_writer", 2, 1),
    attack("model", "all_options_answer_alike", 8, 1),
    attack("linearizability", "one_order_explains_what_all_have_seen", 3, 1),
    attack("concurrency", "everything_at_once_on_disk", 1, 1),
    attack("concurrency", "everything_at_once_in_memory", 1, 1),
    attack("concurrency", "a_crash_among_writers_keeps_a_prefix_of_each", 1, 1),
];

/// Runs the long versions of Terrace's tests within a budget of time, and says what they covered.
#[derive(Parser)]
struct Arguments {
    /// The time for all of them together, building excepted.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Only tests whose program or name contains this.
    #[arg(long, default_value = "")]
    only: String,
}

/// What came of one of them.
struct Outcome {
    passed: bool,
    took: Duration,
    /// What it said that it covered, or skipped.
    lines: Vec<String>,
    log: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let chosen: Vec<&Attack> = ATTACKS
        .iter()
        .filter(|attack| format!("{} {}", attack.program, attack.test).contains(&arguments.only))
        .collect();
    if chosen.is_empty() {
        eprintln!("no test's program or name contains {:?}", arguments.only);
        return ExitCode::from(2);
    }
    if !cargo_test(&chosen, &["--no-run"]).status().is_ok_and(|status| status.success()) {
        eprintln!("the tests cannot be built");
        return ExitCode::FAILURE;
    }
    let logs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/attack");
    std::fs::create_dir_all(&logs).expect("the target directory can be written to");
    let started = Instant::now();
    let budget = Duration::from_secs(60 * arguments.minutes);
    let mut failed = Vec::new();
    for (index, attack) in chosen.iter().enumerate() {
        let shares: u32 = chosen[index..].iter().map(|attack| attack.share).sum();
        let time = budget.saturating_sub(started.elapsed()) * attack.share / shares;
        println!("{}::{}, {} s", attack.program, attack.test, time.as_secs());
        let outcome = run(attack, time, &logs);
        outcome.lines.iter().for_each(|line| println!("    {line}"));
        if !outcome.passed {
            println!("    FAILED after {:.0} s: {}", outcome.took.as_secs_f64(), outcome.log.display());
            failed.push(format!("{}::{}", attack.program, attack.test));
        }
    }
    println!("{} tests in {:.0} s, {} failed", chosen.len(), started.elapsed().as_secs_f64(), failed.len());
    for name in &failed {
        println!("    {name}");
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// `cargo test` of the programs of these tests.
fn cargo_test(attacks: &[&Attack], arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "-q", "-p", "terrace-tests"]);
    let mut programs: Vec<&str> = attacks.iter().map(|attack| attack.program).collect();
    programs.dedup();
    programs.iter().for_each(|program| {
        command.args(["--test", program]);
    });
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// Runs one test. It has passed if it was run at all and did not fail.
fn run(attack: &Attack, time: Duration, logs: &Path) -> Outcome {
    let seconds = (time / attack.sweeps).as_secs().max(1);
    let started = Instant::now();
    let output = cargo_test(&[attack], &["--", "--exact", attack.test, "--nocapture"])
        .env("TERRACE_TEST_SECONDS", seconds.to_string())
        .output()
        .expect("cargo could be run before");
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    let _ = write!(said, "{}", String::from_utf8_lossy(&output.stderr));
    let log = logs.join(format!("{}-{}.log", attack.program, attack.test));
    std::fs::write(&log, &said).expect("the target directory can be written to");
    let passed = output.status.success() && said.contains("1 passed");
    // The harness may have begun a line of its own.
    let lines = said.lines().filter_map(|line| {
        let start = line.find("covered: ").map(|at| at + "covered: ".len());
        let start = start.or_else(|| line.contains("skipped").then_some(0))?;
        Some(line[start..].to_owned())
    });
    Outcome { passed, took: started.elapsed(), lines: lines.collect(), log }
}
