//! A file system of its own, in a file, on a loop device. Needs root, and a machine that has loop devices.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A file system in a file. It is unmounted when this goes.
#[derive(Debug)]
pub struct LoopMount {
    /// The file.
    pub image: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
}

impl LoopMount {
    /// Makes a file system of a kind (`ext4` or `xfs`) below a directory and mounts it, or says why not.
    pub fn new(directory: &Path, kind: &str) -> Result<LoopMount, String> {
        let mount = LoopMount { image: directory.join("image"), point: directory.join("mounted") };
        std::fs::create_dir(&mount.point).map_err(|error| error.to_string())?;
        let image = File::create(&mount.image).and_then(|file| file.set_len(400 << 20));
        image.map_err(|error| error.to_string())?;
        let make = if kind == "xfs" { ["mkfs.xfs", "-q"] } else { ["mkfs.ext4", "-qF"] };
        run(Command::new(make[0]).arg(make[1]).arg(&mount.image))?;
        mount.mount()?;
        Ok(mount)
    }

    /// Mounts it again.
    pub fn mount(&self) -> Result<(), String> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.point))
    }

    /// Unmounts it.
    pub fn unmount(&self) -> Result<(), String> {
        run(Command::new("umount").arg(&self.point))
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.point).output();
    }
}

/// Runs a command, or says why it failed.
pub fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(Output { status, .. }) if status.success() => Ok(()),
        Ok(Output { stderr, .. }) => Err(format!("{command:?}: {}", String::from_utf8_lossy(&stderr).trim())),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}
