//! `terrace doctor`: what on this machine matters to a database, and what to change.

use std::io::Write;

use serde_json::{Value, json};
use terrace_io::machine::Root;
use terrace_tools::doctor::{Answers, Facts, Finding, State, judge};
use terrace_tools::tool::{self, Failure, Result};

use crate::arguments::{Doctor, OutputFormat};

/// There are warnings.
const WARNINGS: u8 = 1;

/// Where lines of text end.
const LINE_CHARS: usize = 100;

/// Looks at the machine and prints what was found.
pub fn doctor(arguments: &Doctor) -> Result {
    let answers =
        Answers::about(&arguments.dir).map_err(|error| Failure::file("look at", &arguments.dir, &error))?;
    let facts = Facts::gather(&Root::system(), answers);
    let findings = judge(&facts);
    let warnings = count(&findings, State::Warn);
    let printed = print(arguments.format, &facts, &findings, warnings == 0);
    // It stands also if nobody reads to the end.
    match warnings {
        0 => printed,
        1 => Err(Failure::Code(WARNINGS, "there is a warning".to_owned())),
        warnings => Err(Failure::Code(WARNINGS, format!("there are {warnings} warnings"))),
    }
}

fn count(findings: &[Finding], state: State) -> usize {
    findings.iter().filter(|finding| finding.state == state).count()
}

fn print(format: OutputFormat, facts: &Facts, findings: &[Finding], is_ok: bool) -> Result {
    let mut out = tool::output();
    match format {
        OutputFormat::Json => tool::write_json(&mut out, &as_json(facts, findings, is_ok), true)?,
        OutputFormat::Text => write_text(&mut out, findings)?,
    }
    Ok(out.flush()?)
}

/// A paragraph for each finding: state, name, what was found and why it matters, and a line for what to do.
fn write_text(out: &mut dyn Write, findings: &[Finding]) -> Result {
    let state_chars = State::Unknown.as_str().len();
    let name_chars = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let indent = state_chars + name_chars + 4;
    for Finding { state, name, found, why, to_do } in findings {
        let lines = wrapped(&format!("{found} - {why}"), LINE_CHARS - indent);
        for (index, line) in lines.iter().enumerate() {
            match index {
                0 => writeln!(out, "{state:<state_chars$}  {name:<name_chars$}  {line}")?,
                _ => writeln!(out, "{:indent$}{line}", "")?,
            }
        }
        // A command stays in one piece.
        if !to_do.is_empty() {
            writeln!(out, "{:indent$}to do: {to_do}", "")?;
        }
    }
    let counts = [State::Warn, State::Note, State::Unknown, State::Ok]
        .map(|state| format!("{} {state}", count(findings, state)));
    writeln!(out, "{}", counts.join(", "))?;
    Ok(())
}

/// The words of a text in lines of at most so many characters, but for words that are longer.
fn wrapped(text: &str, chars: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is a first line, and none is taken away");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= chars {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

fn as_json(facts: &Facts, findings: &[Finding], is_ok: bool) -> Value {
    let objects = findings.iter().map(|finding| {
        json!({
            "state": finding.state.as_str(),
            "name": finding.name,
            "found": finding.found,
            "why": finding.why,
            "to_do": finding.to_do,
        })
    });
    json!({
        "ok": is_ok,
        "dir": facts.answers.dir.to_string_lossy(),
        "findings": objects.collect::<Vec<Value>>(),
    })
}
