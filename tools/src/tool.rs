//! The manners of a command line: errors on standard error under the tool's name, exit codes, a quiet end when
//! whoever reads the output has gone.
//!
//! Exit codes: 0 if all is well, 1 if what was asked for was not found or damage was found, 2 for wrong usage or a
//! failure. Arguments that clap refuses end with 2 too. A command that has more to say with its exit code says so in
//! its help.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use tracing_subscriber::fmt::format::FmtSpan;

/// Why a tool ends early.
#[derive(Debug)]
pub enum Failure {
    /// What was asked for is not there, or what was checked is damaged: exit code 1.
    Negative(String),
    /// Anything else: exit code 2.
    Error(String),
    /// What the command gives an exit code of its own.
    Code(u8, String),
    /// Standard output cannot be written. If its reader went away that is no error, and nothing is said.
    Output(io::Error),
}

/// What a tool's parts return. An [`io::Error`] that is passed on with `?` is one of standard output.
pub type Result<T = (), E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure with a message.
    pub fn error(message: impl Into<String>) -> Self {
        Failure::Error(message.into())
    }

    /// A file that cannot be opened, read or written.
    pub fn file(doing: &str, path: &Path, error: &io::Error) -> Self {
        Failure::Error(format!("cannot {doing} {}: {error}", path.display()))
    }
}

impl From<terrace_io::Error> for Failure {
    fn from(error: terrace_io::Error) -> Self {
        Failure::Error(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Output(error)
    }
}

/// Runs a tool, with mappings guarded, and says on standard error why it failed, if it did.
pub fn run(name: &str, body: impl FnOnce() -> Result) -> ExitCode {
    // A page that cannot be read is an error of the command, not its end. Where there is no such guard, nothing changes.
    let _ = terrace::sigbus::install();
    let (message, code) = match body() {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
        Err(Failure::Output(error)) => (format!("cannot write to standard output: {error}"), 2),
        Err(Failure::Error(message)) => (message, 2),
        Err(Failure::Code(code, message)) => (message, code),
        Err(Failure::Negative(message)) => (message, 1),
    };
    say(name, &message);
    ExitCode::from(code)
}

/// Reads the arguments of a tool. If they are wrong, or help is asked for, it is printed and the process ends.
pub fn parse_arguments<Arguments: clap::Parser>(name: &str) -> Arguments {
    let error = match Arguments::try_parse() {
        Ok(arguments) => return arguments,
        Err(error) => error,
    };
    let text = error.render().to_string();
    match text.strip_prefix("error: ") {
        Some(message) => {
            say(name, message.trim_end());
            std::process::exit(error.exit_code())
        }
        // Help, or the version: clap knows where it goes.
        None => error.exit(),
    }
}

/// Says something on standard error under the tool's name, if anybody listens.
pub fn say(name: &str, message: &str) {
    let _ = writeln!(io::stderr().lock(), "{name}: {message}");
}

/// Standard output, buffered. Flush it at the end: what is left when it is dropped is lost if writing fails.
pub fn output() -> BufWriter<io::StdoutLock<'static>> {
    BufWriter::with_capacity(64 * 1024, io::stdout().lock())
}

/// Writes a JSON value and a newline.
pub fn write_json(out: &mut dyn Write, value: &impl serde::Serialize, pretty: bool) -> Result {
    let written = if pretty {
        serde_json::to_writer_pretty(&mut *out, value)
    } else {
        serde_json::to_writer(&mut *out, value)
    };
    written.map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(())
}

/// Sends what the engine has to say to standard error: its warnings, with `verbose` what it does, with more how.
pub fn install_log(verbose: u8) {
    let level = match verbose {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        2 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        // A flush or a compaction is a span: one line once it is over, with the time that it took.
        .with_span_events(FmtSpan::CLOSE)
        .finish();
    // Only the first call of a process counts; a later one finds the log installed, which is what it wants.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// The bytes of a command-line argument: exactly what the shell passed, where the platform allows it.
pub fn argument_bytes(argument: &std::ffi::OsStr) -> &[u8] {
    argument.as_encoded_bytes()
}
