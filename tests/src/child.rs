//! Runs a test once more, in a process of its own, perhaps below a launcher that changes what the system does to it.
//! The test begins with [`is_child`] and ends at once if that says yes.

use std::path::Path;
use std::process::Command;

/// Runs the test `test` once more, below a launcher if one is given, and gives back what its task has said. What begins
/// with `cannot launch` is not of the task: the machine does not allow the launcher.
///
/// # Panics
///
/// If the task has begun and has not come to its end.
pub fn child(test: &str, path: &Path, task: &str, launcher: &[&str]) -> String {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return format!("cannot launch: {error}"),
    };
    let mut command = match launcher.split_first() {
        None => Command::new(&program),
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(&program);
            command
        }
    };
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    let output = command.env("TERRACE_CHILD_TASK", task).env("TERRACE_CHILD_PATH", path).output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return format!("cannot launch: {error}"),
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    if let Some((_, said)) = text.lines().find_map(|line| line.split_once("child says: ")) {
        return said.to_owned();
    }
    assert!(!text.contains("child starts"), "the child of {test} has failed: {text}{errors}");
    assert!(!output.status.success(), "there is no test {test} to be the child: {text}{errors}");
    format!("cannot launch: {errors}{text}")
}

/// [`child`], after a script, in which `$0` is the mount point, in a mount namespace of its own.
pub fn namespaced_child(test: &str, path: &Path, mount_point: &Path, task: &str, script: &str) -> String {
    let script = format!("{script} && exec \"$@\"");
    child(test, path, task, &["unshare", "-m", "sh", "-c", &script, &mount_point.to_string_lossy()])
}

/// Whether this is a process that [`child`] has started: then the task, with its path, has been done.
pub fn is_child(perform: impl FnOnce(&str, &Path) -> String) -> bool {
    let (Ok(task), Ok(path)) = (std::env::var("TERRACE_CHILD_TASK"), std::env::var("TERRACE_CHILD_PATH"))
    else {
        return false;
    };
    println!("\nchild starts");
    let said = perform(&task, Path::new(&path));
    println!("\nchild says: {said}");
    true
}
