//! Progress on standard error while a tool works; nothing if that is no terminal. It disappears when it is dropped.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

/// A bar for something that consists of so many operations.
pub fn bar(name: &str, operations: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg:7}{bar:40} {human_pos} of {human_len}, {per_sec}, {eta} to go")
            .expect("the template is valid");
    ProgressBar::with_draw_target(Some(operations), ProgressDrawTarget::stderr())
        .with_style(style)
        .with_message(name.to_owned())
        .with_finish(ProgressFinish::AndClear)
}

/// Something that turns while nothing can be counted.
pub fn spinner(name: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:7}{spinner} {elapsed}").expect("the template is valid");
    let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
        .with_style(style)
        .with_message(name.to_owned())
        .with_finish(ProgressFinish::AndClear);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// A count of lines, of which nobody knows how many will come.
pub fn lines() -> ProgressBar {
    let style = ProgressStyle::with_template("{human_pos} lines, {per_sec}").expect("the template is valid");
    ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
        .with_style(style)
        .with_finish(ProgressFinish::AndClear)
}
